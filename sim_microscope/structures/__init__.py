"""Crystal structures the simulated specimen is made of: CIF files that name their source."""

from sim_microscope.structures.cif import SHIPPED_STRUCTURES, load_structure
from sim_microscope.structures.crystal import Facet, Structure
from sim_microscope.structures.orientation import (
    rotation_by_vector,
    rotation_for_zone,
    zone_misorientation_mrad,
)

__all__ = [
    "SHIPPED_STRUCTURES",
    "Facet",
    "Structure",
    "load_structure",
    "rotation_by_vector",
    "rotation_for_zone",
    "zone_misorientation_mrad",
]
