"""The derivatives by the global parameters, and the object that follows its frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.joint_calibration import (
    Bench,
    inner_size,
    measure_optimism,
    resized,
    simulated_counts,
    slices_for,
)
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.frame import FrameChange, moved
from recon.ptychography.joint import Fitted, information
from recon.ptychography.optics import Grid
from recon.ptychography.pulls import gradient_of
from recon.ptychography.raster import make_canvas
from recon.ptychography.refiner import NOMINAL_SCALE_SIGMA, Refiner, mean_of
from recon.ptychography.solver import MultisliceSolver, SolverSettings, worker_threads
from recon.ptychography.unknowns import UNKNOWNS, nudged, value_of

EXPERIMENT = Experiment(
    grid=Grid(32, 0.45, 0.0197),
    k_edge_A=0.5,
    beam_offset_A=(0.01, -0.02),
    scan_shape=(7, 9),
    scan_step_A=0.9,
    defocus_A=90.0,
    C12a_A=8.0,
    C12b_A=-5.0,
    rotation_deg=12.0,
    affine=((1.02, 0.01), (-0.01, 0.99)),
    tilt_mrad=(3.0, -2.0),
    thickness_A=150.0,
    n_slices=3,
)


def smooth(shape: tuple[int, ...], rng: np.random.Generator, cut: float = 0.12) -> torch.Tensor:
    noise = rng.normal(size=shape)
    q = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])[None])
    image = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((q / cut) ** 2))).real
    return torch.from_numpy(image / image.std() * 0.15).to(torch.float32)


ON_PIXELS = replace(EXPERIMENT, rotation_deg=0.0, affine=((1.0, 0.0), (0.0, 1.0)))
"""Positions that need no rounding."""


def solver_with(counts: np.ndarray, *, tied: bool, rng: np.random.Generator) -> MultisliceSolver:
    n = EXPERIMENT.grid.n
    flat = counts.reshape(len(counts), -1)
    pixel = np.concatenate([np.repeat(np.arange(n * n), row) for row in flat])
    indptr = np.concatenate([[0], np.cumsum(flat.sum(axis=1))])
    measured = np.ones((n, n), bool)
    patterns = Patterns(pixel, indptr, np.arange(len(counts)), measured, (0.0, 0.0))
    canvas = make_canvas(ON_PIXELS.positions_A(), ON_PIXELS.grid.sampling_A, n)
    chosen = SolverSettings(coupling=0.0 if tied else 0.5)
    solver = MultisliceSolver(ON_PIXELS, canvas, patterns, None, chosen)
    solver.slices = smooth(tuple(solver.slices.shape), rng)
    return solver


@pytest.mark.parametrize("tied", [True, False])
def test_the_pulls_are_the_derivatives_by_every_global_parameter(
    tied: bool, rng: np.random.Generator
) -> None:
    """The adjoint's by-products against differences of the whole forward model."""
    counts = rng.poisson(0.2, size=(63, 32, 32))
    solver = solver_with(counts, tied=tied, rng=rng)
    which = torch.arange(63)
    with worker_threads(1) as executor:
        pulls, _ = solver.look(which, executor, with_pulls=True)
        found = gradient_of(pulls, solver.experiment, solver.slices, UNKNOWNS)
        fit = Fitted(
            experiment=solver.experiment,
            canvas=solver.canvas,
            slices=solver.slices,
            counts=solver.counts,
            position=solver.patterns.position,
            measured=solver.measured,
            per_pattern=solver.per_pattern,
            floor=solver.floor,
        )
        small = tuple(replace(u, nudge=u.nudge / 30) for u in UNKNOWNS)
        expected, fisher = information(fit, small, which, executor)
    np.testing.assert_array_less(np.abs(found - expected) / np.sqrt(np.diag(fisher)), 0.1)
    assert np.abs(expected / np.sqrt(np.diag(fisher))).max() > 2


@settings(max_examples=25)
@given(
    st.sampled_from([u.name for u in UNKNOWNS]),
    st.floats(-0.02, 0.02),
)
def test_a_nudge_moves_one_parameter_by_as_much(name: str, by: float) -> None:
    straight = replace(EXPERIMENT, affine=((1.0, 0.0), (0.0, 1.0)))
    there = nudged(straight, name, by)  # type: ignore[arg-type]
    moved_by = value_of(there, name) - value_of(straight, name)  # type: ignore[arg-type]
    assert moved_by == pytest.approx(by, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(-0.01, 0.01))
def test_an_object_that_follows_its_frame_comes_back(turn_deg: float, scale: float) -> None:
    canvas = make_canvas(EXPERIMENT.positions_A(), EXPERIMENT.grid.sampling_A, 32)
    image = smooth((1, *canvas.shape), np.random.default_rng(3), cut=0.06)
    there = nudged(nudged(EXPERIMENT, "rotation_deg", turn_deg), "scale", scale)
    gone = moved(image, canvas, FrameChange.between(EXPERIMENT, there))
    back = moved(gone, canvas, FrameChange.between(there, EXPERIMENT))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert float((back - image)[inner].abs().max()) < 0.02


