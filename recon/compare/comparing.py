"""The numbers of a comparison: agreement of the images, of the calibrations, of the settings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.compare.registering import Field, Placement, register, square_grid
from recon.compare.stored import Float, StoredResult, load_result
from recon.errors import DataError
from recon.metrics import RingCorrelation, ring_correlation, without_plane

MIN_SIDE_PX = 24
IN_DETECTOR_PIXELS = ("beam_centre_row_px", "beam_centre_col_px", "disc_radius_px")
NOT_COMPARED = ("raw_headers", "process")


@dataclass(frozen=True)
class Comparison:
    """``images`` (2, rows, cols): both phases on one grid of ``pixel_size_A``, planes removed."""

    first: StoredResult
    second: StoredResult
    placement: Placement
    pixel_size_A: float
    images: Float
    correlation: float
    gain: float
    frc: RingCorrelation
    warnings: tuple[str, ...]

    def calibration_rows(self) -> list[dict[str, Any]]:
        """Every number both have: values, sigmas, difference and difference in sigmas."""
        rows = []
        places = [r.header.get("frame_shape") for r in (self.first, self.second)]
        same_detector = places[0] == places[1]
        for name, a in self.first.calibration.items():
            b = self.second.calibration.get(name)
            if b is None or (name in IN_DETECTOR_PIXELS and not same_detector):
                continue
            sigma = float(np.hypot(a.sigma, b.sigma))
            difference = b.value - a.value
            rows.append(
                {
                    "name": name, "first": a.value, "first_sigma": _clean(a.sigma),
                    "second": b.value, "second_sigma": _clean(b.sigma), "difference": difference,
                    "sigmas": difference / sigma if np.isfinite(sigma) and sigma > 0 else None,
                }
            )  # fmt: skip
        return rows

    def setting_rows(self) -> list[dict[str, Any]]:
        """Settings and header fields that differ."""
        rows = []
        for kind in ("settings", "header"):
            a, b = getattr(self.first, kind), getattr(self.second, kind)
            rows += [
                {"kind": kind, "name": name, "first": a.get(name), "second": b.get(name)}
                for name in sorted(a.keys() | b.keys())
                if a.get(name) != b.get(name) and name not in NOT_COMPARED
            ]
        return rows

    def resolution_rows(self) -> list[dict[str, Any]]:
        """Resolutions and electrons that each result states for itself."""
        names = [name for name in self.first.resolution if name in self.second.resolution]
        return [
            {
                "name": name,
                "first": _clean(self.first.resolution[name]),
                "second": _clean(self.second.resolution[name]),
            }
            for name in names
        ]

    def summary(self) -> dict[str, Any]:
        """Numbers for machines, JSON-ready."""
        return {
            "verdict": self.verdict(),
            "warnings": list(self.warnings),
            "first": self.first.name,
            "second": self.second.name,
            "correlation": self.correlation,
            "gain": self.gain,
            "shift_A": list(self.placement.shift_A),
            "turn_deg": self.placement.turn_deg,
            "mirrored": self.placement.mirrored,
            "pixel_size_A": self.pixel_size_A,
            "compared_field_A": [n * self.pixel_size_A for n in self.images.shape[1:]],
            "frc_at_half_A": _clean(self.frc.resolution_A(0.5)),
            "frc_0143_A": _clean(self.frc.resolution_A(0.143)),
            "resolution": self.resolution_rows(),
            "calibration": self.calibration_rows(),
            "settings": self.setting_rows(),
        }

    def verdict(self) -> str:
        """One sentence about the images, one about what differs most."""
        shift = float(np.hypot(*self.placement.shift_A))
        agree = self.frc.resolution_A(0.5)
        text = f"correlation {self.correlation:.3f} after a shift of {shift:.2f} Å and a turn of "
        text += f"{self.placement.turn_deg:.2f} deg"
        text += ", mirrored" if self.placement.mirrored else ""
        text += (
            f"; the two agree to {agree:.2f} Å (FRC 1/2)"
            if np.isfinite(agree)
            else "; they agree at no resolution (FRC 1/2)"
        )
        far = [row for row in self.calibration_rows() if row["sigmas"] is not None]
        far = [row for row in far if abs(row["sigmas"]) > 3]
        if not far:
            return f"{text}; no calibration differs by more than three sigmas."
        worst = max(far, key=lambda row: abs(row["sigmas"]))
        return (
            f"{text}; {len(far)} calibrated numbers are more than three sigmas apart, most "
            f"{worst['name']}: {worst['first']:.4g} and {worst['second']:.4g}."
        )


def compare(first: StoredResult, second: StoredResult) -> Comparison:
    """Register ``second`` on ``first`` and compare what both saw, on the coarser pixel.

    Raises
    ------
    DataError
        What both scanned is too small to compare.
    """
    pixel = max(first.pixel_size_A, second.pixel_size_A)
    a, b = Field(first, pixel), Field(second, pixel)
    placement = register(first, second, pixel)
    points = square_grid(a.reach_A(), pixel)
    there = placement.to_second(points)
    rows, cols = largest_rectangle(a.inside(points) & b.inside(there))
    if min(rows.stop - rows.start, cols.stop - cols.start) < MIN_SIDE_PX:
        raise DataError(
            f"{first.name} and {second.name} share a field of {rows.stop - rows.start} x "
            f"{cols.stop - cols.start} pixels of {pixel:.2f} Å, at least {MIN_SIDE_PX} x "
            f"{MIN_SIDE_PX} are needed; compare scans of the same place"
        )
    images = np.stack(
        [without_plane(a.values(points[rows, cols])), without_plane(b.values(there[rows, cols]))]
    )
    correlation = float(np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1])
    return Comparison(
        first=first,
        second=second,
        placement=placement,
        pixel_size_A=pixel,
        images=images,
        correlation=correlation,
        gain=float((images[0] * images[1]).sum() / (images[0] ** 2).sum()),
        frc=ring_correlation(images[0], images[1], pixel),
        warnings=tuple(_warnings(first, second, placement, correlation)),
    )


def _warnings(
    first: StoredResult, second: StoredResult, placement: Placement, correlation: float
) -> list[str]:
    notes = []
    if first.source_sha256 and first.source_sha256 == second.source_sha256:
        notes.append(
            "both results rest on the same electrons: their agreement says how far the settings "
            "matter, not how far the image is right, and sigmas of differences are too large"
        )
    if correlation < 0.3:
        notes.append(
            f"the correlation is {correlation:.2f}: the two may show different places, and the "
            f"placement is doubtful"
        )
    if placement.mirrored or abs(placement.turn_deg) > 2:
        notes.append(
            "the two had to be turned or mirrored to match, although both are in the frame of the "
            "detector: another mounting of the specimen, or a rotation or handedness is wrong"
        )
    return notes


def largest_rectangle(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the largest upright rectangle that is True throughout."""
    height = np.zeros(mask.shape[1], int)
    best, found = 0, (slice(0, 0), slice(0, 0))
    for bottom, row in enumerate(mask):
        height = np.where(row, height + 1, 0)
        open_at: list[tuple[int, int]] = []  # (first column, height), heights rising
        for col, h in enumerate([*height.tolist(), 0]):
            start = col
            while open_at and open_at[-1][1] >= h:
                start, tall = open_at.pop()
                if tall * (col - start) > best:
                    best = tall * (col - start)
                    found = (slice(bottom - tall + 1, bottom + 1), slice(start, col))
            open_at.append((start, h))
    return found


def compare_files(
    first: str | Path, second: str | Path, out: str | Path | None = None
) -> dict[str, Any]:
    """Compare two result folders and write picture, page and numbers into ``out``.

    Returns
    -------
    The summary (JSON-ready), with ``outputs``: name -> path.

    Raises
    ------
    DataError
        One is no result, they share no field, or ``out`` holds a comparison already.
    """
    from recon.compare.page import write_comparison

    a, b = load_result(first), load_result(second)
    folder = Path(out) if out else Path(f"{a.name}-and-{b.name}")
    if (folder / "comparison.json").exists() or (folder.exists() and not folder.is_dir()):
        raise DataError(f"{folder} is taken, nothing was overwritten; choose another --out")
    result = compare(a, b)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = write_comparison(result, folder)
    summary = result.summary() | {"outputs": outputs}
    text = json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    return summary


def _clean(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
