from __future__ import annotations

from pathlib import Path

import pytest

from sim_microscope.layout import lay_out
from sim_microscope.scenario import Scenario, ScenarioError, load_scenario, shipped_scenarios


@pytest.mark.parametrize("name", shipped_scenarios())
def test_every_shipped_scenario_loads_and_can_be_laid_out(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.description
    for seed in range(3):
        assert lay_out(scenario, seed)


def test_what_was_promised_is_shipped() -> None:
    promised = {"easy", "typical", "hostile", "uio-66", "zif-8", "mfi", "nu-1000", "srtio3"}
    assert promised <= set(shipped_scenarios())


def test_an_empty_scenario_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{}")
    assert load_scenario(path) == Scenario(name="mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("specimen: {colour: red}", "specimen.colour: unknown key; the keys here are field_um"),
        ("energy_keV: -5", "energy_keV (it is -5): Input should be greater than"),
        ("stage: {x: {low: 3, high: -3, speed_per_s: 1}}", "low = 3 is not below high = -3"),
        ("specimen: {crystals: [{role: sleepy}]}", "specimen.crystals.0.role (it is 'sleepy')"),
        ("specimen: {crystals: [{zones: [[0, 0, 0]]}]}", "is no direction; remove it"),
        ("specimen: {crystals: [{width_nm: [900, 200]}]}", "write the smaller number first"),
        ("beam: {max_current_pA: .inf}", "beam.max_current_pA (it is inf)"),
        ("[1, 2]", "a scenario is a mapping of keys"),
        ("a: [1", "not valid YAML"),
    ],
)
def test_a_mistake_is_answered_with_key_value_and_remedy(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as error:
        load_scenario(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ScenarioError, match=r"no scenario is called 'typicle'; there are .*easy"):
        load_scenario("typicle")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"there is no scenario file nowhere\.yaml"):
        load_scenario("nowhere.yaml")


def test_an_unknown_structure_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("specimen: {crystals: [{structure: UiO-99}]}")
    with pytest.raises(ScenarioError, match=r"specimen\.crystals\.0\.structure: .*'UiO-99'"):
        lay_out(load_scenario(path), 0)


def test_a_field_without_room_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("specimen: {field_um: 2, crystals: [{count: 60}]}")
    with pytest.raises(ScenarioError, match="no room left for a crystal of radius"):
        lay_out(load_scenario(path), 0)


def test_a_cif_beside_the_scenario_is_found(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "sim_microscope" / "structures" / "SrTiO3.cif"
    (tmp_path / "own.cif").write_text(shipped.read_text())
    path = tmp_path / "mine.yaml"
    path.write_text("specimen: {crystals: [{structure: own.cif, count: 1}]}")
    assert lay_out(load_scenario(path), 0)[0].structure.name == "own"


def test_a_holder_that_tilts_beyond_90_degrees_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stage: {alpha: {low: -25, high: 200, speed_per_s: 2}}")
    with pytest.raises(ScenarioError, match=r"alpha from -25 to 200 deg.*holder"):
        load_scenario(str(path))
