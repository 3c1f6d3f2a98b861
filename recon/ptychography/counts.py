"""Sparse counts on the compute device: the pixels that were hit, and by how many electrons.

The likelihood needs the expected intensity at the hits only, and its sum, which is known: at 100
electrons per pattern of 4096 pixels that is forty times less than all pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.patterns import Patterns

BLOCK = 1 << 16
"""Electrons that are sorted at a time."""


@dataclass(frozen=True)
class Hits:
    """Pixels of a batch that were hit, and their electrons.

    ``index`` is flat in (batch, n, n), int64; ``electrons`` float32 (set, hit), fitted and, if
    there are any, held out; pattern ``p`` of the batch has the entries from ``starts[p]`` up to
    ``starts[p + 1]``.
    """

    index: Tensor
    electrons: Tensor
    starts: NDArray[np.int64]

    def part(self, first: int, last: int, pixels: int) -> "Hits":
        """Hits of the patterns ``first:last``, of so many ``pixels``, as a batch of its own."""
        starts = self.starts[first : last + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        index = self.index[entries]
        return Hits(
            index - first * pixels if first else index,
            self.electrons[:, entries],
            starts - starts[0],
        )


class CountStore:
    """All hits of a set of patterns; memory grows with the electrons, not with the pixels.

    ``held_out`` are other electrons of the same patterns.
    """

    def __init__(
        self, fitted: Patterns, device: torch.device, held_out: Patterns | None = None
    ) -> None:
        self.n, self.device = fitted.n, device
        sets = (fitted,) if held_out is None else (fitted, held_out)
        pixel, electrons, self.indptr = distinct_hits(*sets)
        self.pixel = torch.from_numpy(pixel).to(device)
        self.electrons = torch.from_numpy(electrons).to(device)
        self._first = torch.from_numpy(self.indptr).to(device)

    def hits(self, which: Tensor) -> Hits:
        """Hits of the chosen patterns, in that order.

        ``which`` had better be in main memory, for nobody then waits for the device.
        """
        chosen = which.cpu().numpy()
        starts = np.concatenate([[0], np.cumsum(self.indptr[chosen + 1] - self.indptr[chosen])])
        total = int(starts[-1])
        where = which.to(self.device)
        first = self._first[where]
        length = self._first[where + 1] - first
        skipped = first - (torch.cumsum(length, 0) - length)
        entry = torch.repeat_interleave(skipped, length, output_size=total)
        entry += torch.arange(total, device=self.device)
        base = torch.arange(len(where), device=self.device) * self.n**2
        index = torch.repeat_interleave(base, length, output_size=total)
        index += self.pixel.index_select(0, entry)
        electrons = self.electrons.index_select(1, entry)
        return Hits(index, electrons.to(torch.float32), starts)

    def dense(self, which: Tensor) -> Tensor:
        """Fitted counts of the chosen patterns, float32, (batch, n, n)."""
        hits = self.hits(which)
        counts = torch.zeros(len(which) * self.n**2, device=self.device)
        counts[hits.index] = hits.electrons[0]
        return counts.view(len(which), self.n, self.n)


def distinct_hits(*sets: Patterns) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Every pixel that was hit once, however many electrons of whichever set hit it.

    Returns
    -------
    pixel (hit,), int16 or int32; electrons (set, hit), uint8 or int32
        One entry per pixel that was hit, pattern by pattern, in rising order of pixels.
    indptr
        Where each pattern begins, and the end.
    """
    pixels, n_patterns = sets[0].n ** 2, sets[0].n_patterns
    # torch does no arithmetic on uint16
    small: type[np.signedinteger[Any]] = np.int16 if pixels <= 1 << 15 else np.int32
    before = np.sum([s.indptr for s in sets], axis=0)
    ends = np.searchsorted(before, np.arange(0, before[-1], BLOCK))
    ends = np.unique(np.append(ends, n_patterns)).tolist()
    pixel: list[NDArray[Any]] = [np.zeros(0, small)]
    electrons: list[NDArray[Any]] = [np.zeros((len(sets), 0), np.uint8)]
    count = np.zeros(n_patterns, np.int64)
    for first, last in pairwise(ends):
        keys = [_keys(s, first, last) for s in sets]
        kept, which = np.unique(np.concatenate(keys), return_inverse=True)
        edges = np.cumsum([0, *map(len, keys)]).tolist()
        times = np.stack([np.bincount(which[a:b], minlength=len(kept)) for a, b in pairwise(edges)])
        frame, hit = np.divmod(kept, pixels)
        pixel.append(hit.astype(small))
        electrons.append(times.astype(np.uint8 if times.max(initial=0) < 256 else np.int32))
        count[first:last] = np.bincount(frame, minlength=last - first)
    indptr = np.concatenate([[0], np.cumsum(count)])
    return np.concatenate(pixel), np.concatenate(electrons, axis=1), indptr


def _keys(patterns: Patterns, first: int, last: int) -> NDArray[np.int64]:
    """Flat index into (pattern, pixel) of every electron of some patterns."""
    indptr = patterns.indptr
    frame = np.repeat(np.arange(last - first), np.diff(indptr[first : last + 1]))
    return frame * patterns.n**2 + patterns.pixel[indptr[first] : indptr[last]]
