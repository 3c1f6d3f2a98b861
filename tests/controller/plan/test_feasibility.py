"""What an instrument cannot do is found before anything moves, all at once."""

from pathlib import Path
from typing import Any

import pytest

from controller.hardware.values import (
    Axis,
    AxisInfo,
    BlankInfo,
    Capabilities,
    DetectorInfo,
    Mode,
    ScanInfo,
    StageLimits,
)
from controller.plan.budget import Budget
from controller.plan.feasibility import problems
from controller.plan.run import RunPlan


def instrument(**changes: Any) -> Capabilities:
    axis = AxisInfo(low=-1000, high=1000, speed_per_s=1, repeatability=0.01)
    tilt = AxisInfo(low=-25, high=25, speed_per_s=1, repeatability=0.01)
    given = {
        "vendor": "v", "model": "m", "api": "a", "adapter_version": "0", "simulated": True,
        "axes": {a: tilt if a in (Axis.ALPHA, Axis.BETA) else axis for a in Axis},
        "blank": BlankInfo(latency_s=0, readable=True, independent=True, kind="electrostatic"),
        "current_from": "gun", "max_current_pA": 100,
        "detectors": (
            DetectorInfo(name="cam", shape=(512, 512), kind="integrating", modes={Mode.IMAGE}),
            DetectorInfo(name="dp", shape=(256, 256), kind="counting", modes={Mode.DIFFRACTION}),
            DetectorInfo(
                name="4d", shape=(64, 64), kind="counting", modes={Mode.STEM}, can_scan=True
            ),
        ),
        "scan": ScanInfo(max_shape=(256, 256), min_dwell_s=1e-4), "modes": frozenset(Mode),
    }  # fmt: skip
    return Capabilities.model_validate(given | changes)


def limits(capabilities: Capabilities) -> StageLimits:
    return StageLimits(ranges={a: (i.low, i.high) for a, i in capabilities.axes.items()})


def plan(**changes: Any) -> RunPlan:
    return RunPlan.from_mapping(
        {"sample": {"material": "UiO-66"}} | changes, base=Path(), source="p"
    )


def reasons(capabilities: Capabilities | None = None, **changes: Any) -> str:
    scope = capabilities or instrument()
    return "\n".join(problems(plan(**changes), scope, limits(scope), tiles=4))


def test_the_default_plan_is_feasible() -> None:
    assert reasons() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"alpha_deg": [-60, 60]}}, ["alpha_deg", "60", "-25 .. 25", "holder"]),
        ({"survey": {"field_um": [3000, 10]}}, ["x_um", "1500", "1000", "shrink"]),
        ({"scan": {"shape": [1024, 32]}}, ["scan.shape", "1024", "256"]),
        ({"scan": {"dwell_s": 1e-5}}, ["scan.dwell_s", "1e-05", "0.0001"]),
        ({"scan": {"fluence_e_per_A2": 250}}, ["250", "230.4", "UiO-66", "lower"]),
        ({"alignment": {"budget_e_per_A2": 0.01}}, ["0.01", "raise the budget"]),
        ({"scan": {"detector_sampling_mrad": 0.2}}, ["6.4 mrad", "10 mrad", "aperture"]),
        ({"budget": {"disk_GB": 1e-6}}, ["disk_GB", "forecast"]),
    ],
)
def test_each_reason_names_value_limit_and_remedy(
    changes: dict[str, Any], words: list[str]
) -> None:
    said = reasons(**changes)
    for word in words:
        assert word in said


def test_missing_capabilities_are_reasons() -> None:
    assert "cannot scan" in reasons(instrument(scan=None))
    assert "no detector for diffraction mode" in reasons(
        instrument(modes=frozenset({Mode.IMAGE, Mode.STEM}))
    )
    bare = instrument()
    no_beta = {a: i for a, i in bare.axes.items() if a is not Axis.BETA}
    assert "no beta axis" in reasons(instrument(axes=no_beta))


def test_the_forecast_counts_what_the_plan_says() -> None:
    budget = Budget.of(plan(), tiles=9)
    by_name = {line.step: line for line in budget.lines}
    assert by_name["survey tile"].count == 9
    assert budget.scan_e_per_A2 == 120
    assert 0 < budget.before_scan_e_per_A2 < 0.5
    assert 0 < budget.hours < 10


def test_optics_that_cannot_be_set_are_named() -> None:
    capabilities = instrument(settings=frozenset({"mode", "beam_diameter_nm"}))
    (said,) = problems(plan(), capabilities, limits(capabilities), tiles=1)
    assert "cannot set convergence_semiangle_mrad, defocus_nm, detector_sampling_mrad" in said
    assert "docs/drivers.md" in said


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    scope = instrument()
    hopeless = plan(
        scan={"fluence_e_per_A2": 250},
        limits={"alpha_deg": [-60, 60]},
        instrument={"calibration": str(tmp_path / "none.yaml")},
    )
    said = problems(hopeless, scope, limits(scope), tiles=4, free_bytes=400_000_000)
    for words in ("250", "-25 .. 25", "none.yaml is no file", "0.4 GB free"):
        assert any(words in reason for reason in said), (words, said)
    assert len(said) == 4


def test_a_disk_that_holds_the_forecast_and_the_reserve_is_enough() -> None:
    scope = instrument()
    free = int(1e9 * (Budget.of(plan(), 4).gigabytes + 0.5)) + 1000
    assert problems(plan(), scope, limits(scope), tiles=4, free_bytes=free) == []
    (said,) = problems(plan(), scope, limits(scope), tiles=4, free_bytes=free - 10_000_000)
    assert "stay spare" in said
