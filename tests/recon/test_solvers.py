"""Every likelihood and rule follows its gradient; priors, probes and positions do what they say."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.execution import Alone
from recon.params import ParameterError, ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.multislice import forward
from recon.ptychography.optics import Grid
from recon.ptychography.raster import Canvas, make_canvas
from recon.ptychography.variation import variation, variation_gradient
from recon.reconstruct import reconstruct
from recon.solvers.epie import EpieSolver, SequentialError
from recon.solvers.general import Choices, GeneralSolver
from recon.solvers.likelihood import Name, losses, slopes
from recon.solvers.positions import correct_positions, position_pulls
from recon.solvers.probe_modes import (
    CUBATURES,
    ProbeModeError,
    carries_free_probe,
    free_modes,
    orthogonal,
    source_modes,
)
from recon.solvers.problem import Data, Problem
from recon.solvers.regularisers import (
    band_limited,
    lattice_averaged,
)
from recon.solvers.rules import Adam, Lbfgs, Momentum

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

FLOOR = 0.002
"""Nearly none: the counts here hold nothing that the model cannot explain."""
NAMES: tuple[Name, ...] = ("poisson", "anscombe", "amplitude")
EXPERIMENT = Experiment(
    grid=Grid(n=24, sampling_A=0.5, wavelength_A=0.0197),
    k_edge_A=0.45,
    beam_offset_A=(0.01, -0.02),
    scan_shape=(7, 9),
    scan_step_A=0.9,
    defocus_A=80.0,
    C12a_A=5.0,
    C12b_A=-3.0,
    rotation_deg=12.0,
    affine=((1.0, 0.0), (0.0, 1.0)),
    tilt_mrad=(2.0, -1.0),
    thickness_A=60.0,
    n_slices=2,
)


@pytest.fixture
def one_thread() -> Any:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@dataclass(frozen=True)
class Known:
    """Counts of a known object, of the model itself: what is tested is the fit, not the physics."""

    problem: Problem
    slices: torch.Tensor
    spectra: torch.Tensor
    canvas: Canvas
    jitter_A: np.ndarray


def known(
    electrons: float,
    *,
    likelihood: Name = "poisson",
    jitter_A: float = 0.0,
    modes: torch.Tensor | None = None,
    held_out: bool = True,
    tied: bool = False,
    seed: int = 4,
) -> Known:
    rng = np.random.default_rng(seed)
    positions = EXPERIMENT.positions_A()
    jitter = jitter_A * rng.standard_normal(positions.shape)
    canvas = make_canvas(positions, 0.5, 24)
    rows, cols = np.indices(canvas.shape)
    phase = np.zeros((2, *canvas.shape))
    for y, x in rng.uniform(8, np.array(canvas.shape) - 8, (12, 2)):
        phase += 0.5 * np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / 3.0)
    phase[1] *= 1.0 if tied else 0.8
    slices = torch.from_numpy(phase.astype(np.float32))
    spectra = EXPERIMENT.probe_spectrum()[None] if modes is None else modes
    n = len(positions)
    nothing = Patterns(
        np.zeros(0, np.int64), np.zeros(n + 1, np.int64), np.arange(n), np.ones((24, 24), bool),
        (0.0, 0.0),
    )  # fmt: skip
    data = Data(nothing, None, likelihood, FLOOR)
    ideal = Problem(EXPERIMENT, canvas, data, torch.device("cpu"), Alone(), tied=tied)
    ideal.move_positions(jitter)
    scaled = (spectra * electrons**0.5).to(torch.complex64)
    windows = ideal.gather(torch.polar(torch.ones_like(slices), slices), torch.arange(n))
    waves = forward(ideal.probe_table(scaled)[ideal.raster.shift_index], windows, ideal.H)
    counts = rng.poisson(waves.intensity().numpy()).reshape(n, -1)
    pixel = np.concatenate([np.repeat(np.arange(576), row) for row in counts])
    indptr = np.concatenate([[0], np.cumsum(counts.sum(axis=1))])
    everything = replace(nothing, pixel=pixel, indptr=indptr)
    first, second = everything.split(0.9, rng)
    data = Data(first if held_out else everything, second if held_out else None, likelihood, FLOOR)
    problem = Problem(EXPERIMENT, canvas, data, torch.device("cpu"), Alone(), tied=tied)
    return Known(problem, slices[:1] if tied else slices, spectra, canvas, jitter)


CHOICES = Choices(
    batch=16, coupling=1.0, positivity=True, priors=(), free_probe=False, positions=False
)


@settings(max_examples=30)
@given(
    name=st.sampled_from(NAMES),
    intensity=st.floats(0.0, 50.0),
    counts=st.integers(0, 60),
    floor=st.floats(0.01, 2.0),
)
def test_every_slope_is_the_derivative_of_its_loss(
    name: Name, intensity: float, counts: int, floor: float
) -> None:
    i, y = (torch.tensor([float(v)], dtype=torch.float64) for v in (intensity, counts))
    h = 1e-6 * (1 + intensity)
    change = losses(name, i + h, y, floor) - losses(name, i - h, y, floor)
    slope = slopes(name, i, y, floor)
    torch.testing.assert_close(slope, change / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_all_likelihoods_have_the_curvature_of_the_shot_noise(name: Name) -> None:
    """d2L/dI2 = 1 / I where the counts are what is expected: one step length fits all."""
    i = torch.tensor([40.0], dtype=torch.float64)
    slope = slopes(name, i + 1e-4, i, 0.0) - slopes(name, i - 1e-4, i, 0.0)
    assert float(slope / 2e-4) == pytest.approx(1 / 40.0, rel=0.02)


def test_only_poisson_is_unbiased_at_few_counts() -> None:
    mean = 0.03
    counts = torch.poisson(torch.full((200_000,), mean), torch.Generator().manual_seed(1))
    bias = {n: float(slopes(n, torch.full_like(counts, mean), counts, 0.0).mean()) for n in NAMES}
    assert abs(bias["poisson"]) < 0.05
    assert bias["amplitude"] > 1.0


@settings(max_examples=10)
@given(st.floats(0.05, 0.95), st.integers(0, 2**31))
def test_thinning_deals_poisson_counts_into_independent_poisson_counts(
    fraction: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 4000
    counts = rng.poisson(3.0, n)
    everything = Patterns(
        np.zeros(counts.sum(), np.int64), np.concatenate([[0], np.cumsum(counts)]),
        np.arange(n), np.ones((1, 1), bool), (0.0, 0.0),
    )  # fmt: skip
    first, second = (np.diff(part.indptr) for part in everything.split(fraction, rng))
    np.testing.assert_array_equal(first + second, counts)
    for part, mean in ((first, 3 * fraction), (second, 3 * (1 - fraction))):
        assert part.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / n))
        # the variance of a Poisson variance estimate is (2 mean^2 + mean) / n
        assert part.var() == pytest.approx(mean, abs=5 * np.sqrt((2 * mean**2 + mean) / n))
    both = np.sqrt(first.var() * second.var() / n)
    assert abs(np.cov(first, second)[0, 1]) < 5 * both


def test_no_electron_of_any_mode_is_lost(one_thread: ThreadPoolExecutor) -> None:
    """Poisson without a floor: the loss of a dark scan is the electrons that were expected."""
    truth = known(50.0, held_out=False)
    modes = (source_modes(EXPERIMENT, 7, 0.6) * 50.0**0.5).to(torch.complex64)
    dark = replace(
        truth.problem.patterns, pixel=np.zeros(0, np.int64), indptr=np.zeros(64, np.int64)
    )
    data = Data(dark, None, "poisson", 0.0)
    problem = Problem(EXPERIMENT, truth.canvas, data, torch.device("cpu"), Alone(), tied=False)
    problem.floor = 1e-9
    found = problem.evaluate(truth.slices, modes, torch.arange(63), one_thread)
    assert found.fitted == pytest.approx(63 * 50.0, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_by_object_and_probe_are_finite_differences(
    name: Name, tied: bool, one_thread: ThreadPoolExecutor
) -> None:
    """Three incoherent modes, through the multislice model, for every likelihood."""
    modes = source_modes(EXPERIMENT, 3, 0.4)
    truth = known(400.0, likelihood=name, modes=modes, tied=tied)
    spectra = (modes * 400.0**0.5).to(torch.complex64)
    which = torch.arange(20)
    here = 0.7 * truth.slices
    found = truth.problem.evaluate(here, spectra, which, one_thread, with_probe=True)
    generator = torch.Generator().manual_seed(5)
    smooth = torch.randn(here.shape, generator=generator)
    eps = 3e-3

    def loss(slices: torch.Tensor, probe: torch.Tensor) -> float:
        return truth.problem.evaluate(slices, probe, which, one_thread).fitted

    change = (loss(here + eps * smooth, spectra) - loss(here - eps * smooth, spectra)) / (2 * eps)
    assert float((found.gradient * smooth).sum()) == pytest.approx(change, rel=5e-3)
    assert found.probe is not None
    turn = found.probe / found.probe.abs().max()
    change = (loss(here, spectra + eps * turn) - loss(here, spectra - eps * turn)) / (2 * eps)
    slope = 2 * float((found.probe.conj() * turn).real.sum())
    assert slope == pytest.approx(change, rel=5e-3)


@pytest.mark.parametrize("rule", ["lsq", "adam", "lbfgs", "epie"])
@pytest.mark.parametrize("name", NAMES)
def test_every_engine_lowers_its_loss_and_finds_the_object(
    rule: str, name: Name, one_thread: ThreadPoolExecutor
) -> None:
    truth = known(3000.0, likelihood=name)
    made: Any
    if rule == "epie":
        made = EpieSolver(truth.problem, truth.spectra, 0.7)
    else:
        climb = {"lsq": Momentum(0.5, 0.7), "adam": Adam(0.5, 0.9), "lbfgs": Lbfgs(1.0)}[rule]
        made = GeneralSolver(truth.problem, truth.spectra, climb, CHOICES)
    rng = np.random.default_rng(1)
    results = [made.run_pass(rng, one_thread) for _ in range(8)]
    fitted = [result.fitted for result in results]
    assert fitted[-1] < fitted[0]
    if rule == "lbfgs":
        assert fitted == sorted(fitted, reverse=True), "a line search never goes up"
    assert results[-1].held_out < results[0].held_out
    inner = (slice(16, -16), slice(16, -16))
    image, object_ = (s.sum(dim=0)[inner].numpy() for s in (made.all_slices(), truth.slices))
    assert np.corrcoef(image.ravel(), object_.ravel())[0, 1] > 0.85


def test_epie_cannot_be_shared() -> None:
    truth = known(100.0)
    truth.problem.team = type("Two", (Alone,), {"size": 2})(rank=0, size=2)
    with pytest.raises(SequentialError, match="one pattern after the other; 2 processes"):
        EpieSolver(truth.problem, truth.spectra, 1.0)


@pytest.mark.parametrize("modes", [3, 4, 7])
def test_a_source_is_a_gaussian_of_the_stated_width(modes: int) -> None:
    weights, rows, cols = np.array(CUBATURES[modes]).T
    assert weights.sum() == pytest.approx(1)
    assert (weights * rows).sum() == pytest.approx(0, abs=1e-12)
    assert (weights * rows * cols).sum() == pytest.approx(0, abs=1e-12)
    assert (weights * rows**2).sum() == pytest.approx(1)
    assert (weights * cols**2).sum() == pytest.approx(1)
    power = source_modes(EXPERIMENT, modes, 0.5).abs().square().sum()
    assert float(power) == pytest.approx(1.0)
    with pytest.raises(ProbeModeError, match="probe_modes is 5"):
        source_modes(EXPERIMENT, 5, 0.5)


def test_orthogonal_modes_are_the_same_incoherent_sum() -> None:
    generator = torch.Generator().manual_seed(3)
    modes = torch.randn((3, 24, 24), dtype=torch.complex128, generator=generator)
    turned = orthogonal(modes)
    flat = turned.view(3, -1)
    gram = flat.conj() @ flat.T
    power = gram.diagonal().real
    assert float((gram - torch.diag(gram.diagonal())).abs().max()) < 1e-9 * float(power[0])
    assert power.tolist() == sorted(power.tolist(), reverse=True)
    density = [torch.fft.ifft2(m).abs().square().sum(dim=0) for m in (modes, turned)]
    torch.testing.assert_close(density[0], density[1])
    start = free_modes(EXPERIMENT, 3)
    assert float(start.abs().square().sum()) == pytest.approx(1.0)
    overlap = (start[0].conj() * EXPERIMENT.probe_spectrum()).sum() / 0.9**0.5
    assert complex(overlap) == pytest.approx(1.0)


def test_partial_coherence_is_seen_by_the_held_out_electrons(
    one_thread: ThreadPoolExecutor,
) -> None:
    """Counts of a wide source are explained better by a wide source than by a point."""
    modes = source_modes(EXPERIMENT, 7, 0.8)
    truth = known(3000.0, modes=modes)
    outcome = {}
    for name, spectra in (("wide", modes), ("point", EXPERIMENT.probe_spectrum()[None])):
        solver = GeneralSolver(truth.problem, spectra, Momentum(0.5, 0.7), CHOICES)
        rng = np.random.default_rng(1)
        outcome[name] = min(solver.run_pass(rng, one_thread).held_out for _ in range(6))
    assert outcome["wide"] < outcome["point"]


def test_a_free_probe_finds_its_aberration_where_the_dose_carries_it(
    one_thread: ThreadPoolExecutor,
) -> None:
    assert "the probe stays parametric" in carries_free_probe(EXPERIMENT, 2, 400_000)
    assert not carries_free_probe(EXPERIMENT, 2, 40_000_000)
    truth = known(20000.0)
    wrong = replace(EXPERIMENT, C12a_A=35.0).probe_spectrum()[None]

    def agreement(spectra: torch.Tensor) -> float:
        true = truth.spectra[0].to(torch.complex64)
        found = spectra[0] / spectra[0].norm()
        return float((found.conj() * true).sum().abs() / true.norm())

    choices = replace(CHOICES, free_probe=True)
    solver = GeneralSolver(truth.problem, wrong, Momentum(0.5, 0.7), choices)
    before = agreement(solver.spectra)
    rng = np.random.default_rng(1)
    for _ in range(26):
        solver.run_pass(rng, one_thread)
    assert agreement(solver.spectra) > before + 0.5 * (1 - before)
    assert float(solver.spectra.abs().square().sum()) == pytest.approx(
        truth.problem.per_pattern, rel=1e-4
    )


def test_pulls_at_positions_are_finite_differences_and_scatter_as_fisher_says(
    one_thread: ThreadPoolExecutor,
) -> None:
    truth = known(2000.0, held_out=False)
    spectra = (truth.spectra * 2000.0**0.5).to(torch.complex64)
    pull, information = position_pulls(truth.problem, truth.slices, spectra, one_thread)
    assert (pull**2).mean() == pytest.approx(information.mean(), rel=0.3)
    step = EXPERIMENT.grid.sampling_A / 8  # the raster of the positions
    loss = []
    for sign in (1, -1):
        truth.problem.move_positions(np.tile([sign * step, 0.0], (63, 1)))
        every = torch.arange(63)
        loss.append(truth.problem.evaluate(truth.slices, spectra, every, one_thread).fitted)
    change = (loss[0] - loss[1]) / (2 * step)
    assert change == pytest.approx(pull[:, 0].sum(), rel=0.1, abs=0.02 * np.abs(pull).sum())


def test_positions_move_where_counts_carry_it_and_stay_where_they_do_not(
    one_thread: ThreadPoolExecutor,
) -> None:
    for electrons, carried in ((20000.0, True), (20.0, False)):
        truth = known(electrons, jitter_A=0.2 if carried else 0.0)
        spectra = (truth.spectra * truth.problem.per_pattern**0.5).to(torch.complex64)
        moved_A = correct_positions(truth.problem, truth.slices, spectra, one_thread)
        if not carried:
            assert moved_A == 0.0
            assert not truth.problem.shift_A.any()
            continue
        assert moved_A == pytest.approx(0.2, rel=0.3)
        _, information = position_pulls(truth.problem, truth.slices, spectra, one_thread)
        left = truth.problem.shift_A - truth.jitter_A
        before, after = (float((information * e**2).sum()) for e in (truth.jitter_A, left))
        assert after < 0.5 * before, "weighted by what each position's counts know of it"


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_variation_has_the_gradient_it_claims(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((2, 9, 7), dtype=torch.float64, generator=generator)
    turn = torch.randn(image.shape, dtype=torch.float64, generator=generator)
    change = (variation(image + 1e-6 * turn) - variation(image - 1e-6 * turn)) / 2e-6
    torch.testing.assert_close((variation_gradient(image) * turn).sum(), change, rtol=1e-4, atol=0)


def test_total_variation_is_a_matter_of_the_default_engine_too(turned: "Truth") -> None:
    """Both engines, one prior: fewer slopes, and it is said so."""
    data = turned.counted(100.0, nominal_thickness_A=turned.thickness_A)
    params = ReconstructionParams(
        max_passes=4, patience=4, threads=1, refine=(), rotation_deg=11.0, defocus_A=120.0,
        half_set_frc=False, regularisers=(),
    )  # fmt: skip
    tv = params.updated(regularisers=[{"kind": "tv"}])
    limited = [{"kind": "tv"}, {"kind": "band_limit", "finest_A": 0.3}]
    assert not tv.beside_default
    assert params.updated(regularisers=limited).beside_default
    rough, smooth, beside = (
        reconstruct(data, p) for p in (params, tv, params.updated(regularisers=limited))
    )
    slopes_of = [float(variation(torch.from_numpy(r.slices_phase_rad))) for r in (rough, smooth)]
    assert slopes_of[1] < 0.9 * slopes_of[0]
    assert any("total variation" in text for text in smooth.priors)
    assert not any("total variation" in text for text in rough.priors)
    assert min(smooth.curves.held_out) < min(rough.curves.held_out)
    # One engine takes the pass order as the other does: the fits are the same but for rounding
    np.testing.assert_allclose(smooth.curves.held_out, beside.curves.held_out, rtol=1e-4)


def test_a_band_limit_is_a_projection() -> None:
    image = torch.randn((1, 20, 31), generator=torch.Generator().manual_seed(1))
    once = band_limited(image, 2.0, 0.5)
    torch.testing.assert_close(band_limited(once, 2.0, 0.5), once, rtol=0, atol=1e-5)
    q = np.hypot(np.fft.fftfreq(20, 0.5)[:, None], np.fft.fftfreq(31, 0.5)[None])
    spectrum = np.abs(np.fft.fft2(once[0].numpy()))
    assert spectrum[q > 0.5].max() < 1e-3 * spectrum.max()


def test_what_repeats_survives_a_lattice_average_and_a_defect_stays_in_the_residual() -> None:
    a, b = (7.3, 1.1), (-0.8, 9.6)
    rows, cols = np.indices((64, 71))
    u, v = np.linalg.inv(np.array([a, b]).T) @ np.stack([rows.ravel(), cols.ravel()])
    perfect = (np.cos(2 * np.pi * u) + np.sin(2 * np.pi * v)).reshape(64, 71).astype(np.float32)
    known_everywhere = np.ones_like(perfect, bool)
    average = lattice_averaged(perfect, a, b, known_everywhere)
    assert np.abs(average - perfect).max() < 0.25
    assert np.corrcoef(average.ravel(), perfect.ravel())[0, 1] > 0.99
    defective = perfect.copy()
    defective[30:33, 40:43] += 3.0
    residual = defective - lattice_averaged(defective, a, b, known_everywhere)
    assert np.unravel_index(np.argmax(residual), residual.shape)[0] in (30, 31, 32)
    assert residual[31, 41] > 2.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"probe_modes": 3}, "no source size"),
        ({"probe_modes": 5, "source_size_A": 0.5}, "3, 4 or 7"),
        ({"regularisers": [{"kind": "hope"}]}, "regularisers"),
        ({"regularisers": [{"kind": "tv", "wieght": 1}]}, "wieght"),
    ],
)
def test_nonsense_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        ReconstructionParams().updated(**fields)


def test_engines_and_priors_are_reachable_and_told_in_the_result(turned: "Truth") -> None:
    data = turned.counted(300.0, nominal_thickness_A=turned.thickness_A)
    params = ReconstructionParams().updated(
        max_passes=3, threads=1, refine_patterns=32, half_set_frc=True, solver="adam",
        likelihood="anscombe", source_size_A=0.3, probe_modes=3, position_correction="auto",
        probe="parametric",
        regularisers=[
            {"kind": "tv", "weight": 0.3}, {"kind": "band_limit", "finest_A": 0.7},
            {"kind": "lattice", "a_A": [20.0, 0.0], "b_A": [0.0, 20.0], "strength": 0.3},
        ],
    )  # fmt: skip
    result = reconstruct(data, params)
    assert len(result.probe) == 3
    assert result.lattice_residual_rad is not None
    assert result.lattice_residual_rad.shape == result.phase_rad.shape
    assert any("total variation" in text for text in result.priors)
    assert any("lattice average" in text for text in result.priors)
    assert any("one by one" in text for text in result.warnings)
    assert result.summary()["priors"] == list(result.priors)
    assert result.frc is not None
