"""Patterns that mislead: a second crystal in the beam, a bent one, one that shows few spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sim_microscope.specimen import TruePose

Array = NDArray[np.float64]

SECOND_TURN_DEG = 37.0
SECOND_SHARE = 0.4
BEND_DEG = 2.0
"""From end to end of the illuminated part."""
_BEND_STEPS = 5
FEW_WITHIN = 0.12
"""Radius inside which spots are left, as a share of the detector's side."""


def bent_poses(pose: TruePose) -> Iterator[TruePose]:
    """The orientations along a crystal that is bent about the alpha axis."""
    for share in np.linspace(-0.5, 0.5, _BEND_STEPS):
        yield replace(pose, alpha_deg=pose.alpha_deg + float(share) * BEND_DEG)


def bent(pattern: Callable[[TruePose], Array], pose: TruePose) -> Array:
    """Mean pattern over the bend."""
    return np.asarray(np.mean([pattern(p) for p in bent_poses(pose)], axis=0))


def with_second_crystal(pattern: Array, centre_px: tuple[float, float]) -> Array:
    """The same kind of crystal once more, turned about the beam; electrons are shared.

    Parameters
    ----------
    centre_px
        Direct beam, (row, col).
    """
    angle = np.deg2rad(SECOND_TURN_DEG)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.asarray(centre_px)
    turned = ndimage.affine_transform(pattern, turn, centre - turn @ centre, order=1)
    return np.asarray((1 - SECOND_SHARE) * pattern + SECOND_SHARE * turned)


def with_few_spots(pattern: Array, centre_px: tuple[float, float]) -> Array:
    """Only what lies near the direct beam, (row, col); elsewhere the background."""
    rows, cols = np.indices(pattern.shape)
    away = np.hypot(rows - centre_px[0], cols - centre_px[1])
    near = away < FEW_WITHIN * max(pattern.shape)
    return np.where(near, pattern, np.minimum(pattern, np.median(pattern)))
