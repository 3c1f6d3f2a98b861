"""Are the slices one and the same? Electrons that no fit has seen decide.

Columns along the beam want slices that are tied: a quarter of the unknowns. Matter that changes
with depth (two crystals on each other) cannot be told with tied slices, and bends the image. So the
tied object, once fitted, is set free for a few passes: where the held-out likelihood gains what is
worth it, the fit goes on with free slices, else all is as it was. Degrees of coupling in between
were never better than both ends.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from recon.ptychography.solver import MultisliceSolver
from recon.ptychography.stopping import HeldOutStop

TRIAL_PASSES = 2
WORTH_NATS = 0.003
"""Gain per held-out electron for which slices are set free: those of one crystal gain less."""


@dataclass(frozen=True)
class Freed:
    """A fit with free slices that went on from a tied one."""

    solver: MultisliceSolver
    """With the best slices."""
    losses: tuple[tuple[float, float], ...]
    """Fitted and held-out loss of every pass."""
    best: int
    """The pass whose slices these are."""


def worth_of_freedom(stop: HeldOutStop, first_loss: float) -> float:
    """What a held-out electron has to gain, nats: more than passes that were not worth waiting for.

    ``first_loss`` is that after the first pass of the fit which ``stop`` has ended.
    """
    return max(WORTH_NATS, TRIAL_PASSES * stop.worth * (first_loss - stop.best))


def free_if_better(
    tied: MultisliceSolver,
    held_out: float,
    rng: np.random.Generator,
    executor: ThreadPoolExecutor,
    *,
    patience: int,
    most: int,
    needed: float,
    on_pass: Callable[[int], None],
) -> Freed | None:
    """Set the slices free, if that is worth it.

    Parameters
    ----------
    tied
        A solver with the best tied slices; it is left as it is.
    held_out
        Held-out loss of those.
    most
        Largest number of passes.
    needed
        What a held-out electron has to gain in the first passes, nats.

    Returns
    -------
    None where the held-out electrons do not gain enough in the first passes.
    """
    free = tied.freed()
    stop = HeldOutStop(patience)
    losses: list[tuple[float, float]] = []
    best = free.slices
    while not stop.should_stop and len(losses) < most:
        result = free.run_pass(rng, executor)
        losses.append((result.fitted, result.held_out))
        on_pass(len(losses))
        if stop.observe(len(losses), result.held_out):
            best = free.all_slices()
        if len(losses) == TRIAL_PASSES and not held_out - stop.best > needed:
            return None
    free.take(best)
    return Freed(free, tuple(losses), stop.best_pass)
