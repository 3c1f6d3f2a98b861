"""Plans that are refused say key, value, limit and remedy; those that are read, what they mean."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.plan.demo import demo_plan, demo_text
from controller.plan.materials import load_material, material_names
from controller.plan.run import PlanError, RunPlan

BASE = {"sample": {"material": "UiO-66"}}


def read(**changes: Any) -> RunPlan:
    return RunPlan.from_mapping(BASE | changes, base=Path(), source="night.yaml")


def test_the_demo_plan_is_valid_yaml_with_comments() -> None:
    assert "#" in demo_text()
    assert demo_plan(seed=7).instrument.options == {"scenario": "typical", "seed": 7}


@pytest.mark.parametrize("name", material_names())
def test_every_material_has_a_structure_that_exists(name: str) -> None:
    material = load_material(name)
    assert material.structure.is_file()
    assert material.source


def test_the_library_fills_in_what_the_plan_leaves_out() -> None:
    plan = read()
    assert plan.sample.critical_dose_e_per_A2 == 256
    assert plan.budget.specimen_e_per_A2 == pytest.approx(0.9 * 256)
    assert (0, 0, 1) in plan.sample.target_zones


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scan": {"stp_A": 1.0}}, ["scan.stp_A", "unknown key", "config schema"]),
        ({"scan": {"fluence_e_per_A2": -5}}, ["scan.fluence_e_per_A2", "greater than 0", "-5"]),
        (
            {"alignment": {"budget_e_per_A2": float("nan")}},
            ["alignment.budget_e_per_A2", "nan", "20", "correct the value"],
        ),
        ({"limits": {"alpha_deg": [-120, 120]}}, ["alpha_deg", "120", "90", "holder's range"]),
        ({"limits": {"alpha_deg": [5, -5]}}, ["alpha_deg", "empty"]),
        (
            {"alignment": {"tolerance_deg": 0.2, "acceptable_deg": 0.1}},
            ["acceptable_deg = 0.1", "tighter", "0.2"],
        ),
        ({"sample": {"material": "unobtainium"}}, ["unobtainium", "UiO-66", "structure"]),
        (
            {"sample": {"material": "UiO-66", "target_zones": [[0, 0, 0]]}},
            ["[0, 0, 0]", "no direction"],
        ),
    ],
)
def test_nonsense_is_refused_with_key_value_limit_and_remedy(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(PlanError) as refused:
        read(**changes)
    for word in ["night.yaml", *words]:
        assert word in str(refused.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(PlanError) as refused:
        read(scan={"fluence_e_per_A2": -1, "stp": 2}, budget={"time_h": 0})
    assert len(str(refused.value).splitlines()) == 3


def test_a_file_that_is_no_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("[1, 2]")
    with pytest.raises(PlanError, match="a plan is a mapping"):
        RunPlan.from_yaml(path)
    path.write_text("a: [")
    with pytest.raises(PlanError, match="not YAML"):
        RunPlan.from_yaml(path)
    with pytest.raises(PlanError, match="cannot be read"):
        RunPlan.from_yaml(tmp_path / "missing.yaml")


def test_a_structure_of_ones_own_needs_zones_and_a_critical_dose(tmp_path: Path) -> None:
    cif = tmp_path / "mine.cif"
    cif.write_text(load_material("ZIF-8").structure.read_text())
    path = tmp_path / "p.yaml"
    sample: dict[str, Any] = {"material": "mine", "structure": "mine.cif"}
    path.write_text(yaml.safe_dump({"sample": sample}))
    with pytest.raises(PlanError, match="target_zones is missing"):
        RunPlan.from_yaml(path)
    sample |= {"target_zones": [[0, 0, 1]], "critical_dose_e_per_A2": 30}
    path.write_text(yaml.safe_dump({"sample": sample}))
    assert RunPlan.from_yaml(path).structure_path == cif


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    assert read().fingerprint() == read().fingerprint()
    assert read().fingerprint() != read(seed=2).fingerprint()
