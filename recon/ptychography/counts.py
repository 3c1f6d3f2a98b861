"""Sparse counts on the compute device, made dense one batch at a time."""

import torch
from torch import Tensor

from recon.patterns import Patterns


class CountStore:
    """All electrons of a set of patterns; memory grows with the electrons, not with the pixels."""

    def __init__(self, patterns: Patterns, device: torch.device) -> None:
        self.n = patterns.n
        self.pixel = torch.from_numpy(patterns.pixel).to(device)
        self.indptr = torch.from_numpy(patterns.indptr).to(device)

    def dense(self, which: Tensor) -> Tensor:
        """Counts of the chosen patterns, float32, (batch, n, n)."""
        first = self.indptr[which]
        count = self.indptr[which + 1] - first
        batch = torch.arange(len(which), device=which.device)
        owner = torch.repeat_interleave(batch, count)
        within = (
            torch.arange(len(owner), device=which.device) - (torch.cumsum(count, 0) - count)[owner]
        )
        flat = owner * (self.n * self.n) + self.pixel[first[owner] + within]
        counts = torch.bincount(flat, minlength=len(which) * self.n * self.n)
        return counts.to(torch.float32).view(len(which), self.n, self.n)
