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
from controller.perception.alignment.result import Alternative, Marks, TiltEstimate, TiltPrior

if TYPE_CHECKING:
    from controller.perception.alignment.estimate import estimate_tilt
    from controller.perception.alignment.files import (
        AlignmentInputError,
        Calibration,
        PatternInput,
        align_files,
        measure,
        read_patterns,
    )
    from controller.perception.alignment.overlay import draw_overlay, save_overlay
    from controller.perception.alignment.pattern import PatternError
    from controller.perception.alignment.structure import (
        CrystalStructure,
        StructureError,
        structure_from_cif,
    )

__all__ = [
    "AlignmentInputError",
    "Alternative",
    "Calibration",
    "CrystalStructure",
    "HolderFrame",
    "Marks",
    "PatternError",
    "PatternInput",
    "StructureError",
    "TiltEstimate",
    "TiltPrior",
    "align_files",
    "correction_rotation",
    "draw_overlay",
    "estimate_tilt",
    "goniometer_for_zone",
    "measure",
    "misorientation_deg",
    "predicted_tilt",
    "read_patterns",
    "save_overlay",
    "structure_from_cif",
    "tilt_from_zone",
    "zone_from_tilt",
    "zone_in_holder",
]

_HOME = {
    "AlignmentInputError": "files",
    "Calibration": "files",
    "CrystalStructure": "structure",
    "PatternError": "pattern",
    "PatternInput": "files",
    "StructureError": "structure",
    "align_files": "files",
    "draw_overlay": "overlay",
    "estimate_tilt": "estimate",
    "measure": "files",
    "read_patterns": "files",
    "save_overlay": "overlay",
    "structure_from_cif": "structure",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
