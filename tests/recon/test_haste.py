"""Steps are long where unseen electrons want them, and short at the end."""

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.engine import solver_settings, wanted
from recon.haste import (
    HEADROOM_RAD,
    LONG,
    SETTLED_PASSES,
    chosen_haste,
    haste_of,
    headroom_rad,
    next_haste,
)
from recon.joint_calibration import Bench, Found
from recon.params import ReconstructionParams
from recon.ptychography.solver import worker_threads
from recon.thickness import thickness_look
from tests.recon.test_global_parameters import EXPERIMENT, ON_PIXELS
from tests.recon.test_thickness import started

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

PARAMS = ReconstructionParams(threads=1)
LOSSES = st.lists(st.floats(1, 10), max_size=20)


@given(st.integers(1, 40), st.sampled_from([1.0, 2.0, 4.0]))
def test_the_last_passes_of_a_fit_have_the_usual_step(passes: int, longest: float) -> None:
    hastes = [haste_of(number, passes, longest) for number in range(1, passes + 1)]
    assert max(hastes) <= longest
    assert hastes[-SETTLED_PASSES:] == [1.0] * min(SETTLED_PASSES, passes)
    assert all(later in (earlier, earlier / 2) for earlier, later in pairwise(hastes))


@given(LOSSES, st.integers(1, 40))
def test_a_fit_that_wants_no_long_steps_has_none(losses: list[float], most: int) -> None:
    assert next_haste(losses, 1.0, most) == 1.0


@given(LOSSES)
def test_steps_never_grow_again_and_halve_from_the_first_pass_in_vain(losses: list[float]) -> None:
    hastes = [next_haste(losses[:n], LONG, 100) for n in range(len(losses) + 1)]
    assert hastes[0] == LONG
    assert all(later <= earlier for earlier, later in pairwise(hastes))
    for earlier, later in pairwise(hastes):
        assert earlier == LONG or later == max(earlier / 2, 1.0)
    for n in range(2, len(losses) + 1):
        if losses[n - 1] >= min(losses[: n - 1]):
            assert hastes[n] < LONG
    assert next_haste([*losses, 20.0, 21.0, 22.0, 23.0], LONG, 100) == 1.0


def test_steps_stay_long_while_a_fit_gains() -> None:
    losses = [5.0 - 0.1 * n for n in range(12)]
    assert next_haste(losses, LONG, 100) == LONG
    assert next_haste(losses, LONG, len(losses) + 1) == 1.0


def test_unseen_electrons_choose_the_steps() -> None:
    assert chosen_haste(lambda h: [5.0, 4.5, 4.2 if h > 1 else 4.3]) == LONG
    assert chosen_haste(lambda h: [5.0, 4.5, 4.4 if h > 1 else 4.3]) == 1.0
    assert chosen_haste(lambda h: [5.0, np.nan if h > 1 else 4.3]) == 1.0
    assert chosen_haste(lambda h: [np.nan, np.nan]) == 1.0


def test_only_hasty_fits_begin_above_zero() -> None:
    assert headroom_rad(1.0) == 0.0
    assert headroom_rad(LONG) == HEADROOM_RAD > 0


def test_a_calibration_read_back_knows_its_haste() -> None:
    found = Found(EXPERIMENT, {"defocus_A": 2.0}, 30.0, LONG)
    assert Found.from_document(found.document(), ON_PIXELS) == replace(
        found, experiment=replace(found.experiment, grid=ON_PIXELS.grid)
    )


@pytest.mark.parametrize("thickness_A", [64.0])
def test_small_probes_on_a_thin_specimen_want_the_usual_steps(
    turned: "Truth", thickness_A: float
) -> None:
    start, fitted, held = started(turned, thickness_A)
    with worker_threads(1) as executor:
        bench = Bench(
            solver_settings(PARAMS), torch.device("cpu"), executor, np.random.default_rng(2)
        )
        unknowns = wanted(PARAMS, start.n_slices)
        look = thickness_look(fitted, held, unknowns, thickness_A, bench, PARAMS)
        assert look is not None
        assert look.haste(start) == 1.0
