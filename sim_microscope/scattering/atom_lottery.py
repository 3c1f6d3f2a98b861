"""Random numbers that belong to an atom, not to the order in which atoms are visited.

A scan is simulated in pieces, each with its own field of atoms.  Thermal displacements, damage
and defects must be the same wherever an atom appears, so each draw is a hash of who the
atom is, what is drawn and the seed (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Identity = NDArray[np.uint64]


def identify(*numbers: NDArray[np.int64]) -> Identity:
    """One 64-bit identity from several integers, (n,) each."""
    identity = np.zeros(len(numbers[0]), dtype=np.uint64)
    for number in numbers:
        identity = _mix(identity + np.asarray(number, dtype=np.int64).astype(np.uint64))
    return identity


def uniform(identity: Identity, *, seed: int, stream: int) -> NDArray[np.float64]:
    """Uniform numbers inside (0, 1), one for each identity."""
    key = _mix(np.array([seed, stream], dtype=np.int64).astype(np.uint64))
    mixed = _mix(_mix(identity ^ key[:1]) + key[1:])
    return ((mixed >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53


def normal(identity: Identity, *, seed: int, stream: int) -> NDArray[np.float64]:
    """Standard normal numbers, one for each identity."""
    return np.asarray(ndtri(uniform(identity, seed=seed, stream=stream)))


def normal_vector(identity: Identity, *, seed: int, stream: int) -> NDArray[np.float64]:
    """Three independent standard normal numbers for each identity, (n, 3)."""
    return np.stack(
        [normal(identity, seed=seed, stream=100 * stream + i) for i in range(3)], axis=1
    )


def _mix(x: Identity) -> Identity:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
