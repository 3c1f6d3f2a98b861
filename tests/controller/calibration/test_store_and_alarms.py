"""The file keeps everything; alarms say what is wrong, with value, unit, limit and remedy."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.calibration.alarms import Observed, calibration_alarms
from controller.calibration.entries import (
    BeamTiltEntry,
    CameraEntry,
    Conditions,
    Origin,
    StoredCalibration,
    TiltAxesEntry,
)
from controller.calibration.loading import calibrated, calibrated_optics
from controller.calibration.store import CalibrationFileError, append_entry, load_calibration
from controller.hardware.values import Calibration, Mode, OpticsState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AT_300 = Conditions(energy_keV=300.0, detector_sampling_mrad=0.25)


def origin(days_ago: float = 1.0, conditions: Conditions = AT_300, on: str = "scope A") -> Origin:
    return Origin(
        date=NOW - timedelta(days=days_ago),
        method="test",
        instrument=on,
        conditions=conditions,
        patterns=5,
        charged_e_per_A2=0.1,
    )


def axes(azimuth: float = -60.0, beta_gain: float = 1.01, **about: float) -> TiltAxesEntry:
    return TiltAxesEntry(
        origin=origin(**about),
        azimuth_deg=azimuth,
        azimuth_sigma_deg=0.4,
        mirrored=False,
        alpha_gain=1.0,
        alpha_gain_sigma=0.005,
        beta_gain=beta_gain,
        beta_gain_sigma=0.005,
        non_orthogonality_deg=0.2,
        non_orthogonality_sigma_deg=0.3,
        jacobian_mrad_per_deg=((1.0, 2.0), (3.0, 4.0)),
        chi_squared=5.0,
        degrees_of_freedom=6,
    )


def camera(factor: float = 1.01, ellipticity: float = 0.01, **about: float) -> CameraEntry:
    return CameraEntry(
        origin=origin(**about),
        standard="Au",
        inv_A_per_px=0.0127 * factor,
        inv_A_per_px_sigma=1e-5,
        nominal_inv_A_per_px=0.0127,
        ellipticity=ellipticity,
        ellipticity_sigma=3e-4,
        ellipse_azimuth_deg=35.0,
        ellipse_azimuth_sigma_deg=1.0,
        centre_px=(128.0, 127.0),
        centre_sigma_px=0.01,
        rings=7,
        residual_px=0.05,
    )


def beam(**about: float) -> BeamTiltEntry:
    return BeamTiltEntry(
        origin=origin(**about),
        true_tilt=((0.5, 0.866), (-0.866, 0.5)),
        true_tilt_sigma=0.01,
        shift_px_per_mrad=((0.1, 0.0), (0.0, 0.2)),
        shift_sigma_px_per_mrad=0.002,
        centre_px=(128.0, 127.0),
        chi_squared=10.0,
        degrees_of_freedom=12,
    )


def stored(*entries: object) -> StoredCalibration:
    return StoredCalibration(entries=entries)  # type: ignore[arg-type]


def test_results_are_added_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calibration.yaml"
    first, second, third = axes(), camera(), axes(-58.0, days_ago=0.5)
    for entry in (first, second, third):
        append_entry(path, entry)
    held = load_calibration(path)
    assert held.entries == (first, second, third)
    assert held.latest("tilt-axes") == third
    assert held.latest("beam-tilt") is None
    assert "azimuth_deg: -60.0" in path.read_text()


def test_a_file_that_cannot_be_read_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text("format: lodestem/calibration/1\nentries: [{kind: tilt-axes}]\n")
    before = path.read_bytes()
    with pytest.raises(CalibrationFileError, match=r"entries\.0.*origin"):
        append_entry(path, axes())
    path.write_text("a: [1")
    with pytest.raises(CalibrationFileError, match="not YAML"):
        load_calibration(path)
    assert before != path.read_bytes()
    with pytest.raises(CalibrationFileError, match="no such file"):
        load_calibration(tmp_path / "none.yaml")


def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration.yaml"
    append_entry(path, axes())
    before = path.read_bytes()

    def crash(_: int) -> None:
        raise OSError("power is gone")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="power"):
        append_entry(path, camera())
    assert path.read_bytes() == before
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", lambda *_: crash(0))
    with pytest.raises(OSError, match="power"):
        append_entry(path, camera())
    assert path.read_bytes() == before


def test_results_of_another_setting_or_instrument_do_not_count() -> None:
    at_200 = Conditions(energy_keV=200.0, detector_sampling_mrad=0.25)
    held = stored(camera(1.01), camera(1.05, conditions=at_200), camera(1.2, on="scope B"))
    assert held.latest("camera", AT_300, "scope A") == held.entries[0]
    assert held.latest("camera", at_200) == held.entries[1]
    (alarm,) = [
        a
        for a in calibration_alarms(held, NOW, conditions=at_200, instrument="scope B")
        if a.kind == "camera"
    ]
    assert alarm.code == "other-setting"
    assert "energy_keV 200 against 300" in alarm.message


def test_fresh_results_that_agree_raise_no_alarm() -> None:
    held = stored(axes(), camera(), beam())
    seen = [
        Observed("azimuth_deg", 300.9, 0.3),
        Observed("mirrored", 0.0, 0.0),
        Observed("camera_constant_factor", 1.012, 0.001),
        Observed("beam_tilt_gain", 1.01, 0.01),
    ]
    assert calibration_alarms(held, NOW, seen, conditions=AT_300, instrument="scope A") == []


@pytest.mark.parametrize(
    ("entries", "seen", "code", "said"),
    [
        ((axes(days_ago=200), camera(), beam()), (), "stale", "tilt-axes is 200 d old"),
        ((axes(), camera(days_ago=31), beam()), (), "stale", "limit 30 d"),
        ((axes(), camera(days_ago=-2), beam()), (), "future", "after now"),
        ((axes(), beam()), (), "missing", "camera was never measured"),
        ((axes(), camera(ellipticity=0.03), beam()), (), "out-of-range", "3.00 %"),
        ((axes(beta_gain=1.1), camera(), beam()), (), "out-of-range", "beta turns the crystal"),
        (
            (axes(), camera(), beam()),
            (Observed("azimuth_deg", -57.0, 0.5),),
            "inconsistent",
            "azimuth_deg = -57 ± 0.5 deg, stored is -60 ± 0.4 deg",
        ),
        (
            (axes(), camera(), beam()),
            (Observed("mirrored", 1.0, 0.0001),),
            "inconsistent",
            "mirrors",
        ),
        (
            (axes(), camera(), beam()),
            (Observed("camera_constant_factor", 1.03, 0.002),),
            "inconsistent",
            "sigma apart (limit 3)",
        ),
    ],
)
def test_each_alarm_names_value_limit_and_remedy(
    entries: tuple, seen: tuple, code: str, said: str
) -> None:
    (alarm,) = calibration_alarms(stored(*entries), NOW, seen)
    assert alarm.code == code
    assert said in alarm.message
    assert (
        "lodestem calibrate" in alarm.text() or "clock" in alarm.text() or "stigm" in alarm.text()
    )


def test_very_old_results_and_contradictions_come_first() -> None:
    held = stored(axes(days_ago=400), camera(days_ago=200), beam())
    alarms = calibration_alarms(held, NOW, [Observed("beam_tilt_gain", 1.5, 0.01)])
    assert [a.severity for a in alarms] == ["major", "major", "minor"]


def test_what_is_stored_becomes_what_the_loop_believes() -> None:
    base = Calibration(tilt_axis_azimuth_deg=10.0, image_rotation_deg=37.0)
    assert calibrated(base, stored(), AT_300) == base
    known = calibrated(base, stored(axes(), camera(), beam()), AT_300)
    assert known.tilt_axis_azimuth_deg == -60.0
    assert 1.0 < known.beta_gain < 1.001  # one degree of tilt does not overrule a drive
    assert known.image_rotation_deg == 37.0
    assert known.camera_constant_factor == pytest.approx(1.01)
    # the stored matrix is a turn by -60 deg in the detector: no turn at all in the column
    assert known.beam_tilt_matrix[0] == pytest.approx((1.0, 0.0), abs=1e-3)
    assert known.beam_tilt_matrix[1] == pytest.approx((0.0, 1.0), abs=1e-3)
    assert known.date.startswith("2026-02-28")


def test_optics_are_read_with_the_calibrated_camera_constant() -> None:
    optics = OpticsState(
        mode=Mode.DIFFRACTION,
        energy_keV=300,
        probe_current_pA=1,
        beam_diameter_nm=300,
        convergence_semiangle_mrad=0.1,
        defocus_nm=0,
        detector_sampling_mrad=0.25,
    )
    known = Calibration(camera_constant_factor=1.04)
    assert calibrated_optics(optics, known).detector_sampling_mrad == pytest.approx(0.26)
    assert calibrated_optics(optics, Calibration()) is optics
