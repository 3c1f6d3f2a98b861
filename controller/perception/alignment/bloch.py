"""A small Bloch-wave calculation: the beams that matter, all thicknesses at once.

With A_gg = 2 K s_g and A_gh = U_{g-h}, the eigenvalues v and vectors C of A give
psi_g(t) = sum_j C_gj exp(i pi v_j t / K) conj(C_0j) (De Graef, *Introduction to Conventional TEM*,
ch. 5; no absorption).  Beams outside the set are added by two-beam intensities.  Where the crystal
has no inversion centre, dynamical intensities tell g from -g; ``inverted`` takes the opposite
setting, since the aligner's orientations are complete only up to inversion.
"""

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from controller.perception.alignment.kinematical import THICKNESS_SPREAD, excitation, two_beam
from controller.perception.alignment.structure_factors import StructureFactors

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Complex = NDArray[np.complex128]

_FINE_A = np.arange(80.0, 1721.0, 20.0)
_MOST_WEAK = 200
_WEAK = 1e-6
"""Coupling is lowered by this where scattering is to be kinematical; intensities scale with it."""

THICKNESSES_A = np.arange(120.0, 1501.0, 40.0)
"""Thicknesses at which intensities are given."""
SPREADS = (0.03, 0.12, 0.22)
"""Relative spreads of thickness over the illuminated area at which they are given."""


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


@dataclass(frozen=True, eq=False)
class BeamSet:
    """Reflections near the sphere at one orientation: strong ones coupled, the rest alone."""

    strong: Integers
    """Rows of the model's arrays, (m,)."""
    weak: Integers
    """Rows of the model's arrays, (w,)."""
    matrix: Complex | Array
    """Off-diagonal part of A, (m + 1, m + 1), (000) first."""


def select_beams(
    model: BlochModel, orientation: Array, most: int, *, inverted: bool = False
) -> BeamSet:
    """The ``most`` beams that scatter most, and the rest of what is near the sphere."""
    _, _, s = excitation(model.g, orientation, model.wavenumber)
    near = np.flatnonzero(np.abs(s) < 0.03 + 1.5 * model.potential)
    potential = model.potential[near]
    # amplitude that a beam can reach, with a margin in s for the tilts tried around here
    reach = potential / (potential + 2.0 * model.wavenumber * np.abs(s[near]) + 0.02)
    order = near[np.argsort(-reach, kind="stable")]
    # a beam that can reach no thousandth of an amplitude is not worth a row of the matrix
    most = min(most, max(int((reach > 0.003).sum()), 20))
    strong = np.sort(order[:most])
    weak = order[most:]
    weak = weak[np.abs(s[weak]) < 0.006][:_MOST_WEAK]
    hkl = np.concatenate([np.zeros((1, 3), dtype=np.int64), model.hkl[strong]])
    matrix = _couplings(
        hkl, model.factors.table, np.asarray(model.factors.half, dtype=np.int64), inverted
    )
    matrix *= model.coupling_unit
    if np.abs(matrix.imag).max(initial=0.0) < 1e-9 * np.abs(matrix.real).max(initial=1.0):
        return BeamSet(strong, weak, np.ascontiguousarray(matrix.real))
    return BeamSet(strong, weak, matrix)


def intensities(
    model: BlochModel, beams: BeamSet, orientation: Array
) -> tuple[Array, Array, Array]:
    """Intensities of all beams of the set, strong first, at `SPREADS` and `THICKNESSES_A`.

    Returns
    -------
    intensity
        (beams, spreads * thicknesses), parts of the incident beam, averaged over each spread of
        thickness in turn.
    gx, gy
        Transverse g in 1/A, (beams,).
    """
    rows = np.concatenate([beams.strong, beams.weak])
    gx, gy, s = excitation(model.g[rows], orientation, model.wavenumber)
    m = len(beams.strong)
    a = beams.matrix.copy()
    a[np.arange(m + 1), np.arange(m + 1)] = np.concatenate([[0.0], 2.0 * model.wavenumber * s[:m]])
    values, vectors = eigh(a, check_finite=False, overwrite_a=True, driver="evd")
    phase = np.exp(1j * np.pi / model.wavenumber * np.outer(values, _FINE_A))
    psi = vectors[1:] @ (phase * vectors[0].conj()[:, None])
    strong = (psi.real**2 + psi.imag**2) @ _thickness_average()
    q = (model.potential[beams.weak] / model.wavenumber) ** 2
    weak = np.empty((len(q), len(THICKNESSES_A)))
    if len(q):
        _fill_two_beam(s[m:], q, THICKNESSES_A, THICKNESS_SPREAD, weak)
    weak = np.tile(weak, (1, len(SPREADS)))
    return np.concatenate([strong, weak]), gx, gy


def relrods(model: BlochModel, beams: BeamSet, orientation: Array) -> tuple[Array, Array, Array]:
    """The same without dynamical scattering: every beam alone, and weakly."""
    rows = np.concatenate([beams.strong, beams.weak])
    gx, gy, s = excitation(model.g[rows], orientation, model.wavenumber)
    q = (model.potential[rows] / model.wavenumber) ** 2
    out = np.empty((len(SPREADS), len(q), len(THICKNESSES_A)))
    for k, spread in enumerate(SPREADS):
        _fill_two_beam(s, _WEAK * q, THICKNESSES_A, spread, out[k])
    return np.concatenate(list(out), axis=1) / _WEAK, gx, gy


@cache
def _thickness_average() -> Array:
    """Weights (fine, spreads * thicknesses) of normal spreads around each thickness."""
    middle = np.tile(THICKNESSES_A, len(SPREADS))
    width = np.maximum(np.repeat(SPREADS, len(THICKNESSES_A)) * middle, 8.0)
    weight = np.exp(-0.5 * ((_FINE_A[:, None] - middle[None]) / width[None]) ** 2)
    return np.asarray(weight / weight.sum(0), dtype=float)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill_two_beam(
    s: Array, coupling: Array, thicknesses: Array, spread: float, out: Array
) -> None:
    for k in range(thicknesses.shape[0]):
        out[:, k] = two_beam(s, coupling, thicknesses[k], spread)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _couplings(hkl: Integers, table: Complex, half: Integers, inverted: bool) -> Complex:
    """Sum f exp(-2 pi i (g-h).r) for all pairs, conjugate of the tabulated F, zero diagonal."""
    m = hkl.shape[0]
    out = np.zeros((m, m), dtype=np.complex128)
    for i in range(m):
        for j in range(i):
            a = hkl[i, 0] - hkl[j, 0]
            b = hkl[i, 1] - hkl[j, 1]
            c = hkl[i, 2] - hkl[j, 2]
            if abs(a) > half[0] or abs(b) > half[1] or abs(c) > half[2]:
                continue
            value = table[a + half[0], b + half[1], c + half[2]]
            if not inverted:
                value = np.conj(value)
            out[i, j] = value
            out[j, i] = np.conj(value)
    return out
