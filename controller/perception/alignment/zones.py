"""All low-index zone axes of a crystal, named once and placed in the holder.

A zone axis [uvw] is a lattice direction without a sense of its own.  Axes that the Laue group makes
equal form a family and carry the name of one member, <uvw>, written with the largest indices
first as far as symmetry allows.
"""

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import (
    HolderFrame,
    goniometer_for_zone,
    misorientation_deg,
)
from controller.perception.alignment.holder_orientation import holder_from_crystal
from controller.perception.alignment.moves import HolderReach
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections

Array = NDArray[np.float64]
Indices = tuple[int, int, int]


@dataclass(frozen=True)
class PlacedZone:
    """One zone axis of a crystal that sits in a holder."""

    uvw: Indices
    """In the sense that points downstream at the goniometer angles given here."""
    family: Indices
    repeat_A: float
    """Length of the lattice vector [uvw]: the shorter, the denser and clearer the pattern."""
    alpha_deg: float
    beta_deg: float
    """Where it lies along the beam."""
    reachable: bool
    misorientation_deg: float
    """Angle from the beam as the goniometer stands now."""

    def as_record(self) -> dict[str, Any]:
        """For JSON; units in the keys."""
        return {
            "uvw": list(self.uvw),
            "family_uvw": list(self.family),
            "repeat_A": self.repeat_A,
            "tilt_alpha_deg": self.alpha_deg,
            "tilt_beta_deg": self.beta_deg,
            "reachable": self.reachable,
            "misorientation_deg": self.misorientation_deg,
        }


def zone_label(uvw: Indices) -> str:
    """``[1 -1 0]`` with overbars, as in the books; spaced where an index has two digits."""
    gap = " " if max(abs(i) for i in uvw) > 9 else ""
    digits = ("".join(f"{d}\u0305" for d in str(-i)) if i < 0 else str(i) for i in uvw)
    return "[" + gap.join(digits) + "]"


def low_index_zones(
    structure: CrystalStructure, max_index: int = 3
) -> list[tuple[Indices, Indices]]:
    """Every axis with coprime indices up to ``max_index``, one of its two senses, with its family.

    Returns
    -------
    list of (uvw, family)
        Families by the length of their lattice vector, shortest first.
    """
    span = range(-max_index, max_index + 1)
    axes = [
        uvw
        for uvw in product(span, span, span)
        if gcd(*uvw) == 1 and next(i for i in uvw[::-1] if i) > 0
    ]
    named = [(uvw, family_name(structure, uvw)) for uvw in axes]
    return sorted(named, key=lambda pair: (_length_A(structure, pair[1]), pair[1], pair[0]))


def family_name(structure: CrystalStructure, uvw: Indices) -> Indices:
    """The member that names the family: fewest minus signs, then the largest indices first."""
    images = structure.point_operations @ np.asarray(uvw)
    members = {(int(u), int(v), int(w)) for u, v, w in np.concatenate([images, -images])}
    return max(members, key=lambda m: (-sum(i < 0 for i in m), m))


def place_zones(
    structure: CrystalStructure,
    orientation: Array,
    *,
    alpha_deg: float,
    beta_deg: float,
    frame: HolderFrame,
    reach: HolderReach,
    max_index: int = 3,
    margin_deg: float = 15.0,
) -> list[PlacedZone]:
    """Where the goniometer has to stand for each low-index zone of the crystal.

    Parameters
    ----------
    structure, orientation
        The crystal, and its orientation (3, 3) crystal to detector, as
        ``TiltEstimate.orientation`` gives it.
    alpha_deg, beta_deg
        Reading of the goniometer when the orientation was measured.
    frame, reach
        How the holder lies on the detector, and how far it tilts.
    max_index
        Largest index that is listed.
    margin_deg
        How far beyond the reach zones are still listed (as not reachable).

    Returns
    -------
    list of PlacedZone
        Reachable ones first, each part by the distance from the present beam.
    """
    to_holder = holder_from_crystal(orientation, alpha_deg, beta_deg, frame)
    wider = HolderReach(
        (max(reach.alpha_deg[0] - margin_deg, -90.0), min(reach.alpha_deg[1] + margin_deg, 90.0)),
        (max(reach.beta_deg[0] - margin_deg, -90.0), min(reach.beta_deg[1] + margin_deg, 90.0)),
    )
    placed = []
    for uvw, family in low_index_zones(structure, max_index):
        axis = to_holder @ structure.direction(uvw)
        at = goniometer_for_zone(axis)
        if not wider.holds(*at):
            continue
        down = axis[2] >= 0
        placed.append(
            PlacedZone(
                uvw=uvw if down else (-uvw[0], -uvw[1], -uvw[2]),
                family=family,
                repeat_A=_length_A(structure, uvw),
                alpha_deg=at[0],
                beta_deg=at[1],
                reachable=reach.holds(*at),
                misorientation_deg=misorientation_deg(orientation @ structure.direction(uvw)),
            )
        )
    return sorted(placed, key=lambda z: (not z.reachable, z.misorientation_deg, z.uvw))


def laue_layer_inv_A(structure: CrystalStructure, uvw: Indices) -> float:
    """Distance in 1/A between the Laue zones of an axis, absent layers left out."""
    g = reflections(structure, 1.0).g
    heights = np.abs(g @ structure.direction(uvw))
    nothing = 1.0 / _length_A(structure, uvw)
    return float(heights[heights > 0.5 * nothing].min(initial=np.inf))


def _length_A(structure: CrystalStructure, uvw: Indices) -> float:
    return float(np.linalg.norm(np.asarray(uvw, dtype=float) @ structure.direct))
