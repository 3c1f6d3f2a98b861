"""The thickness that unseen electrons want, and what the calibration makes of it."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.calibrate import calibrate
from recon.calibration import Measured
from recon.engine import solver_settings, wanted
from recon.haste import LONG
from recon.joint_calibration import CREPT, Bench, Found, refine_calibration, with_thickness
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.solver import PassResult, worker_threads
from recon.ptychography.unknowns import value_of
from recon.thickness import (
    LOOK_ELECTRONS,
    LOOK_PASSES,
    LOOK_PATTERNS,
    MOST_PASSES,
    MOST_PATTERNS,
    _goes_on,
    central,
    closest,
    lowest,
    thickness_look,
)
from tests.recon.test_global_parameters import EXPERIMENT, ON_PIXELS

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

PARAMS = ReconstructionParams(threads=1, refine_patterns=48)
WITHIN = (40.0, 1500.0)


@given(st.floats(60, 1000), st.floats(60, 1000), st.floats(0.01, 0.5))
def test_the_lowest_point_of_a_valley_is_found_from_afar(
    true: float, start: float, spread: float
) -> None:
    found = lowest(lambda t: math.log(t / true) ** 2 / (2 * spread**2), start, WITHIN)
    assert found.at == pytest.approx(true, rel=1e-3)
    assert found.sigma == pytest.approx(true * spread, rel=1e-3)


def test_the_way_out_of_a_far_too_thin_valley_is_walked() -> None:
    """Held-out losses of a crystal of 340 Å whose refinement had ended at 140, 1e4 electrons."""
    loss = ([100.0, 140.0, 200.0, 340.0, 600.0], [4.470, 4.460, 4.454, 4.437, 4.466])
    found = lowest(
        lambda t: 1e4 * float(np.interp(np.log(t), np.log(loss[0]), loss[1])), 140.0, WITHIN
    )
    assert found.at == pytest.approx(340.0, rel=0.1)


def test_what_cannot_be_told_has_a_wide_sigma() -> None:
    assert lowest(lambda t: 0.0, 200.0, WITHIN).sigma >= 200
    assert lowest(lambda t: 1e-3 * math.log(t / 200) ** 2, 200.0, WITHIN).sigma >= 200


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_slope_without_an_end_is_not_followed_for_ever(sign: float) -> None:
    found = lowest(lambda t: sign * 100 * t, 300.0, WITHIN)
    assert WITHIN[0] <= found.at <= WITHIN[1]
    assert found.sigma > found.at / 2


def test_a_close_look_costs_three_fits() -> None:
    calls: list[float] = []

    def cost(t: float) -> float:
        calls.append(t)
        return 50 * math.log(t / 320) ** 2

    assert closest(cost, 300.0, WITHIN).at == pytest.approx(320, rel=1e-3)
    assert len(calls) == 3


def test_a_close_look_goes_on_to_where_the_lowest_has_neighbours() -> None:
    """A refinement that had ended at 483 Å where 650 are true."""
    found = closest(lambda t: 50 * math.log(t / 650) ** 2, 483.0, WITHIN)
    assert found.at == pytest.approx(650, rel=1e-3)
    assert found.sigma < 100


@given(st.lists(st.floats(1, 9), min_size=2, max_size=30), st.sampled_from([0.005, 0.01]))
def test_a_look_goes_on_while_a_pass_gains(losses: list[float], worth: float) -> None:
    if len(losses) >= MOST_PASSES or losses[-1] >= losses[-2]:
        assert not _goes_on(losses, worth)
    elif losses[0] >= losses[-2] > losses[-1]:
        gained = losses[-2] - losses[-1]
        assert _goes_on(losses, worth) == (gained > worth * (losses[0] - losses[-1]))


def test_the_crossover_keeps_its_distance_from_the_middle() -> None:
    thicker = with_thickness(EXPERIMENT, EXPERIMENT.thickness_A + 200, PARAMS)
    middle = EXPERIMENT.defocus_A - EXPERIMENT.thickness_A / 2
    assert thicker.defocus_A - thicker.thickness_A / 2 == pytest.approx(middle)
    assert thicker.slab_A <= PARAMS.slice_thickness_A


def patterns_of(electrons: int, shape: tuple[int, int]) -> Patterns:
    count = math.prod(shape)
    return Patterns(
        pixel=np.tile(np.arange(electrons), count),
        indptr=np.arange(count + 1) * electrons,
        position=np.arange(count),
        measured=np.ones((32, 32), bool),
        offset_px=(0.0, 0.0),
    )


def test_a_look_takes_the_middle_of_a_scan_that_has_enough() -> None:
    shape = (70, 90)
    chosen = central(patterns_of(200, shape), shape).reshape(shape)
    assert LOOK_PATTERNS <= chosen.sum() < 1.2 * LOOK_PATTERNS
    rows, cols = (np.flatnonzero(chosen.any(axis=axis)) for axis in (1, 0))
    assert rows[0] + rows[-1] == 69
    assert cols[0] + cols[-1] == 89
    sparse = central(patterns_of(50, shape), shape)
    assert LOOK_ELECTRONS <= 50 * sparse.sum() < 1.2 * LOOK_ELECTRONS
    starved = central(patterns_of(5, shape), shape)
    assert MOST_PATTERNS <= starved.sum() < 1.2 * MOST_PATTERNS
    assert central(patterns_of(5, (20, 30)), (20, 30)).all()


def test_only_chosen_patterns_are_kept_with_their_electrons() -> None:
    all_of_them = patterns_of(3, (4, 5))
    chosen = np.arange(20) % 3 == 1
    some = all_of_them.only(chosen)
    assert some.n_patterns == chosen.sum()
    assert some.n_electrons == 3 * chosen.sum()
    np.testing.assert_array_equal(some.position, np.flatnonzero(chosen))
    np.testing.assert_array_equal(np.diff(some.indptr), 3)


def started(truth: "Truth", thickness_A: float) -> tuple[Experiment, Patterns, Patterns]:
    calibrated = calibrate(truth.counted(1000.0, seed=3), PARAMS)
    fitted, held = calibrated.patterns.split(0.9, np.random.default_rng(4))
    start = Experiment.of(truth.header, calibrated.patterns, calibrated.calibration, 4)
    return with_thickness(start, thickness_A, PARAMS), fitted, held


def test_unseen_electrons_know_the_thickness(thick: "Truth") -> None:
    """Data of 256 Å by another program; the start is a third of it."""
    start, fitted, held = started(thick, 80.0)
    right = replace(start, defocus_A=thick.header.defocus_A - (thick.thickness_A - 80.0) / 2)
    with worker_threads(1) as executor:
        rng = np.random.default_rng(2)
        bench = Bench(solver_settings(PARAMS), torch.device("cpu"), executor, rng)
        look = thickness_look(fitted, held, wanted(PARAMS, 4), 200.0, bench, PARAMS)
        assert look is not None
        seen = look.thickness_A(right, close=False)
    assert seen.source == "held-out"
    assert seen.value == pytest.approx(thick.thickness_A, rel=0.15)
    assert seen.sigma < 0.1 * seen.value


def test_a_fixed_thickness_is_not_looked_at(turned: "Truth") -> None:
    start, fitted, held = started(turned, 100.0)
    fixed = PARAMS.updated(thickness_A=100.0)
    with worker_threads(1) as executor:
        rng = np.random.default_rng(2)
        bench = Bench(solver_settings(fixed), torch.device("cpu"), executor, rng)
        unknowns = wanted(fixed, start.n_slices)
        assert thickness_look(fitted, held, unknowns, 100.0, bench, fixed) is None


class Seer:
    """Sees 310 Å from afar and 330, or what is given, from nearby."""

    def __init__(self, *nearby_A: float) -> None:
        self.here: list[Experiment] = []
        self.nearby_A = list(nearby_A) or [330.0]

    def thickness_A(self, here: Experiment, *, close: bool, haste: float = 1.0) -> Measured:
        assert haste == (LONG if close else 1.0)
        self.here.append(here)
        return Measured(self.nearby_A.pop(0) if close else 310.0, 12.0, "held-out")

    def haste(self, here: Experiment) -> float:
        assert here.thickness_A == 310.0
        return LONG


def calibrated_by(
    seer: Seer, turned: "Truth", heard: list[int] | None = None
) -> tuple[Experiment, Found]:
    """Start and end of a calibration of fourteen passes, four of them in the first leg."""
    start, fitted, _ = started(turned, 64.0)
    params = PARAMS.updated(calibration_passes=14)
    with worker_threads(1) as executor:
        rng = np.random.default_rng(2)
        bench = Bench(solver_settings(params), torch.device("cpu"), executor, rng)
        unknowns = wanted(params, start.n_slices)
        passes = heard if heard is not None else []
        found = refine_calibration(start, fitted, unknowns, bench, params, passes.append, seer)
    return start, found


def test_the_calibration_takes_the_thickness_that_was_seen(turned: "Truth") -> None:
    seer = Seer()
    start, found = calibrated_by(seer, turned)
    early, late = seer.here
    assert late.thickness_A == 310.0
    assert early.thickness_A == start.thickness_A
    assert value_of(early, "scale") == pytest.approx(value_of(start, "scale"), abs=2e-4)
    assert found.haste == LONG
    assert found.experiment.thickness_A == 330.0
    assert found.experiment.defocus_A == pytest.approx(late.defocus_A + 10)
    assert found.sigma["thickness_A"] == 12.0
    crept = value_of(found.experiment, "scale") - value_of(early, "scale")
    assert found.sigma["scale"] > CREPT * abs(crept) > 0


def test_a_raster_refined_under_another_thickness_is_refined_once_more(turned: "Truth") -> None:
    """Once: what the third look sees is the last word, however far off."""
    seer, heard = Seer(400.0, 500.0), []
    _, found = calibrated_by(seer, turned, heard)
    assert [here.thickness_A for here in seer.here[1:]] == [310.0, 400.0]
    assert found.experiment.thickness_A == 500.0
    assert heard == [*range(1, 15), *[14] * 10]


def test_neighbours_are_compared_after_as_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits settle after seven passes or eight: what a pass gains would decide between them."""
    fits: list[tuple[float, int]] = []

    class Slow:
        """Gains less with every pass, more slowly the thicker."""

        electrons_held, slices = 1000, 0.0

        def __init__(self, experiment: Experiment, *_: object) -> None:
            self.thickness_A = experiment.thickness_A
            self.passes = 0

        def run_pass(self, *_: object) -> PassResult:
            self.passes += 1
            if self.passes == 1:
                fits.append((self.thickness_A, 0))
            fits[-1] = (self.thickness_A, self.passes)
            off = math.log(self.thickness_A / 340) ** 2
            return PassResult(0.0, 4 + 0.1 * off + math.exp(-self.passes * 200 / self.thickness_A))

    monkeypatch.setattr("recon.thickness.MultisliceSolver", Slow)
    patterns = patterns_of(20, ON_PIXELS.scan_shape)
    with worker_threads(1) as executor:
        rng = np.random.default_rng(2)
        bench = Bench(solver_settings(PARAMS), torch.device("cpu"), executor, rng)
        look = thickness_look(patterns, patterns, wanted(PARAMS, 4), 200.0, bench, PARAMS)
        assert look is not None
        look.thickness_A(replace(ON_PIXELS, thickness_A=200.0), close=False)
    passes = [count for _, count in fits]
    assert passes == sorted(passes)
    assert passes[-3:] == [passes[-1]] * 3
    assert LOOK_PASSES < passes[-1] <= MOST_PASSES
