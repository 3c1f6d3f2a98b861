"""Axes, signs and flips: one place decides, these laws pin it down."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.dataset import Dataset4D, ScanHeader
from recon.geometry import (
    judged_field,
    rotation_matrix,
    scan_positions_A,
    scanned_rectangle,
    wavelength_A,
)
from recon.patterns import prepare_patterns


def header(**changes: object) -> ScanHeader:
    fields: dict[str, object] = {
        "energy_keV": 200.0,
        "convergence_semiangle_mrad": 5.0,
        "scan_step_A": 1.0,
        "detector_sampling_mrad": 1.0,
        "scan_shape": (6, 7),
        "frame_shape": (16, 20),
        "start_time": "2026-03-01T22:15:00",
        "run_uuid": "u",
    }
    return ScanHeader.model_validate(fields | changes)


@pytest.mark.parametrize(("energy_keV", "expected_A"), [(80, 0.041757), (200, 0.025079)])
def test_the_wavelength_is_relativistic(energy_keV: float, expected_A: float) -> None:
    assert wavelength_A(energy_keV) == pytest.approx(expected_A, rel=1e-4)


def test_the_scan_turns_from_row_towards_column() -> None:
    """Rot = [[cos, -sin], [sin, cos]] on (row, col): +90 degrees takes +scan_y to +col."""
    positions = scan_positions_A((3, 1), rotation_matrix(90.0) * 2.0)
    np.testing.assert_allclose(positions, [[0, -2], [0, 0], [0, 2]], atol=1e-12)


@pytest.mark.parametrize(
    ("ud", "lr", "transpose"), list(itertools.product([False, True], repeat=3))
)
def test_a_detector_that_flips_and_says_so_gives_the_same_patterns(
    ud: bool, lr: bool, transpose: bool, rng: np.random.Generator
) -> None:
    upright = rng.poisson(0.5, (6, 7, 16, 16)).astype(np.uint16)
    reference = prepare_patterns(
        Dataset4D.from_dense(upright, header(frame_shape=(16, 16))), (7.0, 8.0)
    )
    stored = np.swapaxes(upright, 2, 3) if transpose else upright
    centre = (8.0, 7.0) if transpose else (7.0, 8.0)
    stored = stored[:, :, :, ::-1] if lr else stored
    stored = stored[:, :, ::-1] if ud else stored
    centre = (15 - centre[0] if ud else centre[0], 15 - centre[1] if lr else centre[1])
    declared = header(frame_shape=(16, 16), flip_ud=ud, flip_lr=lr, transpose=transpose)

    patterns = prepare_patterns(Dataset4D.from_dense(stored.copy(), declared), centre)

    for p in range(42):
        mine, theirs = (
            np.sort(x.pixel[x.indptr[p] : x.indptr[p + 1]]) for x in (patterns, reference)
        )
        np.testing.assert_array_equal(mine, theirs)
    assert patterns.offset_px == reference.offset_px == (0.0, 0.0)


def test_patterns_are_cropped_to_a_square_about_the_beam(rng: np.random.Generator) -> None:
    counts = rng.poisson(0.3, (6, 7, 16, 20)).astype(np.uint8)
    patterns = prepare_patterns(Dataset4D.from_dense(counts, header()), (7.3, 11.0))
    assert patterns.n == 16
    np.testing.assert_allclose(patterns.offset_px, (0.3, 0.0))
    dense = np.zeros((16, 16), int)
    np.add.at(dense.reshape(-1), patterns.pixel, 1)
    assert dense[0, 0] == counts[:, :, 7, 11].sum()
    assert dense[3, -2] == counts[:, :, 10, 9].sum()
    assert not patterns.measured[8].any()  # one row lies beyond the edge of the detector


@given(st.floats(-180, 180), st.integers(5, 40), st.integers(5, 40))
def test_the_scanned_rectangle_lies_inside_the_scan(angle: float, ny: int, nx: int) -> None:
    matrix = rotation_matrix(angle) * 0.8
    rows, cols = scanned_rectangle((ny, nx), matrix, 0.3, (100.0, 120.0))
    corners = itertools.product((rows.start, rows.stop - 1), (cols.start, cols.stop - 1))
    for row, col in corners:
        scan = np.linalg.inv(matrix) @ (np.array([row - 100.0, col - 120.0]) * 0.3)
        assert (np.abs(scan) <= (np.array([ny, nx]) - 1) / 2 + 1e-6 + 0.4).all()


@given(st.floats(-180, 180), st.integers(6, 90), st.integers(6, 90))
def test_what_is_judged_lies_five_angstrom_inside_the_scan_or_a_tenth_of_a_side(
    angle: float, ny: int, nx: int
) -> None:
    field = (ny, nx), rotation_matrix(angle), 0.25, (200.0, 210.0)
    whole, judged = scanned_rectangle(*field), judged_field(*field)
    shorter_A = 0.25 * min(part.stop - part.start for part in whole)
    for outer, inner in zip(whole, judged, strict=True):
        for gap_px in (inner.start - outer.start, outer.stop - inner.stop):
            assert 0.25 * gap_px == pytest.approx(min(5.0, shorter_A / 10), abs=0.26)
        assert inner.stop > inner.start


def test_thinning_gives_independent_poisson_halves(rng: np.random.Generator) -> None:
    counts = rng.poisson(0.4, (6, 7, 16, 20)).astype(np.uint8)
    patterns = prepare_patterns(Dataset4D.from_dense(counts, header()), (8.0, 10.0))
    kept = np.array([patterns.split(0.9, rng)[0].n_electrons for _ in range(300)])
    n = patterns.n_electrons
    assert kept.mean() == pytest.approx(0.9 * n, abs=4 * np.sqrt(n * 0.09 / 300))
    assert kept.var() == pytest.approx(0.09 * n, rel=0.35)
    first, second = patterns.split(0.5, rng)
    assert first.n_electrons + second.n_electrons == n
    assert first.indptr[-1] == first.n_electrons
    np.testing.assert_array_equal(
        np.diff(first.indptr) + np.diff(second.indptr), np.diff(patterns.indptr)
    )
