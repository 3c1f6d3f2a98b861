"""The site file: what it refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from controller.backends.deflection import Deflection
from controller.backends.readings import column_health
from controller.backends.site import Deflector, Site, SiteError, load_site
from controller.hardware.errors import LimitError, ModeError, UnsupportedError
from controller.hardware.values import Condition, Mode, OpticsChange
from tests.strategies import numbers

EXAMPLE = Path(__file__).parents[2] / "peers" / "temscript_null.yaml"


def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return loaded


def written(folder: Path, changed: dict[str, Any]) -> Path:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(changed))
    return path


def test_a_complete_file_is_read() -> None:
    assert load_site(EXAMPLE).holder.id == "null-holder"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("energy_kV", 200, "energy_kV: Extra inputs"),
        ("pole_piece_gap_mm", -1, "pole_piece_gap_mm: Input should be greater than 0"),
        ("attested", ["moon_phase"], "moon_phase is no interlock; there are valve_open"),
        ("stage_signs", {"x_um": 1}, "stage_signs lacks alpha_deg, beta_deg, y_um, z_um"),
        ("stage_signs", {"x_um": 0}, "stage_signs.x_um: Input should be -1 or 1"),
        ("detectors", [], "detectors: Tuple should have at least 1 item"),
        ("max_current_pA", 10, "an illumination of 50 pA is above max_current_pA = 10 pA"),
        ("holder", {"id": "h", "limits": {"alpha_deg": [5, -5]}}, "alpha_deg: 5 .. -5 is empty"),
        ("deflectors", {"gun": {}}, "deflectors.gun"),
        (
            "projections",
            [{"mode": "image", "index": 3, "detector_sampling_mrad": 1.0}],
            "a projection of mode image has pixel_size_nm and no detector_sampling_mrad",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tmp_path: Path, key: str, value: object, says: str
) -> None:
    with pytest.raises(SiteError, match=r"site.yaml cannot be used") as e:
        load_site(written(tmp_path, content() | {key: value}))
    assert says in str(e.value)


def test_a_file_that_is_not_there_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"cannot be read.*docs/drivers.md"):
        load_site(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("{")
    with pytest.raises(SiteError, match="cannot be read"):
        load_site(tmp_path / "bad.yaml")


def test_what_nobody_reads_is_unknown_unless_the_site_vouches_for_it() -> None:
    site = load_site(EXAMPLE)
    health = column_health(site, {"valve_open": False, "vacuum_ready": True}, holder_id="h")
    assert health.valve_open.condition is Condition.BAD
    assert health.vacuum_ready.condition is Condition.GOOD
    assert health.gun_on.condition is Condition.GOOD
    assert "attested" in health.gun_on.detail
    assert health.screen_up.condition is Condition.UNKNOWN


def test_what_is_read_counts_more_than_what_is_attested() -> None:
    health = column_health(load_site(EXAMPLE), {"gun_on": False}, holder_id="h")
    assert health.gun_on.condition is Condition.BAD


def test_only_calibrated_illuminations_can_be_asked_for() -> None:
    site = load_site(EXAMPLE)
    row = site.illumination_for(OpticsChange(beam_diameter_nm=5010), Mode.IMAGE)
    assert row is not None
    assert row.spot == 3
    assert site.illumination_for(OpticsChange(defocus_nm=1), Mode.IMAGE) is None
    with pytest.raises(LimitError, match=r"beam_diameter_nm = 5000 is no calibrated.*2000 nm"):
        site.illumination_for(OpticsChange(beam_diameter_nm=5000), Mode.DIFFRACTION)
    with pytest.raises(LimitError, match="none for this mode"):
        site.illumination_for(OpticsChange(probe_current_pA=1), Mode.STEM)


def site_deflector(whole: bool) -> Deflector:
    return Deflector(
        matrix=((3.0, 1.5), (-1.0, 2.0)), neutral=(32768, 32000), raw=(0, 65535), whole=whole
    )


@given(x=numbers(-2e4, 2e4), y=numbers(-2e4, 2e4))
def test_a_deflector_comes_back_to_half_a_count(x: float, y: float) -> None:
    exact, whole = site_deflector(False), site_deflector(True)
    assert exact.value(exact.raw_for((x, y))) == pytest.approx((x, y), abs=1e-6)
    counts = whole.raw_for((x, y))
    assert all(count.is_integer() for count in counts)
    assert whole.value(counts) == pytest.approx((x, y), abs=0.5 * (3 + 1.5))


def test_a_deflector_is_never_sent_beyond_its_range() -> None:
    with pytest.raises(LimitError, match=r"outside 0 .. 65535 of the deflector; nothing was"):
        site_deflector(True).raw_for((1e6, 0.0))


def test_a_matrix_without_an_inverse_is_refused() -> None:
    with pytest.raises(ValueError, match="no inverse"):
        Deflector(matrix=((1, 2), (2, 4)), neutral=(0, 0), raw=(0, 1), whole=False)


def test_a_deflector_without_calibration_may_stand_anywhere_but_not_move() -> None:
    at = [(5.0, 7.0)]
    coils = Deflection("beam_shift_nm", None, lambda: at[0], lambda raw: at.append(raw))
    assert coils.get() == (0.0, 0.0)
    with pytest.raises(UnsupportedError, match="not calibrated"):
        coils.set((1.0, 1.0))
    at[0] = (5.0, 8.0)
    with pytest.raises(ModeError, match="where the beam lands is not known"):
        coils.get()
    assert len(at) == 1


def test_the_example_is_what_the_model_says(tmp_path: Path) -> None:
    site = load_site(EXAMPLE)
    assert Site.model_validate(site.model_dump()) == site
