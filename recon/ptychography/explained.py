"""How much of what a model claims to know the electrons confirm.

A model that expects I electrons where the mean pattern of the scan says M claims a gain of
log-likelihood of

    sum I log((I + b) / (M + b)),

b the background floor, for electrons that it has never seen. What they really gain is the same sum
over the counts. The two agree if the model is right; a model that has bent an object until
it fits the wrong optics claims more than comes true. No half set shows this: halves that
share a wrong model agree with each other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.ptychography.solver import CHUNK, MultisliceSolver


@dataclass(frozen=True)
class Explained:
    """Gains of log-likelihood over the mean pattern, nats: by the electrons, and as claimed."""

    confirmed: float
    claimed: float

    @property
    def share(self) -> float:
        """Part of the claim that comes true; NaN if nothing is claimed."""
        return self.confirmed / self.claimed if self.claimed > 0 else float("nan")


def explained(solver: MultisliceSolver) -> Explained:
    """Judge the object of ``solver`` by its held-out electrons (all of them if none are held)."""
    counts = solver.held or solver.counts
    total = solver.electrons_held if solver.held is not None else solver.electrons
    ratio = total / solver.electrons
    everyone = torch.arange(solver.patterns.n_patterns, device=solver.device)
    mean = _mean_pattern(solver, everyone) * ratio
    transmission = solver.transmission()
    floor = ratio * solver.floor
    confirmed = claimed = 0.0
    for which in torch.split(everyone, CHUNK):
        expected = ratio * solver.expected(which, transmission)
        gain = torch.log((expected + floor) / (mean + floor)) * solver.measured
        confirmed += float((counts.dense(which) * gain).sum(dtype=torch.float64))
        claimed += float((expected * gain).sum(dtype=torch.float64))
    return Explained(confirmed, claimed)


def _mean_pattern(solver: MultisliceSolver, everyone: Tensor) -> Tensor:
    """Counts per pixel averaged over the scan, float32, (n, n)."""
    total = torch.zeros_like(solver.measured)
    for which in torch.split(everyone, CHUNK):
        total += solver.counts.dense(which).sum(dim=0)
    return total / len(everyone)
