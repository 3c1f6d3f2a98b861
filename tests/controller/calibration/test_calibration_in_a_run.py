"""A plan's calibration file is lived by, checked at the start, and doubted by the patterns."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.calibration.doubts import doubts
from controller.calibration.store import append_entry
from controller.cli.compose import JournalAuditor, calibration_alarms_now, open_instrument
from controller.cli.output import InputError
from controller.decision.goniometer_filter import PARAMETERS, instrument_prior
from controller.hardware.values import Calibration
from controller.plan.run import RunPlan
from controller.record.events import CalibrationAlarmed
from controller.record.report.attention import what_needs_you
from controller.record.report.story import Night
from tests.conformance.fake_adapter import FakeAdapter
from tests.controller.calibration.test_store_and_alarms import axes, beam, camera

SIMULATOR = "lodestem simulated column (easy)"


def plan(tmp_path: Path, calibration: str | None) -> RunPlan:
    instrument = {"backend": "sim", "options": {"scenario": "easy", "seed": 1}}
    if calibration is not None:
        instrument["calibration"] = calibration
    return RunPlan.from_mapping(
        {"sample": {"material": "UiO-66"}, "instrument": instrument}, base=tmp_path, source="test"
    )


def test_a_run_lives_by_its_calibration_file_and_complains_about_its_age(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    simulated_now = datetime(2026, 1, 1, 20, 0, tzinfo=UTC)
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    old = (now - simulated_now).total_seconds() / 86400
    append_entry(path, axes(-57.0, days_ago=old + 1, on=SIMULATOR))
    append_entry(path, camera(1.02, days_ago=old + 40, on=SIMULATOR))
    with open_instrument(
        plan(tmp_path, "calibration.yaml"), tmp_path / "run", auditor=JournalAuditor()
    ) as session:
        believed = session.microscope.calibration
        assert believed.tilt_axis_azimuth_deg == -57.0
        assert believed.camera_constant_factor == pytest.approx(1.02)
        alarms = calibration_alarms_now(session, plan(tmp_path, "calibration.yaml"))
    codes = {(alarm.calibration, alarm.code) for alarm in alarms}
    assert codes == {("camera", "stale"), ("beam-tilt", "missing")}


def test_without_a_file_nothing_changes_and_a_bad_one_stops_before_anything_moves(
    tmp_path: Path,
) -> None:
    with open_instrument(
        plan(tmp_path, None), tmp_path / "run", auditor=JournalAuditor()
    ) as session:
        assert session.microscope.calibration.method == "simulated service visit"
        assert calibration_alarms_now(session, plan(tmp_path, None)) == []
    with (
        pytest.raises(InputError, match=r"instrument\.calibration = .* is no file"),
        open_instrument(plan(tmp_path, "none.yaml"), tmp_path / "no", auditor=JournalAuditor()),
    ):
        pass
    (tmp_path / "broken.yaml").write_text("entries: 5")
    with (
        pytest.raises(InputError, match="not a calibration file"),
        open_instrument(
            plan(tmp_path, "broken.yaml"), tmp_path / "other", auditor=JournalAuditor()
        ),
    ):
        pass


def test_another_calibration_is_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    append_entry(path, axes())
    first = plan(tmp_path, "calibration.yaml").fingerprint()
    append_entry(path, beam())
    assert plan(tmp_path, "calibration.yaml").fingerprint() != first


def test_the_filter_starts_from_what_was_calibrated() -> None:
    known = Calibration(
        beta_gain=1.04, axes_skew_deg=0.5, beam_tilt_matrix=((0.0, -1.1), (1.1, 0.0))
    )
    state = instrument_prior(known, FakeAdapter().capabilities)
    mean = dict(zip(PARAMETERS, state.mean, strict=True))
    assert mean["beta_gain"] == 1.04
    assert mean["skew_deg"] == 0.5
    assert mean["beam_gain"] == pytest.approx(1.1)
    assert mean["beam_turn_deg"] == pytest.approx(90.0)


@pytest.mark.parametrize(
    ("azimuth", "sigma", "mirrored", "doubt", "count"),
    [
        (-61.0, 0.3, False, 0.01, 0),  # one sigma off
        (-68.0, 0.3, False, 0.01, 1),  # eight
        (298.5, 0.3, False, 0.01, 0),  # the same direction
        (-60.0, 0.3, True, 0.2, 0),  # not sure of the hand
        (-60.0, 0.3, True, 1e-4, 1),
        (-75.0, 1.0, False, 0.01, 0),  # the patterns have not told anything yet
    ],
)
def test_patterns_that_contradict_the_calibration_are_told(
    azimuth: float, sigma: float, mirrored: bool, doubt: float, count: int
) -> None:
    found = doubts(
        Calibration(tilt_axis_azimuth_deg=-60.0, azimuth_sigma_deg=1.0),
        azimuth_deg=azimuth,
        azimuth_sigma_deg=sigma,
        mirrored=mirrored,
        doubt_of_hand=doubt,
    )
    assert len(found) == count
    assert all("lodestem calibrate tilt-axes" in alarm.remedy for alarm in found)


def test_the_report_asks_for_a_person_once_per_complaint() -> None:
    alarm = CalibrationAlarmed(
        calibration="tilt-axes",
        code="inconsistent",
        severity="major",
        message="azimuth off",
        remedy="Measure again",
    )
    night = Night(calibration_alarms=[alarm, alarm.replace(target="T02")])
    (need,) = [n for n in what_needs_you(night) if "Calibration" in n.what]
    assert need.weight == "soon"
    assert "azimuth off" in need.what
