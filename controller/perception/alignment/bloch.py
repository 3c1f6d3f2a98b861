"""A small Bloch-wave calculation: the beams that matter, all thicknesses at once.

With A_gg = 2 K s_g and A_gh = U_{g-h}, the eigenvalues v and vectors C of A give
psi_g(t) = sum_j C_gj exp(i pi v_j t / K) conj(C_0j) (De Graef, *Introduction to Conventional TEM*,
ch. 5; no absorption).  Beams outside the set act on it as perturbations (Bethe potentials,
Zuo and Weickenmeier, Ultramicroscopy 57 (1995) 375),

    A_gh -> A_gh - sum_w U_gw U_wh / (2 K s_w),

without which the intensities of gold are off by their own size; those near the sphere are given
two-beam intensities.  Where the crystal has no inversion centre, dynamical intensities tell g from
-g; ``inverted`` takes the opposite setting, since the aligner's orientations are complete only up
to inversion.
"""

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from controller.perception.alignment.kinematical import excitation, two_beam
from controller.perception.alignment.structure_factors import StructureFactors

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Complex = NDArray[np.complex128]

_LIT_INV_A = 0.03
_MOST_WEAK = 200
_MOST_PERTURBING = 600
_DAMPING = 2.0
"""Perturbation ends where a weak beam couples as strongly as it is off the sphere, times this."""
_WEAK = 1e-6
"""Coupling is lowered by this where scattering is to be kinematical; intensities scale with it."""

THICKNESSES_A = np.arange(120.0, 1501.0, 20.0)
"""Thicknesses that are scanned."""
SPREADS = (0.0, 0.04, 0.12, 0.22)
"""Relative spreads of thickness over the illuminated area that are scanned: wedges to plates."""
_FINE_A = np.arange(40.0, 1921.0, 20.0)
_NODES = np.linspace(-2.4, 2.4, 13)


@dataclass(frozen=True, eq=False)
class BlochModel:
    """What is fixed for one structure at one energy."""

    factors: StructureFactors
    coupling_unit: float
    """U_g / F_g = gamma / (pi V), in 1/A^3."""
    wavenumber: float
    hkl: Integers
    """Reflections considered, (n, 3), (000) excluded."""
    g: Array
    """Crystal frame, 1/A, (n, 3)."""
    potential: Array
    """|U_g| in 1/A^2, (n,)."""
    window_inv_A: float = 0.06
    """Excitation error up to which beams act on others."""


@dataclass(frozen=True, eq=False)
class BeamSet:
    """Reflections near the sphere at one orientation: strong ones coupled, the rest alone."""

    strong: Integers
    """Rows of the model's arrays, (m,)."""
    lit: Integers
    """Which of the strong beams are near enough to the sphere to be seen, places in ``strong``.

    The others matter to these, but would read counts of the spots that they happen to cover.
    """
    weak: Integers
    """Rows of the model's arrays, (w,)."""
    matrix: Complex | Array
    """A without excitation errors, weak beams folded in, (m + 1, m + 1), (000) first."""


def select_beams(
    model: BlochModel, orientation: Array, most: int, *, inverted: bool = False
) -> BeamSet:
    """The ``most`` beams that scatter most, and the rest of what is near the sphere."""
    _, _, s = excitation(model.g, orientation, model.wavenumber)
    near = np.flatnonzero(np.abs(s) < model.window_inv_A)
    potential = model.potential[near]
    # amplitude that a beam can reach, with a margin in s for the tilts tried around here
    reach = potential / (potential + 2.0 * model.wavenumber * np.abs(s[near]) + 0.02)
    order = np.argsort(-reach, kind="stable")
    # a beam that can reach a few ten-thousandths of an amplitude is not worth a row of the matrix
    most = min(most, max(int((reach > 0.0004).sum()), 20))
    strong, rest = np.sort(near[order[:most]]), near[order[most:]]
    weak = rest[np.abs(s[rest]) < 0.006][:_MOST_WEAK]
    lit = np.flatnonzero(np.abs(s[strong]) < _LIT_INV_A + 1.5 * model.potential[strong])
    matrix = _perturbed(model, strong, rest[:_MOST_PERTURBING], s, inverted)
    if np.abs(matrix.imag).max(initial=0.0) < 1e-9 * np.abs(matrix.real).max(initial=1.0):
        return BeamSet(strong, lit, weak, np.ascontiguousarray(matrix.real))
    return BeamSet(strong, lit, weak, matrix)


