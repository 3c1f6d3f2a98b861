"""Patterns are taken under guard where they should be, and everything is put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from controller.calibration.acquire import Bench, acquire_beam_tilts, acquire_tilt_axes, go_to
from controller.calibration.beam_tilt import direct_beam
from controller.calibration.recorded import read_recording, write_recording
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import DoseLimitError, LimitError
from controller.perception.alignment import Calibration
from controller.safety.limits import DoseLimits
from controller.server.session import Session, open_session
from sim_microscope.geometry import plane_rotation


def session(folder: Path, limit: float = 1e4) -> Session:
    return open_session(
        "sim",
        {"scenario": "gold-standard", "seed": 4},
        run_dir=folder,
        dose_limits=DoseLimits(
            specimen_e_per_A2=limit,
            before_scan_e_per_A2=limit,
            data_e_per_A2=limit,
            area_e_per_A2={},
        ),
        clock=VirtualClock(),
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with session(tmp_path / "run") as opened:
        go_to(opened.microscope, (14.0, 0.0))  # on the gold: quick to compute
        yield Bench(opened.microscope, uuid4, electrons=1e5)


def test_the_goniometer_makes_its_cross_and_comes_back(bench: Bench, tmp_path: Path) -> None:
    before = bench.microscope.stage.pose()
    recording = acquire_tilt_axes(bench, step_deg=1.5)
    after = bench.microscope.stage.pose()
    steps = {(round(p.alpha_deg / 1.5), round(p.beta_deg / 1.5)) for p in recording.patterns}
    assert steps == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert after.alpha_deg == pytest.approx(before.alpha_deg, abs=0.15)
    assert after.beta_deg == pytest.approx(before.beta_deg, abs=0.15)
    assert recording.charged_e_per_A2 > 0
    spent = bench.microscope.dose(14.0, 0.0).total_e_per_A2
    assert spent >= 0.5 * recording.charged_e_per_A2

    write_recording(tmp_path / "kept.h5", recording)
    back = read_recording([tmp_path / "kept.h5"], Calibration())
    assert back.instrument == recording.instrument
    assert [p.alpha_deg for p in back.patterns] == [p.alpha_deg for p in recording.patterns]
    np.testing.assert_allclose(
        back.patterns[3].counts, np.nan_to_num(recording.patterns[3].counts), rtol=1e-6
    )


def test_the_direct_beam_walks_as_the_descan_is_off_and_the_tilt_is_taken_back(
    bench: Bench,
) -> None:
    recording = acquire_beam_tilts(bench, step_mrad=10.0)
    assert bench.microscope.optics.state().beam_tilt_mrad == (0.0, 0.0)
    assert len({p.beam_tilt_mrad for p in recording.patterns}) == 9
    b = np.array([p.beam_tilt_mrad for p in recording.patterns])
    centres = [direct_beam(p.counts, (128.0, 128.0))[0] for p in recording.patterns]
    design = np.column_stack([np.ones(len(b)), b])
    walk = np.linalg.lstsq(design, np.array(centres), rcond=None)[0][1:].T
    true = bench.microscope._adapter.truth.optics
    column = plane_rotation(true.tilt_axis_azimuth_deg, mirrored=true.diffraction_mirrored)
    expected = column @ true.descan_matrix / (0.25 * true.camera_constant_factor)
    np.testing.assert_allclose(walk, expected, atol=0.01)


def test_limits_and_budgets_hold_and_the_stage_comes_back_all_the_same(tmp_path: Path) -> None:
    with session(tmp_path / "run", limit=1e-3) as opened:
        go_to(opened.microscope, (14.0, 0.0))
        poor = Bench(opened.microscope, uuid4, electrons=1e6)
        with pytest.raises(DoseLimitError):
            acquire_beam_tilts(poor)
        with pytest.raises(LimitError):
            acquire_tilt_axes(Bench(opened.microscope, uuid4, electrons=1e3), step_deg=80.0)
        assert abs(opened.microscope.stage.pose().alpha_deg) < 0.15
        assert opened.microscope.optics.state().beam_tilt_mrad == (0.0, 0.0)
