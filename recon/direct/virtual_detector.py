"""Virtual detectors: any annulus or segment of one, named or given by its angles.

``bf``, ``abf`` and ``adf`` go by the convergence semi-angle alpha: 0 to alpha, alpha/2 to alpha,
and 1.1 alpha to the rim of the detector; ``20-40`` is an annulus in mrad, ``0-12@45-135`` the part
of one between two azimuths in degrees, from +col towards +row of the stored frame.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D, ScanHeader
from recon.errors import ReconError

NAMED = {"bf": (0.0, 1.0), "abf": (0.5, 1.0), "adf": (1.1, np.inf)}
"""Inner and outer semi-angle in units of the convergence semi-angle."""
NUMBER = r"(\d+(?:\.\d+)?)"
ANGLES = re.compile(rf"{NUMBER}-{NUMBER}(?:@(-?{NUMBER})-(-?{NUMBER}))?")


class DetectorError(ReconError):
    """A virtual detector that cannot be understood, or that sees nothing; nothing was written."""


@dataclass(frozen=True)
class VirtualDetector:
    """Part of the detector between two scattering angles, and two azimuths if given."""

    name: str
    inner_mrad: float
    outer_mrad: float
    azimuth_deg: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str, header: ScanHeader) -> "VirtualDetector":
        """Read a name or angles.

        Raises
        ------
        DetectorError
            Neither, or outer is not beyond inner, or no pixel of the detector lies there.
        """
        word = text.strip().lower()
        if word in NAMED:
            inner, outer = NAMED[word]
            alpha = header.convergence_semiangle_mrad
            return cls(word, inner * alpha, outer * alpha)
        found = ANGLES.fullmatch(word)
        if found is None:
            raise DetectorError(
                f"{text!r} is no virtual detector; say {', '.join(NAMED)}, INNER-OUTER in mrad, "
                f"or INNER-OUTER@FROM-TO with azimuths in degrees"
            )
        numbers = found.groups()
        inner, outer = float(numbers[0]), float(numbers[1])
        azimuth = None if numbers[2] is None else (float(numbers[2]), float(numbers[4]))
        if outer <= inner:
            raise DetectorError(f"{text!r}: the outer angle must be larger than the inner one")
        return cls(word, inner, outer, azimuth)

    def mask(self, dataset: Dataset4D, centre_px: tuple[float, float]) -> NDArray[np.bool_]:
        """Pixels of the stored frame that belong to it, bool (det_y, det_x).

        Raises
        ------
        DetectorError
            Not one pixel does.
        """
        row, col = np.indices(dataset.frame_shape)
        dy, dx = row - centre_px[0], col - centre_px[1]
        sampling = dataset.header.detector_sampling_mrad
        angle = np.hypot(dy, dx) * sampling
        mask = (angle >= self.inner_mrad) & (angle < self.outer_mrad)
        if self.azimuth_deg is not None:
            first, last = self.azimuth_deg
            turned = (np.degrees(np.arctan2(dy, dx)) - first) % 360.0
            mask &= turned < ((last - first) % 360.0 or 360.0)
        if not mask.any():
            reach = float(angle.max())
            raise DetectorError(
                f"virtual detector {self.name!r} ({self.inner_mrad:g} to {self.outer_mrad:g} mrad) "
                f"holds no pixel of a detector that reaches {reach:.1f} mrad"
            )
        return mask
