"""One basin of the likelihood as an explanation of the pattern, and how much it explains.

Two measures: the gain as part of the attainable one (quality), and the part of the found spots that
lie on nodes which should be lit.  The first needs right intensities, the second only right places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.dynamical import Summit
from controller.perception.alignment.geometry import TiltVector
from controller.perception.alignment.hill import MODEL_ERRORS
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.zone import nearest_member

Array = NDArray[np.float64]

WELL_EXPLAINED = 0.85
"""Part of the attainable gain that only the right top of the right orientation reaches."""
_LARGE_CELL_A3, _LARGE_CELL_EXPLAINED = 1500.0, 0.6
_ALL_SPOTS, _ALL_SPOTS_IF_PERFECT, _PERFECT = 0.92, 0.8, 0.97
"""Part of the counts in spots that the right orientation of a small cell predicts, at least."""


@dataclass(frozen=True)
class Explanation:
    """One basin: its summit and what it means for the target zone."""

    summit: Summit
    tilt_mrad: TiltVector
    in_plane_rotation_rad: float
    orientation: Array
    """Of the family member nearest to the beam, (3, 3)."""
    structure: CrystalStructure


@dataclass(frozen=True)
class StructureFit:
    """All basins that were worth climbing, best first; empty where none was."""

    explanations: tuple[Explanation, ...]
    scene: Scene


def explain(structure: CrystalStructure, summit: Summit) -> Explanation:
    """What a summit means for the member of the target family nearest to the beam."""
    orientation, tilt, phi = nearest_member(structure, summit.pose.zone, summit.pose.orientation)
    return Explanation(summit, tilt, phi, orientation, structure)


def expected_quality(structure: CrystalStructure) -> float:
    """Quality of the right top: less in large cells, whose beams are never all counted."""
    return WELL_EXPLAINED if structure.volume < _LARGE_CELL_A3 else _LARGE_CELL_EXPLAINED


def quality_of(fit: StructureFit) -> float:
    """Quality of the best explanation; zero where there is none."""
    return quality_at(fit.explanations[0].summit) if fit.explanations else 0.0


def quality_at(top: Summit) -> float:
    """Gain as part of the attainable; zero where it was not climbed."""
    return top.quality if np.isfinite(top.quality) else 0.0


def opacity(scene: Scene, pose: Pose) -> float:
    """Thickness over the shortest extinction length: how strongly dynamical the pattern is."""
    return float(pose.thickness_A * np.sqrt(scene.coupling.max()))


def needs_model_error(summit: Summit) -> bool:
    """Whether the intensities fit only with the largest error that the model is allowed."""
    return summit.model_error >= MODEL_ERRORS[-1]


def merit(fit: StructureFit) -> float:
    """Gain times the parts of the attainable and of the spots that are explained.

    About each centre other pixels are hidden and other spots found, so that gains alone mislead.
    """
    if not fit.explanations:
        return -1.0
    best = fit.explanations[0].summit
    _, part = explained_spots(fit.scene.spots, best)
    return max(best.pose.log_gain, 0.0) * quality_at(best) * part


def explained_spots(spots: Spots, summit: Summit) -> tuple[NDArray[np.bool_], float]:
    """Which spots lie on a node that should be lit, and their part of the (capped) counts."""
    lit = summit.expected > 0.15 * np.maximum(summit.counted, 0.0)
    lit &= summit.expected > 0.3
    used = np.zeros(len(spots), dtype=bool)
    if lit.any():
        at = summit.node_px[lit]
        distance = np.hypot(
            spots.x_px[:, None] - at[None, :, 0], spots.y_px[:, None] - at[None, :, 1]
        )
        used = distance.min(axis=1) < 2.0
    weight = np.minimum(spots.counts, 60.0)
    near_direct = np.hypot(
        spots.x_px - summit.pose.centre_px[0], spots.y_px - summit.pose.centre_px[1]
    )
    weight = np.where(near_direct < 4.0 * spots.sigma_px + 2.0, 0.0, weight)
    used |= near_direct < 2.0
    return used, float(weight[used].sum() / max(float(weight.sum()), 1e-9))


def is_all_explained(spots: Spots, summit: Summit) -> bool:
    """Whether a small cell's few spots are all where it has some.

    One orientation of many explains a part of them by chance.
    """
    least = _ALL_SPOTS_IF_PERFECT if summit.quality >= _PERFECT else _ALL_SPOTS
    return explained_spots(spots, summit)[1] >= least
