"""The shipped reconstructor: a scan file to a phase image and its quality, through ``recon``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller.perception.protocols import ReconstructionReading

SEARCH_DEFOCUS_A = 450.0
"""Three sigma of the height that the run measures.  Not wider: in a lattice of spacing d the
parallax repeats every d / semi-angle of defocus (100 nm for 10 A at 10 mrad)."""
SEARCH_ROTATION_DEG = 6.0
"""The rotation of the scan against the detector is calibrated; only its error is looked for."""


class PtychographyReconstructor:
    """Default reconstruction of a scan.

    Parameters
    ----------
    seed
        Of the thinning of the electrons.
    max_passes
        None leaves it to the reconstruction.
    """

    def __init__(self, *, seed: int = 0, max_passes: int | None = None) -> None:
        self._seed = seed
        self._max_passes = max_passes

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        """Reconstruct into `out_dir`; data that cannot be reconstructed give the reason."""
        from recon.errors import ReconError
        from recon.output import reconstruct_file
        from recon.params import ReconstructionParams

        given: dict[str, Any] = {
            "nominal_defocus_A": 10 * expected_defocus_nm,
            "search_defocus_A": SEARCH_DEFOCUS_A,
            "search_rotation_deg": SEARCH_ROTATION_DEG,
        }
        if self._max_passes is not None:
            given["max_passes"] = self._max_passes
        try:
            summary = reconstruct_file(
                scan_path, out_dir, ReconstructionParams(**given), rng_seed=self._seed
            )
        except ReconError as error:
            return ReconstructionReading(False, None, reason=str(error))
        return reading_of(summary)


def reading_of(summary: dict[str, Any]) -> ReconstructionReading:
    """The numbers of a summary that decide about the scan.

    The resolution is the worse of FRC and lattice limit where both are known: never a prettier
    number than the data carry.  What the electrons do not confirm is no result, whatever lattice
    stands in the picture: a wrong model draws spots of its own.
    """
    from recon.judge import SURE_SHARE

    resolution = summary.get("resolution", {})
    frc = _number(resolution.get("frc_half_A"))
    lattice = _number(resolution.get("lattice_limit_A"))
    known = [value for value in (frc, lattice) if value is not None]
    worst = max(known) if known else None
    confirmed = _number(summary.get("explained_share"))
    is_doubtful = confirmed is not None and confirmed < SURE_SHARE
    verdict = str(summary.get("verdict", ""))
    reason = "" if lattice is not None else "no lattice stands out of the power spectrum"
    calibration = summary.get("calibration", {})
    defocus = _number(calibration.get("defocus_A", {}).get("value"))
    thickness = _number(calibration.get("thickness_A", {}).get("value"))
    return ReconstructionReading(
        ok=worst is not None and lattice is not None and not is_doubtful,
        resolution_A=worst,
        frc_half_A=frc,
        lattice_limit_A=lattice,
        defocus_nm=None if defocus is None else defocus / 10,
        thickness_nm=None if thickness is None else thickness / 10,
        passes=int(summary.get("passes", 0)),
        stopped_because=str(summary.get("stopped_because", "")),
        verdict=verdict,
        reason=verdict if is_doubtful else reason,
        warnings=tuple(str(text) for text in summary.get("warnings", ())),
    )


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and value == value and abs(value) != float("inf"):
        return float(value)
    return None
