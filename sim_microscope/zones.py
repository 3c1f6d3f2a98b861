"""Families of zone axes: the directions that the point group makes alike."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sim_microscope.scenario import Zone
from sim_microscope.structures import Structure


def family(structure: Structure, zone: Zone) -> tuple[Zone, ...]:
    """All [uvw] equivalent to `zone`, both senses, sorted."""
    return _family(structure.space_group, zone)


@lru_cache(maxsize=256)
def _family(space_group: str, zone: Zone) -> tuple[Zone, ...]:
    import gemmi

    found: set[Zone] = set()
    for operation in gemmi.SpaceGroup(space_group).operations():
        # the rotation part acts on fractional coordinates, hence on [uvw]
        u, v, w = np.rint(np.array(operation.rot, dtype=float) / operation.DEN @ zone).astype(int)
        found |= {(int(u), int(v), int(w)), (-int(u), -int(v), -int(w))}
    return tuple(sorted(found))
