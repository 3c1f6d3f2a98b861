"""Radiation damage: how order fades with the fluence a crystal has received.

Bragg intensity fades as I(g) = exp(-D / D_c(d)), with the critical fluence D_c proportional to the
spacing d = 1 / |g| (Howells et al., J. Electron Spectrosc. 170 (2009) 4: tolerable dose about
linear in resolution), so I(g) = exp(-D d_ref |g| / D_c).  In real space that is a Cauchy
distribution of displacements of scale gamma = D d_ref / (4 pi D_c): amplitude exp(-2 pi gamma |g|).
Mass loss and shrinkage come later, with the square of the fluence at first.

Fluence is in electrons per square ångström of specimen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

REFERENCE_SPACING_A = 3.6
"""Spacing for which the critical fluences hold: the 2.8 1/nm reflections commonly followed."""


@dataclass(frozen=True)
class CriticalFluence:
    """Fluence after which the Bragg intensity has fallen to 1/e, and who measured it."""

    fluence_e_per_A2: float
    source: str


CRITICAL_FLUENCE: dict[str, CriticalFluence] = {
    "UiO-66": CriticalFluence(
        256.0,
        "project value for 300 kV at room temperature; related frameworks of Al, Ga, In and Cr "
        "carboxylates: 330, 189, 147 and 1111 e/Å² (Tien et al., J. Mater. Chem. A (2024), "
        "doi 10.1039/d4ta03302g)",
    ),
    "ZIF-8": CriticalFluence(
        40.0,
        "crystallinity lost at 25-50 e/Å² at room temperature; about 80 e/Å² in liquid-cell TEM "
        "(PubMed 39105722, 2024)",
    ),
    "NU-1000": CriticalFluence(
        60.0, "not measured; an estimate between ZIF-8 and UiO-66: Zr6 nodes on a long linker"
    ),
    "MFI": CriticalFluence(
        500.0,
        "not one number; order of magnitude for siliceous zeolites at 300 kV (review: Girelli "
        "Consolaro et al., Micropor. Mesopor. Mater. (2024) 112835)",
    ),
    "SrTiO3": CriticalFluence(1e9, "stable at the fluences of this project"),
    "Au": CriticalFluence(1e9, "stable at the fluences of this project"),
}

_ORGANIC = 50.0
_INORGANIC = 1e4


def critical_fluence(structure: Structure) -> CriticalFluence:
    """The table's value, or a guess from the composition for a structure of the user's own."""
    if structure.name in CRITICAL_FLUENCE:
        return CRITICAL_FLUENCE[structure.name]
    if 6 in structure.composition:
        return CriticalFluence(_ORGANIC, "guess: contains carbon")
    return CriticalFluence(_INORGANIC, "guess: contains no carbon")


@dataclass(frozen=True)
class DamageModel:
    """What a fluence does to one kind of crystal.

    ``rate_exponent`` makes a high flux more harmful: the effective fluence is
    D (flux / 1 e/Å²/s) ** rate_exponent; zero switches the dose-rate term off.
    ``final_mass_loss`` and ``final_shrinkage`` are reached asymptotically.
    """

    critical_fluence_e_per_A2: float
    final_mass_loss: float = 0.2
    final_shrinkage: float = 0.05
    rate_exponent: float = 0.0

    def __post_init__(self) -> None:
        if not self.critical_fluence_e_per_A2 > 0:
            raise ValueError(
                f"a critical fluence of {self.critical_fluence_e_per_A2:g} e/Å² is not positive; "
                f"no damage model was made. Use a large number for a stable crystal"
            )

    @classmethod
    def of(cls, structure: Structure) -> DamageModel:
        """The model of a structure with its tabulated critical fluence."""
        return cls(critical_fluence(structure).fluence_e_per_A2)

    def effective_fluence(self, fluence_e_per_A2: float, flux_e_per_A2_s: float = 1.0) -> float:
        """Fluence that would do the same harm at 1 e/Å²/s."""
        return fluence_e_per_A2 * max(flux_e_per_A2_s, 1e-9) ** self.rate_exponent

    def bragg_factor(self, fluence_e_per_A2: float, g_per_A: Array) -> Array:
        """Factor on the Bragg intensity at |g| in 1/Å; one without damage."""
        steep = fluence_e_per_A2 * REFERENCE_SPACING_A / self.critical_fluence_e_per_A2
        return np.asarray(np.exp(-steep * np.asarray(g_per_A)))

    def fade(self, fluence_e_per_A2: float) -> Callable[[Array], Array]:
        """The same as a function of |g|, as the diffraction simulation takes it."""
        return lambda g_per_A: self.bragg_factor(fluence_e_per_A2, g_per_A)

    def disorder_A(self, fluence_e_per_A2: float) -> float:
        """Scale of the Cauchy displacement of each atom, Å, that fades the same way."""
        ratio = fluence_e_per_A2 / self.critical_fluence_e_per_A2
        return ratio * REFERENCE_SPACING_A / (4 * np.pi)

    def mass_loss(self, fluence_e_per_A2: float) -> float:
        """Fraction of the light atoms that has left."""
        return self.final_mass_loss * self._late(fluence_e_per_A2, 4.0)

    def shrinkage(self, fluence_e_per_A2: float) -> float:
        """Relative decrease of the crystal's lateral size."""
        return self.final_shrinkage * self._late(fluence_e_per_A2, 6.0)

    def _late(self, fluence: float, after: float) -> float:
        """0 to 1, quadratic at first: nothing is to be seen before order is lost."""
        x = fluence / (after * self.critical_fluence_e_per_A2)
        return float(-np.expm1(-(x**2)))
