"""What leaves a crystal at one orientation: intensities for any thickness, and their slopes.

One eigen-solution holds all thicknesses; the derivatives by the tilt follow from it by
perturbation, at a fraction of the cost of solving again.
"""

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.kinematical import two_beam

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Complex = NDArray[np.complex128]

_WEAK_STEP_INV_A = 1e-5
"""Step of s for slopes of two-beam intensities."""
THICKNESSES_A = np.arange(120.0, 1501.0, 20.0)
"""Thicknesses that are scanned."""
SPREADS = (0.0, 0.04, 0.12, 0.22)
"""Relative spreads of thickness over the illuminated area that are scanned: wedges to plates."""
_FINE_A = np.arange(40.0, 1921.0, 20.0)
_NODES = np.linspace(-2.4, 2.4, 13)


@dataclass(frozen=True, eq=False)
class Waves:
    """What leaves the crystal at one orientation, for any thickness."""

    gx: Array
    """Transverse g in 1/A of all beams of the set, strong first, (beams,)."""
    gy: Array
    values: Array
    """v_j / K, (m + 1,)."""
    vectors: Complex | Array
    """C_gj of all strong beams, (m + 1, m + 1), (000) first."""
    lit: Integers
    """Rows of ``vectors`` that are told of, (l,)."""
    weak_s: Array
    weak_coupling: Array

    def at(self, thickness_A: Array, spread: float) -> Array:
        """Parts of the incident beam, (beams, len(thickness_A)), averaged over a normal spread.

        ``spread`` is the standard deviation of the thickness over its mean; zero is a plate.
        """
        t = np.asarray(thickness_A, dtype=float)
        if spread == 0.0:
            strong = self._strong(t)
        else:
            weight = np.exp(-0.5 * _NODES**2)
            fine = np.maximum(t[:, None] * (1.0 + spread * _NODES), 1.0)
            strong = self._strong(fine.ravel()).reshape(-1, *fine.shape) @ (weight / weight.sum())
        return self._with_weak(strong, t, spread)

    def scan(self, spread: float, every: int = 1) -> Array:
        """The same at every so manieth of `THICKNESSES_A`, (beams, thicknesses)."""
        t = THICKNESSES_A[::every]
        if spread == 0.0:
            return self.at(t, 0.0)
        strong = self._strong(_FINE_A) @ _thickness_average(spread)[:, ::every]
        return self._with_weak(strong, t, spread)

    def slopes(self, thickness_A: float, spread: float, s_slopes: Array) -> Array:
        """Derivatives of `at` where excitation errors change, (beams, k).

        Perturbation of the eigen-solution (Daleckii and Krein): with a = pi v t / 2K

            d psi = i pi t C exp(ia) [(C^H diag(2 ds) C) * sinc(a_j - a_k)] exp(ia) conj(C_0).

        Parameters
        ----------
        thickness_A, spread
            As in `at`, one thickness.
        s_slopes
            Changes of s of all strong beams of the set, then the weak, per unit of each of k
            parameters, (m + w, k).
        """
        nodes = np.zeros(1) if spread == 0.0 else _NODES
        weight = np.exp(-0.5 * nodes**2)
        weight /= weight.sum()
        t = np.maximum(thickness_A * (1.0 + spread * nodes), 1.0)
        m = max(len(self.vectors) - 1, 0)
        out = np.empty((len(self.lit) + len(self.weak_s), s_slopes.shape[1]))
        either = np.empty((2, len(self.weak_s), 1))
        for side, sign in enumerate((-1.0, 1.0)):
            _fill_two_beam(
                self.weak_s + sign * _WEAK_STEP_INV_A, self.weak_coupling,
                np.array([thickness_A]), spread, either[side],
            )  # fmt: skip
        weak = (either[1] - either[0])[:, 0] / (2.0 * _WEAK_STEP_INV_A)
        for k in range(s_slopes.shape[1]):
            if m:
                change = np.concatenate([[0.0], 2.0 * s_slopes[:m, k]])
                coupled = self.vectors.conj().T @ (change[:, None] * self.vectors)
                first = np.ascontiguousarray(self.vectors[0].conj())
                d_psi = _perturbed_waves(coupled, first, self.values, t)
                rows = self.vectors[self.lit]
                psi = rows @ (first[:, None] * np.exp(1j * np.pi * np.outer(self.values, t)))
                out[: len(self.lit), k] = 2.0 * (psi.conj() * (rows @ d_psi)).real @ weight
            out[len(self.lit) :, k] = s_slopes[m:, k] * weak
        return out

    def _strong(self, t: Array) -> Array:
        rows = self.vectors[self.lit] * self.vectors[:1].conj()
        phase = np.outer(np.pi * self.values, t)
        if not np.iscomplexobj(rows):
            return np.asarray((rows @ np.cos(phase)) ** 2 + (rows @ np.sin(phase)) ** 2)
        psi = rows @ np.exp(1j * phase)
        return np.asarray(psi.real**2 + psi.imag**2)

    def _with_weak(self, strong: Array, t: Array, spread: float) -> Array:
        if len(self.weak_s) == 0:
            return strong
        weak = np.empty((len(self.weak_s), len(t)))
        _fill_two_beam(self.weak_s, self.weak_coupling, t, spread, weak)
        return np.concatenate([strong, weak])


@cache
def _thickness_average(spread: float) -> Array:
    """Weights (fine, thicknesses) of a normal spread around each thickness."""
    width = np.maximum(spread * THICKNESSES_A, 8.0)
    weight = np.exp(-0.5 * ((_FINE_A[:, None] - THICKNESSES_A) / width) ** 2)
    return np.asarray(weight / weight.sum(0), dtype=float)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill_two_beam(
    s: Array, coupling: Array, thicknesses: Array, spread: float, out: Array
) -> None:
    for k in range(thicknesses.shape[0]):
        out[:, k] = two_beam(s, coupling, thicknesses[k], spread)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _perturbed_waves(
    coupled: Complex | Array, first: Complex | Array, values: Array, t: Array
) -> Complex:
    """Change of the amplitudes of all eigenstates, at each thickness, (states, len(t)).

    ``coupled`` is C^H diag(2 ds) C, ``first`` conj(C_0), ``values`` v / K.
    """
    n = values.shape[0]
    out = np.empty((n, t.shape[0]), dtype=np.complex128)
    for i in range(t.shape[0]):
        a = 0.5 * np.pi * t[i] * values
        cos, sin = np.cos(a), np.sin(a)
        turned = first * (cos + 1j * sin)
        for j in range(n):
            total = 0.0j
            for k in range(n):
                apart = a[j] - a[k]
                sine = sin[j] * cos[k] - cos[j] * sin[k]
                total += coupled[j, k] * turned[k] * (sine / apart if abs(apart) > 1e-6 else 1.0)
            out[j, i] = 1j * np.pi * t[i] * (cos[j] + 1j * sin[j]) * total
    return out
