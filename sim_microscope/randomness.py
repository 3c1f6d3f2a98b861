"""Random numbers that depend on the seed, the purpose and a count or an instant: nothing else.

Every draw has a stream of its own, so that reading the stage once more (a console does) or
taking one exposure less does not change the rest of the night.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Independent generator for (`seed`, `purpose`, `keys`); the same arguments, the same numbers.

    Parameters
    ----------
    seed
        Of the night; not negative.
    purpose
        What the numbers are for, e.g. ``"stage.read"``.
    keys
        Counters or instants (in µs), not negative.
    """
    words = [seed, zlib.crc32(purpose.encode()), *keys]
    return np.random.default_rng(np.random.SeedSequence(words))


def instant(t_s: float) -> int:
    """Key of an instant: microseconds since the start."""
    return max(0, round(t_s * 1e6))
