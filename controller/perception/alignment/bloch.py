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

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.structure_factors import StructureFactors
from controller.perception.alignment.waves import Waves

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
    values, vectors = np.linalg.eigh(a)
    q = (model.potential[beams.weak] / model.wavenumber) ** 2
    shown = np.concatenate([beams.lit, np.arange(m, len(rows))])
    return Waves(gx[shown], gy[shown], values / model.wavenumber, vectors, 1 + beams.lit, s[m:], q)


def relrods(model: BlochModel, beams: BeamSet, orientation: Array) -> Waves:
    """The same without dynamical scattering: every beam alone, and weakly.

    Intensities are in units of the weak coupling, which any scale absorbs.
    """
    rows = seen(beams)
    gx, gy, s = excitation(model.g[rows], orientation, model.wavenumber)
    q = (model.potential[rows] / model.wavenumber) ** 2
    none = np.empty(0, dtype=np.int64)
    return Waves(gx, gy, np.empty(0), np.empty((0, 0)), none, s, _WEAK * q)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
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
