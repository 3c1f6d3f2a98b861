from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from controller.hardware.values import Mode, OpticsChange, Scan
from sim_microscope.raster import Raster
from tests.sim_microscope.conftest import Bench

OpenBench = Callable[..., Bench]


def over_crystal(bench: Bench, dx_um: float = 0.0) -> None:
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.STEM, probe_current_pA=0.5, defocus_nm=15.0))
    x, y = adapter.truth.specimen.crystals[0].centre_um
    for _ in range(2):
        read, here = adapter.read_pose(), adapter.true_beam_um()
        bench.go(x_um=read.x_um + x + dx_um - here[0], y_um=read.y_um + y - here[1])


def raster(bench: Bench, scan: Scan) -> tuple[Raster, np.ndarray]:
    frames = bench.scan(scan)
    found = bench.adapter.truth.exposures[-1].raster
    assert found is not None
    return found, frames


def test_positions_follow_the_rotation_between_scan_and_detector(open_bench: OpenBench) -> None:
    bench = open_bench()
    over_crystal(bench)
    found, _ = raster(bench, Scan(shape=(2, 5), step_A=3.0, dwell_s=1e-3))
    true = bench.adapter.truth.optics
    theta = np.deg2rad(true.scan_rotation_deg)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    sy, sx = np.indices((2, 5)).reshape(2, -1)
    nominal = 3.0 * true.scan_step_factor * np.stack([sy - 0.5, sx - 2.0])
    np.testing.assert_allclose(found.positions_A, (turn @ nominal).T, atol=0.05)


def test_a_scan_over_a_crystal_knows_its_thickness_and_its_phase(open_bench: OpenBench) -> None:
    bench = open_bench()
    over_crystal(bench)
    found, frames = raster(bench, Scan(shape=(3, 4), step_A=4.0, dwell_s=1e-3))
    crystal = bench.adapter.truth.specimen.crystals[0]
    assert found.crystal is crystal
    assert found.on_crystal.all()
    assert found.thickness_nm == pytest.approx(crystal.thickness_nm, rel=0.03)
    phase = found.phase()
    assert phase is not None
    assert phase.phase_rad.max() > 0.5
    assert frames.shape == (12, 64, 64)
    sums = frames[1:].sum(axis=(1, 2)).astype(float)
    assert 0.7 * 3121 < sums.mean() < 1.03 * 3121


def test_the_same_place_shows_the_same_atoms_in_the_next_scan(open_bench: OpenBench) -> None:
    bench = open_bench()
    over_crystal(bench)
    scan = Scan(shape=(1, 2), step_A=4.0, dwell_s=1e-3)
    first, _ = raster(bench, scan)
    again, _ = raster(bench, scan)
    a, b = next(first.patterns()), next(again.patterns())
    # drift in between and the jitter of the source leave a small difference
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


def test_off_the_crystal_there_is_only_the_probe(open_bench: OpenBench) -> None:
    bench = open_bench()
    over_crystal(bench, dx_um=30.0)
    found, frames = raster(bench, Scan(shape=(2, 3), step_A=4.0, dwell_s=1e-3))
    assert found.crystal is None
    assert found.phase() is None
    rows, columns = np.indices((64, 64)) - 32
    inside = np.hypot(rows, columns) < 12.0
    assert frames[:, inside].sum() > 0.9 * frames.sum()


def test_a_wide_overview_is_cheap_and_sees_the_edge(open_bench: OpenBench) -> None:
    bench = open_bench()
    over_crystal(bench)
    found, frames = raster(bench, Scan(shape=(3, 40), step_A=400.0, dwell_s=1e-3))
    assert found.is_wide
    assert 0 < found.on_crystal.sum() < 120
    assert found.phase() is None
    rows, columns = np.indices((64, 64)) - 32
    dark_field = (np.hypot(rows, columns) > 13) * np.ones((64, 64))
    signal = (frames * dark_field).sum(axis=(1, 2)).astype(float)
    assert signal[found.on_crystal].mean() > 2 * signal[~found.on_crystal].mean()


def test_a_mirrored_camera_turns_the_patterns_over(open_bench: OpenBench, tmp_path: object) -> None:
    from sim_microscope.raster import _turned_over

    batch = np.zeros((1, 8, 8), np.float32)
    batch[0, 5, 2] = 1.0
    assert _turned_over(batch)[0, 3, 2] == 1.0
    batch = np.zeros((1, 8, 8), np.float32)
    batch[0, 4, 1] = 1.0
    assert _turned_over(batch)[0, 4, 1] == 1.0
