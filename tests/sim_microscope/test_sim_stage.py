from __future__ import annotations

import numpy as np
import pytest

from controller.hardware.values import Axis
from sim_microscope.faults import FaultBoard
from sim_microscope.scenario import AxisSpec, StageSpec
from sim_microscope.stage import SimulatedStage


def stage(*faults: str, **spec: object) -> SimulatedStage:
    return SimulatedStage(StageSpec(**spec), 7, FaultBoard(faults, 7))  # type: ignore[arg-type]


def test_the_read_back_reports_the_drive_and_not_the_specimen() -> None:
    loose = AxisSpec(low=-9, high=9, speed_per_s=1, play=0.5)
    s = stage(x=loose, drift_nm_per_s=0, drift_kick_nm_per_s=0, jump_probability=0)
    s.start_move(Axis.X, 4.0, 0.0)
    assert s.read(60.0).x_um == pytest.approx(4.0)
    assert s.true_pose(60.0).x_um == pytest.approx(3.75)


def test_reading_twice_does_not_change_the_night() -> None:
    often, once = stage(), stage()
    for s in (often, once):
        s.start_move(Axis.ALPHA, 5.0, 0.0)
    for t in np.linspace(0, 20, 41):
        often.read(float(t))
        often.axis_state(Axis.X, float(t))
    assert often.read(30.0) == once.read(30.0)
    assert often.true_pose(30.0).alpha_deg == once.true_pose(30.0).alpha_deg


def test_the_read_back_has_noise_of_the_stated_size() -> None:
    s = stage()
    values = [s.read(t).x_um for t in np.arange(0, 40, 0.1).tolist()]
    assert np.std(values) == pytest.approx(0.004, rel=0.15)


def test_thermal_drift_starts_with_a_move_and_decays() -> None:
    s = stage(drift_nm_per_s=0.0, drift_kick_nm_per_s=1.0, drift_decay_s=50.0, jump_probability=0)
    assert np.hypot(*s.drift_um_per_s(0.0)) == 0
    s.start_move(Axis.ALPHA, 20.0, 0.0)
    early = float(np.hypot(*s.drift_um_per_s(1.0)))
    assert 0.0004 < early <= 0.001
    assert float(np.hypot(*s.drift_um_per_s(51.0))) == pytest.approx(early / np.e, rel=1e-6)


def test_drift_adds_up_to_the_integral_of_its_velocity() -> None:
    s = stage(drift_nm_per_s=0.1, drift_kick_nm_per_s=2.0, jump_probability=0)
    s.start_move(Axis.BETA, 9.0, 0.0)
    start = s.true_pose(10.0)
    path = np.zeros(2)
    for t in np.arange(10.0, 60.0, 0.1).tolist():
        path += 0.1 * s.drift_um_per_s(t + 0.05)
    end = s.true_pose(60.05)
    assert end.x_um - start.x_um == pytest.approx(path[0], abs=2e-4)
    assert end.y_um - start.y_um == pytest.approx(path[1], abs=2e-4)


def test_an_axis_moves_at_its_speed_and_says_so() -> None:
    s = stage()
    s.start_move(Axis.ALPHA, 10.0, 0.0)
    assert s.axis_state(Axis.ALPHA, 4.0).moving
    assert not s.axis_state(Axis.BETA, 4.0).moving
    assert not s.axis_state(Axis.ALPHA, 6.0).moving


def test_halting_stops_it_on_its_way() -> None:
    s = stage()
    s.start_move(Axis.ALPHA, 10.0, 0.0)
    s.halt(2.0)
    assert s.read(60.0).alpha_deg == pytest.approx(4.0, abs=0.2)
    assert not s.axis_state(Axis.ALPHA, 2.5).moving


def test_the_goniometer_jumps_when_it_is_said_to() -> None:
    steady, jumpy = stage(jump_probability=0.0), stage(jump_probability=1.0, jump_um=0.5)
    for s in (steady, jumpy):
        s.start_move(Axis.ALPHA, 5.0, 0.0)
    a, b = steady.true_pose(60.0), jumpy.true_pose(60.0)
    assert np.hypot(a.x_um - b.x_um, a.y_um - b.y_um) > 0.05
    assert steady.read(60.0) == jumpy.read(60.0)
