"""Which regions of a picture can be believed: a network may say anything, also what is no number.

A place that is no number would become a target of the stage, a region as wide as the picture
would be scanned anywhere.  What is dropped is named, so that a person can look at the picture.
"""

from __future__ import annotations

import math
from dataclasses import replace

from controller.perception.protocols import RegionPick, RegionsSeen


def credible(seen: RegionsSeen, shape: tuple[int, int], pixel_size_nm: float) -> RegionsSeen:
    """`seen` without regions that cannot be; the reasons are added to its own.

    Parameters
    ----------
    shape
        Of the picture, (row, col).
    """
    kept, dropped = [], []
    for pick in seen.picks:
        trouble = _trouble(pick, shape, pixel_size_nm)
        if trouble is None:
            kept.append(pick)
        else:
            dropped.append(trouble)
    fractions = {k: v for k, v in seen.class_fractions.items() if math.isfinite(v)}
    if not dropped and len(fractions) == len(seen.class_fractions):
        return seen
    said = (
        f"{len(dropped)} of {len(seen.picks)} regions cannot be: {'; '.join(sorted(set(dropped)))}"
    )
    reason = "; ".join(part for part in (seen.reason, said) if part)
    return replace(seen, picks=tuple(kept), class_fractions=fractions, reason=reason)


def _trouble(pick: RegionPick, shape: tuple[int, int], pixel_size_nm: float) -> str | None:
    rows, cols = shape
    if not (0 <= pick.x_px < cols and 0 <= pick.y_px < rows):
        return "a place outside the picture"
    if not 0 <= pick.score <= 1:
        return "a score that is no probability"
    half_nm = min(shape) / 2 * pixel_size_nm
    if not 0 < pick.radius_nm <= half_nm:
        return "a radius that does not fit into the picture"
    if not 0 < pick.diameter_nm <= math.hypot(rows, cols) * pixel_size_nm:
        return "a diameter that does not fit into the picture"
    return None
