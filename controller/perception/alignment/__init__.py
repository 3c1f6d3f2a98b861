"""Zone-axis alignment: one diffraction pattern in, the tilt with its error out.

Pure functions of arrays and numbers.  ``estimate_tilt`` measures, ``geometry`` turns the tilt
into goniometer angles, ``files`` reads patterns and ``overlay`` draws what was found.  The geometry
needs numpy alone; whatever needs scipy, gemmi or numba (extra ``align``) is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from controller.perception.alignment.geometry import (
    HolderFrame,
    correction_rotation,
    goniometer_for_zone,
    misorientation_deg,
    predicted_tilt,
    tilt_from_zone,
    zone_from_tilt,
    zone_in_holder,
)
from controller.perception.alignment.moves import (
    Goniometer,
    HolderReach,
    ProposedMove,
    propose_move,
)
from controller.perception.alignment.result import Alternative, Marks, TiltEstimate, TiltPrior

if TYPE_CHECKING:
    from controller.perception.alignment.estimate import estimate_tilt
    from controller.perception.alignment.files import (
        AlignmentInputError,
        Calibration,
        PatternInput,
        Pictures,
        StageGiven,
        align_files,
        measure,
        read_patterns,
    )
    from controller.perception.alignment.findings import Findings, find_more
    from controller.perception.alignment.imperfection import Imperfection, find_imperfection
    from controller.perception.alignment.orientation_file import (
        CrystalOrientation,
        OrientationFileError,
        crystal_orientation,
        read_orientation,
        write_orientation,
    )
    from controller.perception.alignment.overlay import Caption, draw_overlay, save_overlay
    from controller.perception.alignment.pattern import PatternError
    from controller.perception.alignment.resolution import ResolutionOrder, order_of_resolution
    from controller.perception.alignment.stereogram import (
        Stereogram,
        draw_stereogram,
        save_stereogram,
    )
    from controller.perception.alignment.structure import (
        CrystalStructure,
        StructureError,
        structure_from_cif,
    )
    from controller.perception.alignment.zones import PlacedZone, place_zones

__all__ = [
    "AlignmentInputError",
    "Alternative",
    "Calibration",
    "Caption",
    "CrystalOrientation",
    "CrystalStructure",
    "Findings",
    "Goniometer",
    "HolderFrame",
    "HolderReach",
    "Imperfection",
    "Marks",
    "OrientationFileError",
    "PatternError",
    "PatternInput",
    "Pictures",
    "PlacedZone",
    "ProposedMove",
    "ResolutionOrder",
    "StageGiven",
    "Stereogram",
    "StructureError",
    "TiltEstimate",
    "TiltPrior",
    "align_files",
    "correction_rotation",
    "crystal_orientation",
    "draw_overlay",
    "draw_stereogram",
    "estimate_tilt",
    "find_imperfection",
    "find_more",
    "goniometer_for_zone",
    "measure",
    "misorientation_deg",
    "order_of_resolution",
    "place_zones",
    "predicted_tilt",
    "propose_move",
    "read_orientation",
    "read_patterns",
    "save_overlay",
    "save_stereogram",
    "structure_from_cif",
    "tilt_from_zone",
    "write_orientation",
    "zone_from_tilt",
    "zone_in_holder",
]

_HOME = {
    "AlignmentInputError": "files",
    "Calibration": "files",
    "Caption": "overlay",
    "CrystalOrientation": "orientation_file",
    "CrystalStructure": "structure",
    "Findings": "findings",
    "Imperfection": "imperfection",
    "OrientationFileError": "orientation_file",
    "PatternError": "pattern",
    "PatternInput": "files",
    "Pictures": "files",
    "PlacedZone": "zones",
    "ResolutionOrder": "resolution",
    "StageGiven": "files",
    "Stereogram": "stereogram",
    "StructureError": "structure",
    "align_files": "files",
    "crystal_orientation": "orientation_file",
    "draw_overlay": "overlay",
    "draw_stereogram": "stereogram",
    "estimate_tilt": "estimate",
    "find_imperfection": "imperfection",
    "find_more": "findings",
    "measure": "files",
    "order_of_resolution": "resolution",
    "place_zones": "zones",
    "read_orientation": "orientation_file",
    "read_patterns": "files",
    "save_overlay": "overlay",
    "save_stereogram": "stereogram",
    "structure_from_cif": "structure",
    "write_orientation": "orientation_file",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
