"""Order of resolution: how far out the pattern still holds spots that are more than noise.

Structure known: the nodes near the Ewald sphere are looked at shell by shell in |g|.  A shell
counts if more of its nodes than chance allows, or one of them by far, hold more counts than the
background explains.  Without a structure: the furthest spots that were found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc
from scipy.stats import binom

from controller.perception.alignment.apertures import Plate, make_plate, read_apertures
from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.optics import wavenumber_inv_A
from controller.perception.alignment.pattern import check_pattern
from controller.perception.alignment.result import TiltEstimate
from controller.perception.alignment.spots import find_spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections

Array = NDArray[np.float64]

SIGNIFICANT = 1e-5
"""Largest probability that a shell is background alone."""
_NODE_CHANCE = 1e-3
_BACKGROUND_ROOM = 1.15
_SHELL_INV_A = 0.05
_FURTHEST_INV_A = 2.2
_LIT = 3.0
"""Largest |s| t of a node that counts as lit."""


@dataclass(frozen=True)
class Shell:
    """Nodes between two radii."""

    low_inv_A: float
    high_inv_A: float
    nodes: int
    spots: int
    """Nodes that are more than background (P < 1e-3 each)."""
    electrons: float
    """In their apertures, above background."""
    mean_i_over_sigma: float
    """Of single nodes."""
    chance: float
    """Probability that background alone would give as many spots, or one as bright."""


@dataclass(frozen=True)
class ResolutionOrder:
    """Where the spots end."""

    g_inv_A: float
    """Highest |g| with significant spots."""
    method: str
    limited_by_detector: bool
    """Spots go on to the edge of the detector."""
    shells: tuple[Shell, ...] = ()

    @property
    def d_A(self) -> float:
        """The same as a distance of planes."""
        return 1.0 / self.g_inv_A

    def as_record(self) -> dict[str, Any]:
        """For JSON; units in the keys."""
        return {
            "g_inv_A": self.g_inv_A,
            "d_A": self.d_A,
            "method": self.method,
            "limited_by_detector": self.limited_by_detector,
            "shells": [vars(shell) for shell in self.shells],
        }


def order_of_resolution(
    counts: ArrayLike,
    estimate: TiltEstimate,
    *,
    energy_keV: float,
    structure: CrystalStructure | None = None,
) -> ResolutionOrder | None:
    """How far out the pattern holds spots; None without an answer or without spots.

    Parameters
    ----------
    counts
        The pattern, (row, col).
    estimate
        What `estimate_tilt` found in it.
    energy_keV
        Of the beam.
    structure
        As the tilt was measured with.
    """
    if not estimate.answered:
        return None
    edge = _edge_inv_A(np.shape(counts), estimate)
    if structure is None or estimate.orientation is None:
        return _from_spots(estimate, edge)
    centre = (estimate.centre_x_px, estimate.centre_y_px)
    pattern = check_pattern(counts)
    spots = find_spots(pattern, centre_px=centre)
    g = reflections(structure, min(_FURTHEST_INV_A, _reach_inv_A(structure, edge))).g
    wavenumber = wavenumber_inv_A(energy_keV)
    gx, gy, s = excitation(g, np.ascontiguousarray(estimate.orientation), wavenumber)
    thickness_A = 10.0 * (estimate.thickness_nm if np.isfinite(estimate.thickness_nm) else 50.0)
    lit = np.abs(s) * thickness_A < _LIT
    gx, gy = gx[lit], gy[lit]
    spacing = float(np.linalg.norm(structure.reciprocal, axis=1).min()) / estimate.inv_A_per_px
    plate = make_plate(pattern, spots.background, spots.sigma_px, centre, spacing_px=spacing)
    shells = _shells(plate, gx, gy, estimate)
    good = [shell for shell in shells if shell.chance <= SIGNIFICANT]
    if not good:
        return None
    furthest = good[-1].high_inv_A
    return ResolutionOrder(
        g_inv_A=furthest,
        method=f"Poisson significance of the nodes in shells of {_SHELL_INV_A:g} 1/A, "
        f"P <= {SIGNIFICANT:g} per shell",
        limited_by_detector=furthest > edge - 1.5 * _SHELL_INV_A,
        shells=tuple(shells),
    )


def _reach_inv_A(structure: CrystalStructure, edge: float) -> float:
    """The corner of the detector, less where a large cell has too many nodes to be told apart."""
    most_nodes = 120_000.0
    return float(min(1.45 * edge, np.cbrt(most_nodes / (4.19 * structure.volume))))


def _edge_inv_A(shape: tuple[int, ...], estimate: TiltEstimate) -> float:
    rows, cols = shape
    x, y = estimate.centre_x_px, estimate.centre_y_px
    return float(min(x, y, cols - 1 - x, rows - 1 - y)) * estimate.inv_A_per_px


def _shells(plate: Plate, gx: Array, gy: Array, estimate: TiltEstimate) -> list[Shell]:
    length = np.hypot(gx, gy)
    found = _apertures(plate, gx, gy, estimate)
    shells = []
    for k in range(1, int(np.ceil(length.max(initial=0.0) / _SHELL_INV_A))):
        low, high = k * _SHELL_INV_A, (k + 1) * _SHELL_INV_A
        seen = (length > low) & (length <= high) & found.seen
        if not seen.any():
            continue
        n, b = found.counts[seen], found.background[seen]
        # P(N >= n) under a background that may be taken too low by some
        chance = np.where(n > 0, gammainc(np.maximum(n, 1e-9), _BACKGROUND_ROOM * b + 0.02), 1.0)
        nodes, hits = int(seen.sum()), int((chance < _NODE_CHANCE).sum())
        by_number = float(binom.sf(hits - 1, nodes, _NODE_CHANCE))
        by_brightest = min(nodes * float(chance.min()), 1.0)
        shells.append(
            Shell(
                low,
                high,
                nodes,
                hits,
                float((n - b).sum()),
                float(((n - b) / np.sqrt(np.maximum(n, 1.0))).mean()),
                min(2.0 * min(by_number, by_brightest), 1.0),
            )
        )
    return shells


@dataclass(frozen=True)
class _Apertures:
    counts: Array
    background: Array
    seen: NDArray[np.bool_]


def _apertures(plate: Plate, gx: Array, gy: Array, estimate: TiltEstimate) -> _Apertures:
    n, b, f = read_apertures(
        estimate.centre_x_px + gx / estimate.inv_A_per_px,
        estimate.centre_y_px + gy / estimate.inv_A_per_px,
        plate.counts, plate.background, plate.good, plate.offsets, plate.fractions,
    )  # fmt: skip
    return _Apertures(n, b, f > 0)


def _from_spots(estimate: TiltEstimate, edge: float) -> ResolutionOrder | None:
    used = estimate.marks.used_px
    centre = np.array([estimate.centre_x_px, estimate.centre_y_px])
    g = np.sort(np.linalg.norm(used - centre, axis=1)) * estimate.inv_A_per_px
    if len(g) < 3:
        return None
    # a lone outermost spot may be a false alarm: the second one counts
    furthest = float(g[-2])
    return ResolutionOrder(
        g_inv_A=furthest,
        method="second-furthest spot on the lattice, each with P < 1e-5 under the background",
        limited_by_detector=furthest > edge - 1.5 * _SHELL_INV_A,
    )
