"""The shape of solid things: slabs are flat, domes are not; crystals convex, ragged dirt is not."""

from __future__ import annotations

import numpy as np
import pytest

from models.classes import RegionClass
from models.lumps import SHAPE_FEATURES, find_lumps

ROWS, COLS = np.mgrid[0:90, 0:131].astype(np.float32)
SLAB = (np.abs(ROWS - 45) < 15) & (np.abs(COLS - 40) < 20)


def _shape(solid: np.ndarray, loss: np.ndarray, at: tuple[int, int]) -> dict[str, float]:
    probability = np.zeros((6, *solid.shape), np.float32)
    probability[RegionClass.CRYSTAL] = solid
    probability[RegionClass.SUPPORT] = ~solid
    electrons = (10 * np.exp(-loss)).astype(np.float32)
    lumps = find_lumps(probability, electrons, loss.astype(np.float32), 10.0)
    return dict(zip(SHAPE_FEATURES, lumps.shape_at(*at), strict=True))


def test_a_slab_is_flat_and_convex_and_a_dome_is_neither_flat() -> None:
    slab = _shape(SLAB, 0.3 * SLAB, (45, 40))
    dome = np.clip(1 - ((ROWS - 45) ** 2 + (COLS - 40) ** 2) / 400, 0, 1)
    round_thing = _shape(dome > 0, 0.3 * dome, (45, 40))
    assert slab["lump_flatness"] == pytest.approx(1, abs=0.02)
    assert round_thing["lump_flatness"] < 0.7
    assert slab["lump_convexity"] > 0.95
    assert round_thing["lump_convexity"] > 0.93
    assert slab["lump_log_area"] == pytest.approx(np.log(SLAB.sum() * 100))
    assert slab["lump_thickness"] == pytest.approx(0.3)


def test_a_star_is_not_convex() -> None:
    angle = np.arctan2(ROWS - 45, COLS - 60)
    star = np.hypot(ROWS - 45, COLS - 60) < 25 + 14 * np.cos(6 * angle)
    assert _shape(star, 0.3 * star, (45, 60))["lump_convexity"] < 0.8


@pytest.mark.parametrize(("gap_px", "said"), [(4, 0.4), (9, 0.9), (30, 1.2)])
def test_the_gap_to_the_next_thing_is_measured(gap_px: int, said: float) -> None:
    along = COLS - gap_px - 59
    both = SLAB | ((np.abs(ROWS - 45) < 9) & (along >= 0) & (along < 21))
    assert _shape(both, 0.2 * both, (45, 40))["lump_gap"] == pytest.approx(said, abs=0.11)


def test_what_touches_the_edge_says_so_and_film_has_no_shape() -> None:
    cut = COLS < 30
    assert _shape(cut, 0.2 * cut, (45, 10))["lump_at_edge"] == 1
    assert _shape(SLAB, 0.2 * SLAB, (45, 40))["lump_at_edge"] == 0
    assert _shape(SLAB, 0.2 * SLAB, (5, 120))["lump_log_area"] == 0
