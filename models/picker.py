"""The region picker: raw detector values in, classes, thickness and ranked discs out.

This is the only module that others need.  Frames of one field are summed, the calibration of the
detector turns values into electrons, the network and its calibrated confidence do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classes import Mode
from models.confidence import Confidence, signature
from models.frames import ImageError, electrons_of
from models.inference import Fields, run_network
from models.inputs import Acquisition, working_grid
from models.network import Network, Runtime, open_network
from models.picking import Candidate, find_candidates
from models.weights import load_weights

Floats = NDArray[np.float32]
SCORE_TO_ACT = 0.4
"""Below this best score the picker abstains."""
SURE = 0.8
"""A best score of this needs no further look."""
SCORE_TO_LIST = 0.03
LEAST_ELECTRONS = 50.0
"""An image with fewer electrons in all says nothing."""
_CERTAIN_SNR = 12.0
_TYPICAL_CONTRAST, _TYPICAL_SIZE_NM = 0.2, 250.0


@dataclass(frozen=True)
class Pick:
    """A disc in which to look for one usable crystal."""

    y_px: float
    x_px: float
    """Centre in pixels of the input image, (row, col)."""
    radius_nm: float
    score: float
    """Calibrated probability that the pick is right."""
    area_nm2: float
    """Usable area of the crystal as seen."""
    equivalent_diameter_nm: float
    thickness_mfp: float
    """Mean t/mfp in the disc."""
    reason: str
    """Why it was chosen or doubted, for the operator."""


@dataclass(frozen=True)
class RegionResult:
    """What is in one field."""

    labels: NDArray[np.uint8]
    """Values of ``RegionClass``, (ny, nx)."""
    probability: Floats
    """Calibrated class probabilities, (6, ny, nx)."""
    thickness_mfp: Floats
    """t/mfp of everything along the beam, (ny, nx)."""
    picks: tuple[Pick, ...]
    """Best first.  If ``abstained``, these are candidates to look at, not to act on; none if the
    image is out of distribution."""
    abstained: bool
    reason: str
    electrons_per_px: float
    """Mean detected electrons per pixel of the summed image."""
    electrons_per_px_wanted: float | None
    """Detected electrons per pixel at which a surer answer may be expected; None if more would
    not help or none are needed."""
    out_of_distribution: bool
    unfamiliarity: float
    """Distance from the training scenes in units of the limit."""
    drift_px: tuple[tuple[int, int], ...] = ((0, 0),)
    """Shift of each frame against the first, (row, column) pixels; taken out before summing."""


class RegionPicker:
    """U-Net with calibrated confidence; ``load`` one and keep it."""

    def __init__(self, network: Network, confidence: Confidence) -> None:
        self._network = network
        self._confidence = confidence

    @classmethod
    def load(cls, weights: Path | None = None, runtime: Runtime = "auto") -> RegionPicker:
        """Read weights, the shipped ones by default.

        Parameters
        ----------
        weights
            A file of `lodestem train`.
        runtime
            "onnx" (needs no torch), "torch", or "auto": onnxruntime where it is installed.

        Raises
        ------
        WeightsError
            The file is missing, damaged or of another version.
        RuntimeMissingError
            What should run the network is not installed.
        """
        loaded = load_weights(weights)
        return cls(open_network(loaded, runtime), Confidence.from_arrays(loaded.calibration))

    def pick(
        self,
        images: Sequence[NDArray[Any]] | NDArray[Any],
        *,
        mode: Mode,
        pixel_size_nm: float,
        gain: float = 1.0,
        offset: float = 0.0,
        incident_electrons_per_px: float | None = None,
    ) -> RegionResult:
        """Classes, thickness and ranked picks of one field.

        Parameters
        ----------
        images
            One image (ny, nx) or several frames of one field (frame, ny, nx) of raw detector
            values; frames are summed on the grid of the first, drift taken out.
        mode
            "BF" or "HAADF".
        pixel_size_nm
            Pixel size on the specimen, nm.
        gain, offset
            ``electrons = (value - offset) / gain`` for each frame.
        incident_electrons_per_px
            Electrons sent per pixel by all frames together, if known.

        Raises
        ------
        ImageError
            The images are not finite, not 2-D, too small, or the numbers make no sense.
        """
        electrons, shifts = electrons_of(
            images, mode=mode, pixel_size_nm=pixel_size_nm, gain=gain, offset=offset
        )
        if incident_electrons_per_px is not None and not (
            isfinite(incident_electrons_per_px) and incident_electrons_per_px > 0
        ):
            raise ImageError(
                f"incident_electrons_per_px is {incident_electrons_per_px:g}; it must be a "
                f"positive number, or absent if unknown. Nothing was picked"
            )
        raw = Acquisition(mode, pixel_size_nm, incident_electrons_per_px)
        summed, acquisition, binning = working_grid(electrons, raw)
        fields = run_network(self._network, summed, acquisition)
        dose = float(electrons.mean())
        probability = self._confidence.probability(fields.logits, float(summed.mean()))
        unfamiliarity = self._confidence.unfamiliarity(signature(fields, summed))
        candidates = find_candidates(fields, probability, summed, acquisition)
        foreign = not unfamiliarity <= 1 or float(electrons.sum()) < LEAST_ELECTRONS
        picks = (
            () if foreign else self._rank(candidates, fields, acquisition, binning, electrons.shape)
        )
        abstained, reason = _verdict(picks, dose, float(electrons.sum()), unfamiliarity)
        shape = electrons.shape
        fine = _enlarge(probability, binning, shape)
        return RegionResult(
            labels=fine.argmax(axis=0).astype(np.uint8),
            probability=fine,
            thickness_mfp=_enlarge(fields.thickness_mfp, binning, shape),
            picks=picks,
            abstained=abstained,
            reason=reason,
            electrons_per_px=dose,
            electrons_per_px_wanted=_wanted(candidates, dose, pixel_size_nm)
            if not foreign and max((p.score for p in picks), default=0.0) < SURE
            else None,
            out_of_distribution=foreign,
            unfamiliarity=unfamiliarity,
            drift_px=tuple((int(y), int(x)) for y, x in shifts),
        )

    def _rank(
        self,
        candidates: list[Candidate],
        fields: Fields,
        acquisition: Acquisition,
        binning: int,
        shape: tuple[int, ...],
    ) -> tuple[Pick, ...]:
        scored = [(self._confidence.score(c.features), c) for c in candidates]
        scored.sort(key=lambda pair: -pair[0])
        middle = (binning - 1) / 2
        picks = []
        for score, c in scored:
            if score < SCORE_TO_LIST:
                break
            thickness = _disc_mean(fields.thickness_mfp, c, acquisition.pixel_size_nm)
            picks.append(
                Pick(
                    y_px=min(c.y * binning + middle, shape[0] - 1.0),
                    x_px=min(c.x * binning + middle, shape[1] - 1.0),
                    radius_nm=c.radius_nm,
                    score=score,
                    area_nm2=c.area_nm2,
                    equivalent_diameter_nm=2 * sqrt(c.area_nm2 / pi),
                    thickness_mfp=thickness,
                    reason=_describe(c, thickness),
                )
            )
        return tuple(picks)


def _disc_mean(values: Floats, c: Candidate, pixel_size_nm: float) -> float:
    reach = int(c.radius_nm / pixel_size_nm / sqrt(2)) + 1  # inscribed square
    patch = values[max(0, c.y - reach) : c.y + reach + 1, max(0, c.x - reach) : c.x + reach + 1]
    return float(patch.mean())


def _describe(c: Candidate, thickness_mfp: float) -> str:
    words = [
        f"usable area {c.area_nm2 / 1e6:.3g} µm², disc of {c.radius_nm:.0f} nm, "
        f"t/mfp about {thickness_mfp:.2f}"
    ]
    doubts = {
        "thick_disc": (0.15, "may be thick or overlapping"),
        "dirt_disc": (0.15, "may be contamination"),
        "other_crystal_ring": (0.3, "another crystal or a thick part is close"),
        "edge": (0.5, "close to the edge of the image"),
    }
    words += [doubt for name, (limit, doubt) in doubts.items() if c.feature(name) > limit]
    if c.feature("crystal_disc") < 0.6:
        words.append("faint against the noise")
    return "; ".join(words)


def _verdict(
    picks: tuple[Pick, ...], dose: float, electrons: float, unfamiliarity: float
) -> tuple[bool, str]:
    """Whether to abstain, and why or why not."""
    if electrons < LEAST_ELECTRONS:
        return True, (
            f"only {max(electrons, 0):.0f} electrons in the whole image; check the beam, "
            f"the gain and the offset"
        )
    if not unfamiliarity <= 1:
        return True, (
            f"the image is unlike any survey image ({unfamiliarity:.1f} times the limit); check "
            f"mode, pixel size, gain and offset, or ask the operator"
        )
    if not picks:
        return True, f"no crystal that could be used at {dose:.3g} electrons per pixel"
    best = picks[0].score
    if best < SCORE_TO_ACT:
        return True, (
            f"the best of {len(picks)} candidates is right with probability {best:.2f} only "
            f"(wanted {SCORE_TO_ACT:.2f}) at {dose:.3g} electrons per pixel"
        )
    good = sum(p.score >= SCORE_TO_ACT for p in picks)
    return False, f"{good} usable crystal{'s' if good != 1 else ''}, the best at {best:.2f}"


def _wanted(candidates: list[Candidate], dose: float, pixel_size_nm: float) -> float | None:
    """Dose at which the best candidate, or a typical crystal if none, would be certain.

    From SNR = contrast * sqrt(area * dose): the SNR grows with the root of the dose.
    """
    if candidates:
        snr = max(float(np.exp(c.feature("log_contrast_snr")) - 0.5) for c in candidates)
        factor = (_CERTAIN_SNR / max(snr, 1.0)) ** 2
        return dose * max(factor, 2.0) if factor > 0.5 else None
    area_px = (_TYPICAL_SIZE_NM / pixel_size_nm) ** 2
    typical = (_CERTAIN_SNR / _TYPICAL_CONTRAST) ** 2 / area_px
    return typical if dose < typical else None


def _enlarge(values: Floats, binning: int, shape: tuple[int, ...]) -> Floats:
    """Back from the working grid to the pixels of the input, linearly, over the last two axes."""
    if binning == 1:
        return values
    for axis, wanted in ((-2, shape[0]), (-1, shape[1])):
        coarse = values.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) / binning - 0.5, 0, coarse - 1)
        low = at.astype(int)
        high = np.minimum(low + 1, coarse - 1)
        part = (at - low).astype(np.float32)
        part = part[:, None] if axis == -2 else part
        below, above = np.take(values, low, axis=axis), np.take(values, high, axis=axis)
        values = below + part * (above - below)
    return values