def test_the_object_moves_as_the_scan_does() -> None:
    """A peak under a scan point stays under it when the raster turns."""
    canvas = make_canvas(EXPERIMENT.positions_A(), EXPERIMENT.grid.sampling_A, 32)
    index, sampling = 2 * 9 + 7, EXPERIMENT.grid.sampling_A

    def peak_at(experiment: Experiment) -> np.ndarray:
        return experiment.positions_A()[index] / sampling + np.array(canvas.scan_centre_px)

    rows, cols = np.indices(canvas.shape)
    row, col = peak_at(EXPERIMENT)
    image = np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 8)
    there = nudged(nudged(EXPERIMENT, "rotation_deg", 8.0), "shear", 0.05)
    follows = moved(
        torch.from_numpy(image[None]).float(), canvas, FrameChange.between(EXPERIMENT, there)
    )[0].numpy()
    weight = follows.sum()
    centroid = ((rows * follows).sum() / weight, (cols * follows).sum() / weight)
    np.testing.assert_allclose(centroid, peak_at(there), atol=0.1)


def test_the_mean_of_two_calibrations_lies_between() -> None:
    there = nudged(nudged(EXPERIMENT, "defocus_A", 10.0), "tilt_row_mrad", 2.0)
    mean = mean_of([EXPERIMENT, there])
    assert mean.defocus_A == pytest.approx(95.0)
    assert mean.tilt_mrad == pytest.approx((4.0, -2.0))
    np.testing.assert_allclose(mean.affine, EXPERIMENT.affine)


def test_cropped_patterns_keep_the_inner_electrons(rng: np.random.Generator) -> None:
    counts = rng.poisson(0.5, size=(5, 16, 16))
    centred = np.fft.ifftshift(counts, axes=(1, 2)).reshape(5, -1)
    pixel = np.concatenate([np.repeat(np.arange(256), row) for row in centred])
    indptr = np.concatenate([[0], np.cumsum(centred.sum(axis=1))])
    whole = Patterns(pixel, indptr, np.arange(5), np.ones((16, 16), bool), (0.0, 0.0))

    inner = whole.cropped(10)

    assert inner.n == 10
    frame = np.repeat(np.arange(5), np.diff(inner.indptr))
    dense = np.bincount(frame * 100 + inner.pixel, minlength=500).reshape(5, 10, 10)
    np.testing.assert_array_equal(np.fft.fftshift(dense, axes=(1, 2)), counts[:, 3:13, 3:13])


def test_simulated_counts_are_poisson_about_what_is_expected(rng: np.random.Generator) -> None:
    counts = rng.poisson(0.5, size=(63, 32, 32))
    solver = solver_with(counts, tied=True, rng=rng)
    with worker_threads(1) as executor:
        bench = Bench(solver.settings, torch.device("cpu"), executor, rng)
        drawn = [simulated_counts(solver, bench) for _ in range(30)]
    expected = solver.expected(torch.arange(63), solver.transmission()).numpy()
    for patterns in drawn[:2]:
        assert len(patterns.indptr) == 64
        assert patterns.n_electrons == patterns.indptr[-1]
    totals = np.array([np.diff(p.indptr) for p in drawn])
    assert totals.mean() == pytest.approx(expected.sum(axis=(1, 2)).mean(), rel=0.01)
    assert totals.var(axis=0).mean() == pytest.approx(totals.mean(), rel=0.15)


def test_the_fit_of_noise_likes_a_larger_scan(rng: np.random.Generator) -> None:
    """Incidental parameters: the pull towards a larger area is there though the scan is right."""
    counts = rng.poisson(1.0, size=(63, 32, 32))
    solver = solver_with(counts, tied=True, rng=rng)
    with worker_threads(1) as executor:
        bench = Bench(solver.settings, torch.device("cpu"), executor, rng)
        pulls = [measure_optimism(solver, bench) for _ in range(3)]
    assert np.mean(pulls) > 0


def sigmas_with(optimism: float, rng: np.random.Generator, dose: float) -> dict[str, float]:
    """What a refiner says it knows the raster to, after its first look at some counts."""
    solver = solver_with(rng.poisson(dose, size=(63, 32, 32)), tied=True, rng=rng)
    raster = tuple(replace(u, first_pass=1) for u in UNKNOWNS if u.name in ("scale", "shear"))
    refiner = Refiner(solver, raster, 63, optimism=optimism)
    with worker_threads(1) as executor:
        refiner.begin_pass(1, rng, executor)
    return refiner.sigma


def test_a_scale_that_optimism_hides_is_known_no_better_than_the_nominal_step() -> None:
    """The spring that holds a doubtful scale to the nominal step must not pass for information."""
    honest, misled, lost = (
        sigmas_with(optimism, np.random.default_rng(5), 30.0) for optimism in (0.0, 1e3, 1e7)
    )
    assert honest["scale"] < misled["scale"] < lost["scale"]
    assert lost["scale"] == pytest.approx(NOMINAL_SCALE_SIGMA, rel=1e-3)
    assert honest["shear"] == misled["shear"] == lost["shear"]


def test_more_electrons_see_through_the_optimism() -> None:
    faint, bright = (
        sigmas_with(1e3, np.random.default_rng(5), dose)["scale"] for dose in (3.0, 300.0)
    )
    assert bright < 0.5 * faint


def test_slices_follow_the_thickness() -> None:
    params = ReconstructionParams(slice_thickness_A=50.0)
    assert slices_for(201.0, params) == 5
    assert slices_for(10.0, params) == 2
    assert slices_for(1e5, params) == 12
    assert slices_for(201.0, params.model_copy(update={"n_slices": 1})) == 1


def test_a_resized_experiment_sees_the_same_window() -> None:
    inner = resized(EXPERIMENT, 24)
    assert inner.grid.n * inner.grid.sampling_A == pytest.approx(32 * 0.45)
    assert inner_size(replace(EXPERIMENT, k_edge_A=0.2)) < 32
    assert inner_size(replace(EXPERIMENT, k_edge_A=0.9)) == 32
