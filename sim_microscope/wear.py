"""What the true dose has done to the crystals, as the scattering code wants it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.damage import DamageModel, critical_fluence
from sim_microscope.dose import TrueDose
from sim_microscope.scenario import DamageSpec
from sim_microscope.structures import Structure

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Wear:
    """Damage of every crystal at every point, from the deposits of the night."""

    dose: TrueDose
    spec: DamageSpec
    harm: Callable[[], float] = lambda: 1.0
    """Factor on the fluence: more than one if the specimen is more fragile than stated."""

    def model(self, structure: Structure) -> DamageModel:
        """Damage model of one structure in this scenario."""
        own = critical_fluence(structure).fluence_e_per_A2
        return DamageModel(own * self.spec.critical_fluence_factor)

    def fluence(self, point_um: tuple[float, float]) -> float:
        """Fluence so far at a holder point, e/Å²; 0 where damage is switched off."""
        if not self.spec.enabled:
            return 0.0
        x, y = point_um
        return self.harm() * float(self.dose.fluence_at(np.array([x]), np.array([y]))[0])

    def fade(
        self, structure: Structure, point_um: tuple[float, float]
    ) -> Callable[[Array], Array] | None:
        """Factor on the Bragg intensity as a function of |g|, or None where nothing has faded."""
        fluence = self.fluence(point_um)
        return self.model(structure).fade(fluence) if fluence > 0 else None
