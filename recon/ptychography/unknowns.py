"""The few global parameters that are refined together with the object, and how to nudge them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.ptychography.experiment import Experiment

Float = NDArray[np.float64]
Name = Literal[
    "defocus_A", "C12a_A", "C12b_A", "rotation_deg", "tilt_row_mrad", "tilt_col_mrad",
    "scale", "stretch", "shear", "drift_along", "drift_across", "thickness_A",
]  # fmt: skip


@dataclass(frozen=True)
class Unknown:
    """One parameter: the nudge of its finite difference, its prior sigma, its largest step."""

    name: Name
    nudge: float
    prior_sigma: float
    largest_step: float
    first_pass: int = 2
    """The object must have settled before raster and thickness are judged by it: an unformed one
    wants the thinnest specimen and does not let go of it."""


UNKNOWNS: tuple[Unknown, ...] = (
    Unknown("defocus_A", 4.0, 60.0, 20.0),
    Unknown("C12a_A", 4.0, 15.0, 10.0),
    Unknown("C12b_A", 4.0, 15.0, 10.0),
    Unknown("rotation_deg", 0.2, 3.0, 0.5, first_pass=4),
    Unknown("tilt_row_mrad", 0.3, 4.0, 1.0),
    Unknown("tilt_col_mrad", 0.3, 4.0, 1.0),
    Unknown("drift_along", 0.004, 0.04, 0.02, first_pass=4),
    Unknown("drift_across", 0.004, 0.04, 0.02, first_pass=4),
    Unknown("scale", 0.003, 0.03, 0.01, first_pass=4),
    Unknown("stretch", 0.003, 0.03, 0.01, first_pass=4),
    Unknown("shear", 0.003, 0.03, 0.01, first_pass=4),
    Unknown("thickness_A", 10.0, 150.0, 25.0, first_pass=4),
)


THICKNESS_RANGE = (0.25, 4.0)
"""The thickness stays within these multiples of its first value."""

DISTORTIONS: dict[str, Float] = {
    "scale": np.eye(2),
    "stretch": np.diag([1.0, -1.0]),
    "shear": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "drift_along": np.array([[1.0, 0.0], [0.0, 0.0]]),
    "drift_across": np.array([[0.0, 0.0], [1.0, 0.0]]),
}
"""Generators of the scan distortion: symmetric ones, and a drift that is the same for every line.

Drift moves the slow axis only: ``drift_along`` stretches it, ``drift_across`` slants it. Use
either set, not both; the rest is rotation.
"""


def nudged(experiment: Experiment, name: Name, by: float) -> Experiment:
    """Return the experiment with one parameter increased."""
    row, col = experiment.tilt_mrad
    match name:
        case "tilt_row_mrad":
            return replace(experiment, tilt_mrad=(row + by, col))
        case "tilt_col_mrad":
            return replace(experiment, tilt_mrad=(row, col + by))
        case "scale" | "stretch" | "shear" | "drift_along" | "drift_across":
            affine = np.array(experiment.affine) @ (np.eye(2) + by * DISTORTIONS[name])
            (a, b), (c, d) = affine.tolist()
            return replace(experiment, affine=((a, b), (c, d)))
        case "defocus_A":
            return replace(experiment, defocus_A=experiment.defocus_A + by)
        case "C12a_A":
            return replace(experiment, C12a_A=experiment.C12a_A + by)
        case "C12b_A":
            return replace(experiment, C12b_A=experiment.C12b_A + by)
        case "rotation_deg":
            return replace(experiment, rotation_deg=experiment.rotation_deg + by)
        case "thickness_A":
            return replace(experiment, thickness_A=experiment.thickness_A + by)


def value_of(experiment: Experiment, name: Name) -> float:
    """A parameter's present value; distortions are read off the affine matrix."""
    match name:
        case "tilt_row_mrad":
            return experiment.tilt_mrad[0]
        case "tilt_col_mrad":
            return experiment.tilt_mrad[1]
        case "scale" | "stretch" | "shear" | "drift_along" | "drift_across":
            strain = np.array(experiment.affine) - np.eye(2)
            generator = DISTORTIONS[name]
            return float((strain * generator).sum() / (generator**2).sum())
        case _:
            return float(getattr(experiment, name))
