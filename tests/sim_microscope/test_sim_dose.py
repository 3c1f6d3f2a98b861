from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from controller.hardware.values import Mode, OpticsChange, Scan
from sim_microscope.dose import ELECTRONS_PER_PA_S, Deposit, TrueDose
from sim_microscope.geometry import tilt_matrix
from tests.sim_microscope.conftest import Bench

AXIS = np.linspace(-3, 3, 1201)
CELL_A2 = ((AXIS[1] - AXIS[0]) * 1e4) ** 2


def spread(deposit: Deposit) -> float:
    """Electrons found by adding up the fluence over the specimen."""
    total = deposit.fluence_e_per_A2(AXIS[None, :], AXIS[:, None]).sum() * CELL_A2
    return float(total)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (25.0, -14.0)])
def test_every_electron_lands_somewhere_on_the_specimen(alpha: float, beta: float) -> None:
    flatten = tilt_matrix(alpha, beta)[:2, :2]
    disc = Deposit((0.2, -0.3), flatten, 1e6, edge_um=0.05, radius_um=0.9)
    rectangle = Deposit((0.2, -0.3), flatten, 1e6, edge_um=0.02, size_um=(1.1, 0.4))
    assert spread(disc) == pytest.approx(1e6, rel=1e-3)
    assert spread(rectangle) == pytest.approx(1e6, rel=1e-3)


def test_a_tilted_patch_receives_less_by_the_cosine() -> None:
    flat = Deposit((0, 0), np.eye(2), 1e6, edge_um=0.01, radius_um=0.5)
    tilted = Deposit((0, 0), tilt_matrix(30, 0)[:2, :2], 1e6, edge_um=0.01, radius_um=0.5)
    ratio = tilted.peak_e_per_A2() / flat.peak_e_per_A2()
    assert ratio == pytest.approx(np.cos(np.deg2rad(30)))


def test_the_map_holds_the_mean_of_its_cells() -> None:
    dose = TrueDose()
    dose.add(Deposit((0.13, -0.21), np.eye(2), 5e5, edge_um=0.02, radius_um=0.4))
    dose.add(Deposit((-0.5, 0.4), np.eye(2), 1e5, edge_um=0.01, size_um=(0.3, 0.2)))
    total = dose.map(2.0).sum() * (0.1 * 1e4) ** 2
    assert total == pytest.approx(dose.electrons(), rel=0.01)


@pytest.mark.parametrize("size", [0.002, 0.02, 0.2])
def test_the_map_neither_loses_nor_invents_a_small_scan(size: float) -> None:
    for place in (0.0, 0.013, 0.031):
        dose = TrueDose()
        dose.add(Deposit((place, -place), np.eye(2), 1e6, edge_um=1e-4, size_um=(size, size / 3)))
        assert dose.map(1.0).sum() * 1e6 == pytest.approx(1e6, rel=1e-6)


def test_nothing_is_deposited_without_electrons() -> None:
    dose = TrueDose()
    dose.add(Deposit((0, 0), np.eye(2), 0.0, edge_um=0.1, radius_um=1.0))
    assert dose.deposits == []
    assert dose.fluence_at(np.zeros(2), np.zeros(2)).sum() == 0


def test_the_true_dose_is_current_times_time_over_area(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench()
    adapter = bench.adapter
    adapter.write_optics(
        OpticsChange(mode=Mode.DIFFRACTION, beam_diameter_nm=400.0, probe_current_pA=0.3)
    )
    bench.frame("diffraction", 0.5)
    x, y = adapter.true_beam_um()
    latency = adapter.capabilities.blank.latency_s
    electrons = 0.3 * ELECTRONS_PER_PA_S * (0.5 + latency - latency)
    area_A2 = np.pi * (200 * 10) ** 2
    assert adapter.truth.fluence_at(x, y) == pytest.approx(electrons / area_A2, rel=0.02)
    assert adapter.truth.fluence_at(x + 0.3, y) == pytest.approx(0, abs=1e-9)
    assert adapter.truth.dose.electrons() == pytest.approx(electrons, rel=0.02)


def test_a_scan_is_spread_over_its_field(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench()
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.STEM, probe_current_pA=0.5, defocus_nm=50.0))
    scan = Scan(shape=(6, 9), step_A=20.0, dwell_s=2e-3)
    bench.scan(scan)
    x, y = adapter.true_beam_um()
    electrons = 0.5 * ELECTRONS_PER_PA_S * scan.duration_s
    factor = adapter.truth.optics.scan_step_factor**2
    fluence = electrons / (54 * 400 * factor)
    assert adapter.truth.fluence_at(x, y) == pytest.approx(fluence, rel=0.05)
    assert adapter.truth.fluence_at(x + 0.05, y + 0.05) < 1e-3 * fluence


def test_a_moving_stage_smears_the_dose_along_its_path(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench()
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION, beam_diameter_nm=300.0))
    from controller.hardware.values import Axis

    adapter.open_beam()
    adapter.start_move(Axis.X, 3.0)
    adapter.clock.sleep(2.0)
    adapter.blank_beam()
    path = [adapter.truth.fluence_at(x, 0.0) for x in (0.5, 1.5, 2.5)]
    assert min(path) > 0
    assert max(path) < 1.3 * min(path)


def test_no_dose_without_a_beam(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench(faults=("valve-closes@0",))
    bench.frame()
    bench.dark()
    assert bench.adapter.truth.dose.electrons() == 0


def test_the_peak_map_sees_a_scan_of_a_few_nanometres() -> None:
    """A raster row by row, five nanometres wide, somewhere inside a cell."""
    dose = TrueDose()
    for row in range(10):
        centre = (0.137, 0.211 + (row - 4.5) * 0.0005)
        electrons = 120 * 50 * 5.0
        dose.add(
            Deposit(centre, np.eye(2), electrons, edge_um=1e-5, size_um=(0.005, 0.0005), exposure=7)
        )
    dose.add(Deposit((0.0, 0.0), np.eye(2), 1e6, edge_um=0.01, radius_um=1.0, exposure=8))
    peak = dose.peak_map(2.0)
    disc = dose.deposits[-1].peak_e_per_A2()
    assert peak[22, 21] == pytest.approx(120 + disc, rel=0.02)
    assert (peak >= dose.map(2.0) - 1e-9).all()
