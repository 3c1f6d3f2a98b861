"""The shipped focus finder: parallax of a coarse 4D scan, through ``recon``.

Virtual bright-field images seen from different angles are displaced in proportion to defocus
(see ``recon.parallax``): one scan tells size and sign, without trying several focus values.
"""

from __future__ import annotations

from pathlib import Path

from controller.perception.protocols import FocusReading

SEARCH_NM = 120.0
"""How far from nominal the defocus is looked for."""
LARGEST_SIGMA_NM = 8.0
"""A defocus known worse than this is not known."""
SEARCH_ROTATION_DEG = 8.0
"""The rotation of scan against detector is calibrated; only its error is looked for."""


class ParallaxFocus:
    """Measures defocus from scan files."""

    def measure(self, scan_path: Path) -> FocusReading:
        """Read the scan file; bad data give no focus, with the reason."""
        from recon.calibrate import calibrate
        from recon.dataset import open_scan
        from recon.errors import ReconError
        from recon.params import ReconstructionParams

        params = ReconstructionParams(
            engine="parallax",
            search_defocus_A=SEARCH_NM * 10,
            search_rotation_deg=SEARCH_ROTATION_DEG,
        )
        try:
            calibrated = calibrate(open_scan(scan_path), params)
        except ReconError as error:
            return FocusReading(False, 0.0, 0.0, str(error))
        measured = calibrated.calibration.defocus_A
        if measured.source != "parallax":
            return FocusReading(False, 0.0, 0.0, "; ".join(calibrated.warnings))
        if not measured.sigma <= LARGEST_SIGMA_NM * 10:
            return FocusReading(
                False,
                0.0,
                0.0,
                f"the defocus is known to {measured.sigma / 10:.3g} nm only, "
                f"{LARGEST_SIGMA_NM:g} nm are needed: too little contrast where it was measured",
            )
        return FocusReading(True, measured.value / 10, measured.sigma / 10)
