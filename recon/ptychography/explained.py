"""How much of what a model claims to know the electrons confirm.

A model that expects I electrons where the mean pattern of the scan says M claims a gain of
log-likelihood of

    sum I log((I + b) / (M + b)),

b the background floor. What the electrons really gain is the same sum over the counts. The two
agree if the model is right; a model that has bent an object until it fits the wrong optics
claims more than comes true. No half set shows this: halves that share a wrong model agree.

Noise in the object claims as well. Electrons that it was fitted to flatter it by as much as
electrons that it has never seen disappoint it (the symmetry behind Akaike's criterion): the mean of
the two shares is free of noise, also for few electrons.
"""

import torch
from torch import Tensor

from recon.ptychography.solver import CHUNK, MultisliceSolver


def explained_share(solver: MultisliceSolver) -> float:
    """Part of the claimed gain over the mean pattern that comes true; NaN if nothing is claimed.

    The mean of the shares of fitted and held-out electrons; of one of them where none are held.
    """
    everyone = torch.arange(solver.patterns.n_patterns, device=solver.device)
    mean = _mean_pattern(solver, everyone)
    transmission = solver.transmission()
    claimed, sums = (
        0.0,
        torch.zeros(len(solver.counts.electrons), dtype=torch.float64, device=solver.device),
    )
    for which in torch.split(everyone, CHUNK):
        expected = solver.expected(which, transmission)
        gain = torch.log((expected + solver.floor) / (mean + solver.floor)) * solver.measured
        claimed += float((expected * gain).sum(dtype=torch.float64))
        hits = solver.counts.hits(which)
        gained = hits.electrons * gain.reshape(-1)[hits.index]
        sums += gained.sum(dim=1, dtype=torch.float64)
    if not claimed > 0:
        return float("nan")
    fitted, *unseen = sums.tolist()
    if not unseen or not solver.electrons_held:
        return fitted / claimed
    return (fitted + unseen[0] * solver.electrons / solver.electrons_held) / (2 * claimed)


def _mean_pattern(solver: MultisliceSolver, everyone: Tensor) -> Tensor:
    """Counts per pixel averaged over the scan, float32, (n, n)."""
    total = torch.zeros_like(solver.measured)
    for which in torch.split(everyone, CHUNK):
        total += solver.counts.dense(which).sum(dim=0)
    return total / len(everyone)