def _perturbed(
    model: BlochModel, strong: Integers, others: Integers, s: Array, inverted: bool
) -> Complex:
    """A without its excitation errors, (000) first, with what the other beams do to it."""
    table = model.factors.table
    half = np.asarray(model.factors.half, dtype=np.int64)
    hkl = np.concatenate([np.zeros((1, 3), dtype=np.int64), model.hkl[strong]])
    matrix = model.coupling_unit * _couplings(hkl, hkl, table, half, inverted)
    if len(others) == 0:
        return np.asarray(matrix)
    to = model.coupling_unit * _couplings(hkl, model.hkl[others], table, half, inverted)
    off = 2.0 * model.wavenumber * s[others]
    most = _DAMPING * np.abs(to).max(axis=0)
    weight = off / (off * off + most * most)
    if np.abs(to.imag).max() < 1e-9 * np.abs(to.real).max():
        flat = np.ascontiguousarray(to.real)
        return np.asarray(matrix - (flat * weight) @ flat.T)
    return np.asarray(matrix - (to * weight) @ to.conj().T)


@dataclass(frozen=True, eq=False)
class Waves:
    """What leaves the crystal at one orientation, for any thickness."""

    gx: Array
    """Transverse g in 1/A of all beams of the set, strong first, (beams,)."""
    gy: Array
    values: Array
    """v_j / K, (m + 1,)."""
    vectors: Complex | Array
    """C_gj conj(C_0j) of the strong beams, (m, m + 1)."""
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

    def scan(self, spread: float) -> Array:
        """The same at `THICKNESSES_A`, (beams, len(THICKNESSES_A))."""
        if spread == 0.0:
            return self.at(THICKNESSES_A, 0.0)
        strong = self._fine() @ _thickness_average(spread)
        return self._with_weak(strong, THICKNESSES_A, spread)

    def _fine(self) -> Array:
        return self._strong(_FINE_A)

    def _strong(self, t: Array) -> Array:
        phase = np.outer(np.pi * self.values, t)
        wave = np.exp(1j * phase)
        psi = self.vectors @ wave
        return np.asarray(psi.real**2 + psi.imag**2)

    def _with_weak(self, strong: Array, t: Array, spread: float) -> Array:
        if len(self.weak_s) == 0:
            return strong
        weak = np.empty((len(self.weak_s), len(t)))
        _fill_two_beam(self.weak_s, self.weak_coupling, t, spread, weak)
        return np.concatenate([strong, weak])


def seen(beams: BeamSet) -> Integers:
    """Rows of the model's arrays of the beams that `Waves` tells of, strong first."""
    return np.concatenate([beams.strong[beams.lit], beams.weak])


def solve(model: BlochModel, beams: BeamSet, orientation: Array) -> Waves:
    """One eigen-solution of the set, which holds all thicknesses."""
    rows = np.concatenate([beams.strong, beams.weak])
    gx, gy, s = excitation(model.g[rows], orientation, model.wavenumber)
    m = len(beams.strong)
    a = beams.matrix.copy()
    a[np.arange(m + 1), np.arange(m + 1)] += np.concatenate([[0.0], 2.0 * model.wavenumber * s[:m]])
    values, vectors = eigh(a, check_finite=False, overwrite_a=True, driver="evd")
    q = (model.potential[beams.weak] / model.wavenumber) ** 2
    shown = np.concatenate([beams.lit, np.arange(m, len(rows))])
    waves = vectors[1 + beams.lit] * vectors[0].conj()[None, :]
    return Waves(gx[shown], gy[shown], values / model.wavenumber, waves, s[m:], q)


def relrods(model: BlochModel, beams: BeamSet, orientation: Array) -> Waves:
    """The same without dynamical scattering: every beam alone, and weakly.

    Intensities are in units of the weak coupling, which any scale absorbs.
    """
    rows = seen(beams)
    gx, gy, s = excitation(model.g[rows], orientation, model.wavenumber)
    q = (model.potential[rows] / model.wavenumber) ** 2
    return Waves(gx, gy, np.empty(0), np.empty((0, 0)), s, _WEAK * q)


@cache
def _thickness_average(spread: float) -> Array:
    """Weights (fine, thicknesses) of a normal spread around each thickness."""
    width = np.maximum(spread * THICKNESSES_A, 8.0)
    weight = np.exp(-0.5 * ((_FINE_A[:, None] - THICKNESSES_A) / width) ** 2)
    return np.asarray(weight / weight.sum(0), dtype=float)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill_two_beam(
    s: Array, coupling: Array, thicknesses: Array, spread: float, out: Array
) -> None:
    for k in range(thicknesses.shape[0]):
        out[:, k] = two_beam(s, coupling, thicknesses[k], spread)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _couplings(
    of: Integers, to: Integers, table: Complex, half: Integers, inverted: bool
) -> Complex:
    """Conjugate of the tabulated F at g - h for every g of one set and h of the other."""
    out = np.zeros((of.shape[0], to.shape[0]), dtype=np.complex128)
    for i in range(of.shape[0]):
        for j in range(to.shape[0]):
            a = of[i, 0] - to[j, 0]
            b = of[i, 1] - to[j, 1]
            c = of[i, 2] - to[j, 2]
            if (a == 0 and b == 0 and c == 0) or (
                abs(a) > half[0] or abs(b) > half[1] or abs(c) > half[2]
            ):
                continue
            value = table[a + half[0], b + half[1], c + half[2]]
            out[i, j] = value if inverted else np.conj(value)
    return out
