"""What may be said of a structure-free fit: its calibrated error, or why it is no answer.

The circle is sampled at lattice nodes, g_1 apart, and moves by g_1/2K from one to the next: errors
scale with that step beside the formal ones.  Factors and limits come from patterns of an
independent simulator (``benchmarks/alignment.py --structure-free``): fitted on one half, widened
by what the other half said.
"""

import numpy as np

from controller.perception.alignment.structure_free import StructureFreeFit

FARTHEST_DEG = 3.5
"""Farther off the arc is too short for its radius; the direction is still good."""
_FORMAL = 2.0
_NODE_STEP = 0.63
_FLOOR_MRAD = 0.5
_PER_TILT = 0.01
_WIDEST_FORMAL_DEG = 0.12
_LEAST_GAP = 3.0
_LEAST_CENTRE_GAP = 3.0
_LEAST_HIDDEN_GAP = 6.0
_LEAST_ORBITS = 1.5
_LEAST_CONCENTRATION = 2.0
_LEAST_SPOTS = 12
_LEAST_LATTICE_SCORE = 40.0
_SCORE_PER_DECADE = 30.0
"""With more than 1e4 electrons a low-index zone near the beam shows many spots."""


def free_sigma_mrad(fit: StructureFreeFit, wavenumber: float, inv_A_per_px: float) -> float:
    """Radius of 68.3 % in mrad."""
    if fit.posterior is None or fit.lattice is None:
        return float("nan")
    posterior = fit.posterior
    shortest = float(np.hypot(*fit.lattice.basis_px[0])) * inv_A_per_px
    terms = (
        _FORMAL * posterior.sigma_mrad,
        _NODE_STEP * 1e3 * shortest / (2 * wavenumber),
        _FLOOR_MRAD,
        _PER_TILT * float(np.hypot(*posterior.tilt_mrad)),
    )
    return float(np.sqrt(sum(term**2 for term in terms)))


def free_doubt(fit: StructureFreeFit, *, electrons: float, hidden_beam: bool) -> str:
    """Why a fit is not to be acted on; empty where it is an answer."""
    posterior, lattice = fit.posterior, fit.lattice
    if posterior is None or lattice is None:
        return fit.reason
    theta_deg = float(np.rad2deg(np.hypot(*posterior.tilt_mrad) * 1e-3))
    formal_deg = float(np.rad2deg(posterior.sigma_mrad * 1e-3))
    if fit.centre_gap < (_LEAST_HIDDEN_GAP if hidden_beam else _LEAST_CENTRE_GAP):
        return "the direct beam may be on another node of the lattice; give its place"
    decades = float(np.clip(np.log10(max(electrons, 1.0)) - 4.0, 0.0, 1.0))
    needed = _LEAST_LATTICE_SCORE + _SCORE_PER_DECADE * decades
    if lattice.score < needed or len(lattice.used) < _LEAST_SPOTS:
        return (
            f"{len(lattice.used)} spots (needed {_LEAST_SPOTS}) with a lattice score of "
            f"{lattice.score:.0f} (needed {needed:.0f}): too few electrons, or no "
            f"low-index zone near the beam"
        )
    if theta_deg > FARTHEST_DEG:
        return _far(fit, theta_deg)
    if posterior.concentration < _LEAST_CONCENTRATION:
        return (
            "nodes that should scatter alike do not: a second crystal, a wrong place of the "
            "direct beam, or strong multiple scattering"
        )
    if posterior.gap < _LEAST_GAP:
        return (
            f"two tilts explain the pattern about as well (gap {posterior.gap:.1f} in "
            f"log-likelihood, needed {_LEAST_GAP:.0f}); more electrons would tell"
        )
    if formal_deg > _WIDEST_FORMAL_DEG or posterior.effective_orbits < _LEAST_ORBITS:
        return (
            f"the circle is known to {formal_deg:.2f} deg only (needed {_WIDEST_FORMAL_DEG:.2f}): "
            f"too few lit nodes, {posterior.effective_orbits:.1f} carry the counts"
        )
    return ""


def _far(fit: StructureFreeFit, theta_deg: float) -> str:
    """Far away: the direction is the better known part."""
    if fit.posterior is None:
        return fit.reason
    x, y = fit.posterior.tilt_mrad
    azimuth = float(np.rad2deg(np.arctan2(y, x)))
    across = float(np.rad2deg(fit.posterior.across_mrad / max(np.hypot(x, y), 1e-9)))
    return (
        f"far: direction known, step and measure again. The zone axis lies about {theta_deg:.1f} "
        f"deg away at azimuth {azimuth:.0f} +- {max(3.0, 3.0 * across):.0f} deg from +x towards +y "
        f"in the pattern; one pattern tells distances up to {FARTHEST_DEG:.1f} deg without a "
        f"structure"
    )
