"""Bent or mosaic crystals, and second crystals, told from one pattern.

A spread of orientations by eta lights reflections whose excitation error is larger than the
thickness allows: their range of s grows by |g| eta, whereas that of a thin crystal is the same
for all g.  The counts at the nodes are therefore held against relrods widened by |g| eta, for all
thicknesses; for a bend about one axis by |g . e| eta, with e across the axis.  The gain in
log-likelihood over the perfect crystal says how sure it is.  Spots that no node explains speak of a
second crystal.

Two limits, both measured: on the axis itself many beams are lit at once and look like a spread, so
more is asked for there; and where the strongest reflection turns over within 100 nm (SrTiO3)
nothing is told.  A rotation within the plane would smear spots tangentially; at the electron
counts and lattices of interest that width is not told from the neighbours' tails: not looked at.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.perception.alignment.apertures import make_plate, read_apertures
from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.likelihood import best_scale, null_likelihood
from controller.perception.alignment.optics import relativistic_factor, wavenumber_inv_A
from controller.perception.alignment.pattern import Pattern, check_pattern
from controller.perception.alignment.result import TiltEstimate
from controller.perception.alignment.spots import Spots, find_spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections

Array = NDArray[np.float64]
Kind = Literal["none", "mosaic", "bent", "second crystal"]

_SPREADS_DEG = np.array([0.0, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 0.9])
_THICKNESSES_A = np.array([150.0, 220.0, 320.0, 450.0, 620.0, 850.0, 1150.0])
_DIRECTIONS = 8
_NEIGHBOURS = ((1, 0), (0.5, 0.87), (-0.5, 0.87), (-1, 0), (-0.5, -0.87), (0.5, -0.87))
_MODEL_ERROR = 0.6
_SURE_GAIN, _LEAST_SPREAD_DEG = 14.0, 0.18
_NEAR_ZONE_DEG = 0.6
_SURE_GAIN_NEAR, _LEAST_SPREAD_NEAR_DEG = 40.0, 0.25
"""On the axis itself many beams are lit at once, and widen the zone as a spread would."""
_STRONGEST = 0.5
"""Largest 50 nm in extinction lengths of the strongest reflection; beyond, nothing is told."""
_SURE_BEND = 8.0
_SECOND_SHARE = 0.08
_SECOND_SPOTS = 8
_ON_NODE_PX = 1.8


@dataclass(frozen=True)
class Imperfection:
    """How far the crystal is from one orientation."""

    kind: Kind
    spread_deg: float
    """One sigma of the orientations (along the bend, if it is bent)."""
    spread_low_deg: float
    spread_high_deg: float
    """Where the log-likelihood has fallen by 2."""
    log_gain: float
    """Over the perfect crystal, in natural-log units."""
    told: bool
    """False where scattering is so strong that a spread cannot be told from it."""
    confidence: float
    """0 to 1 that there is a spread; below 0.5 it is not flagged."""
    bend_axis_deg: float | None
    """Direction about which a bent crystal turns, on the detector, modulo 180."""
    off_lattice_share: float
    """Part of the counts in spots (each capped) that lie on no node near the sphere."""
    off_lattice_spots: int

    @property
    def flagged(self) -> bool:
        """Whether an operator should look for another crystal."""
        return self.kind != "none"

    def text(self) -> str:
        """One line; empty where nothing is wrong."""
        if self.kind == "second crystal":
            return (
                f"SECOND CRYSTAL? {self.off_lattice_spots} spots with "
                f"{100 * self.off_lattice_share:.0f} % of the counts lie off the lattice"
            )
        if self.kind == "none":
            return ""
        axis = "" if self.bend_axis_deg is None else f" about {self.bend_axis_deg:.0f}°"
        return (
            f"{self.kind.upper()} by {self.spread_deg:.2f}° ({self.spread_low_deg:.2f}-"
            f"{self.spread_high_deg:.2f}){axis}, confidence {self.confidence:.2f}"
        )

    def as_record(self) -> dict[str, Any]:
        """For JSON; units in the keys."""
        return vars(self) | {"flagged": self.flagged}


def find_imperfection(
    counts: ArrayLike, estimate: TiltEstimate, *, energy_keV: float, structure: CrystalStructure
) -> Imperfection | None:
    """Whether the crystal is bent, mosaic or not alone; None without an answer.

    Parameters
    ----------
    counts
        The pattern, (row, col).
    estimate
        What `estimate_tilt` found in it, with the structure known.
    energy_keV, structure
        As it was measured with.
    """
    if not estimate.answered or estimate.orientation is None:
        return None
    centre = (estimate.centre_x_px, estimate.centre_y_px)
    pattern = check_pattern(counts)
    spots = find_spots(pattern, centre_px=centre)
    nodes = _nodes(pattern, spots, estimate, energy_keV, structure)
    round_gain = np.array([nodes.gain(eta, None) for eta in np.deg2rad(_SPREADS_DEG)])
    bends = [k * np.pi / _DIRECTIONS for k in range(_DIRECTIONS)]
    bent_gain = np.array(
        [[nodes.gain(eta, way) for eta in np.deg2rad(_SPREADS_DEG[1:])] for way in bends]
    )
    way, best_bend = np.unravel_index(int(np.argmax(bent_gain)), bent_gain.shape)
    perfect, best = float(round_gain[0]), int(np.argmax(round_gain))
    is_bend = bent_gain.max() - round_gain.max() > _SURE_BEND
    curve = np.concatenate([[perfect], bent_gain[way]]) if is_bend else round_gain
    at = int(best_bend) + 1 if is_bend else best
    spread = float(_SPREADS_DEG[at])
    bend = bends[way] if is_bend else None
    gain = 0.0
    if at > 0:
        eta = float(np.deg2rad(spread))
        gain = nodes.best_gain(eta, bend) - nodes.best_gain(0.0, None)
    near = _SPREADS_DEG[curve > curve[at] - 2.0]
    sure, least = _SURE_GAIN, _LEAST_SPREAD_DEG
    if estimate.misorientation_deg < _NEAR_ZONE_DEG:
        sure, least = _SURE_GAIN_NEAR, _LEAST_SPREAD_NEAR_DEG
    told = nodes.strongest() < _STRONGEST
    share, many = _off_lattice(spots, estimate, nodes)
    kind: Kind = "none"
    if told and share > _SECOND_SHARE and many >= _SECOND_SPOTS:
        kind = "second crystal"
    elif told and gain > sure and spread >= least:
        kind = "bent" if is_bend else "mosaic"
    return Imperfection(
        kind=kind,
        spread_deg=spread,
        spread_low_deg=float(near.min()),
        spread_high_deg=float(near.max()),
        log_gain=gain,
        told=told,
        confidence=float(1.0 / (1.0 + np.exp(-(gain - sure) / 4.0))) if told else 0.0,
        # the bend lights along e; its axis is across
        bend_axis_deg=float((np.rad2deg(bends[way]) + 90.0) % 180.0) if kind == "bent" else None,
        off_lattice_share=share,
        off_lattice_spots=many,
    )


@dataclass(frozen=True)
class _Nodes:
    """Counts at the nodes near the sphere, and what widens them."""

    n: Array
    b: Array
    f: Array
    s: Array
    gx: Array
    gy: Array
    coupling: Array
    unknown: Array
    null: Array

    def strongest(self) -> float:
        """How many extinction lengths of the strongest reflection 50 nm are."""
        return 500.0 * float(np.sqrt(self.coupling.max(initial=0.0)))

    def best_gain(self, eta_rad: float, way_rad: float | None) -> float:
        """The same, with the orientation free by some hundredths of a degree.

        An error of the orientation shifts the excitation errors as a bend widens them.
        """
        offset = np.zeros(2)
        best = self.gain(eta_rad, way_rad)
        for step in np.deg2rad((0.06, 0.03)):
            for _ in range(3):
                trials = [offset + step * np.array(way) for way in _NEIGHBOURS]
                gains = [self.gain(eta_rad, way_rad, trial) for trial in trials]
                if max(gains) <= best:
                    break
                best, offset = max(gains), trials[int(np.argmax(gains))]
        return best

    def gain(self, eta_rad: float, way_rad: float | None, offset_rad: Array | None = None) -> float:
        """Log-likelihood gain of a spread, at its best thickness.

        ``offset_rad`` turns the crystal by this much about detector x and y.
        """
        s = self.s
        if offset_rad is not None:
            s = s - (offset_rad[0] * self.gy - offset_rad[1] * self.gx)
        arm = np.hypot(self.gx, self.gy)
        if way_rad is not None:
            arm = np.abs(self.gx * np.cos(way_rad) + self.gy * np.sin(way_rad))
        best = -np.inf
        for thickness in _THICKNESSES_A:
            own2 = (0.37 / thickness) ** 2 + 0.3 * self.coupling
            width2 = own2 + (eta_rad * arm) ** 2
            x = self.coupling * (np.pi * thickness) ** 2
            shape = x / (1 + x) * np.sqrt(own2 / width2) * _profile(s**2, own2, width2)
            _, value = best_scale(
                self.n, self.b, self.f * shape, self.unknown, self.null, _MODEL_ERROR
            )
            best = max(best, value)
        return float(best)


def _profile(s2: Array, own2: Array, width2: Array) -> Array:
    """A Gaussian with the tails of a relrod: they are no sign of a spread."""
    tails = 0.06 * own2 / (s2 + own2)
    return np.asarray(np.exp(-0.5 * s2 / width2) + tails * np.sqrt(width2 / own2))


def _nodes(
    pattern: Pattern,
    spots: Spots,
    estimate: TiltEstimate,
    energy_keV: float,
    structure: CrystalStructure,
) -> _Nodes:
    wavenumber = wavenumber_inv_A(energy_keV)
    found = reflections(structure, min(1.6, float(np.cbrt(1.2e5 / (4.19 * structure.volume)))))
    orientation = np.ascontiguousarray(estimate.orientation)
    gx, gy, s = excitation(found.g, orientation, wavenumber)
    length = np.hypot(gx, gy)
    near = np.abs(s) < 0.006 + np.deg2rad(1.2) * length
    gx, gy, s = gx[near], gy[near], s[near]
    scale = relativistic_factor(energy_keV) / (np.pi * structure.volume * wavenumber)
    coupling = scale**2 * found.strength[near]
    spacing = float(np.linalg.norm(structure.reciprocal, axis=1).min()) / estimate.inv_A_per_px
    centre = (estimate.centre_x_px, estimate.centre_y_px)
    plate = make_plate(pattern, spots.background, spots.sigma_px, centre, spacing_px=spacing)
    n, b, f = read_apertures(
        centre[0] + gx / estimate.inv_A_per_px, centre[1] + gy / estimate.inv_A_per_px,
        plate.counts, plate.background, plate.good, plate.offsets, plate.fractions,
    )  # fmt: skip
    seen = f > 0
    bragg = spots.counts[1:] if len(spots) > 1 else spots.counts
    unknown, null = null_likelihood(n[seen], b[seen], float(bragg.max(initial=1.0)))
    return _Nodes(
        n[seen], b[seen], f[seen], s[seen], gx[seen], gy[seen], coupling[seen], unknown, null
    )


def _off_lattice(spots: Spots, estimate: TiltEstimate, nodes: _Nodes) -> tuple[float, int]:
    """Share of the counts in spots that no node comes near (the direct beam aside); their number.

    A bent crystal lights nodes that should be dark; a second crystal lights places between them.
    """
    if len(spots) == 0 or len(nodes.gx) == 0:
        return 0.0, 0
    centre = np.array([estimate.centre_x_px, estimate.centre_y_px])
    places = centre + np.stack([nodes.gx, nodes.gy], 1) / estimate.inv_A_per_px
    found = np.stack([spots.x_px, spots.y_px], 1)
    bragg = np.linalg.norm(found - centre, axis=1) > 4.0 * spots.sigma_px + 2.0
    reach = float(np.linalg.norm(places - centre, axis=1).max())
    away = np.linalg.norm(found[:, None] - places[None], axis=2).min(axis=1)
    off = bragg & (away > _ON_NODE_PX) & (np.linalg.norm(found - centre, axis=1) < reach)
    counts = np.minimum(spots.counts, 200.0)
    total = float(counts[bragg].sum())
    return float(counts[off].sum()) / max(total, 1.0), int(off.sum())
