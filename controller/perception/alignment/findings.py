"""What an operator wants to know about a measured pattern besides the tilt.

One call gathers the move, the zones within reach, the orientation in the holder, the order of
resolution and whether the crystal is bent; ``lodestem align`` writes what it returns.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from controller.perception.alignment.imperfection import Imperfection, find_imperfection
from controller.perception.alignment.moves import Goniometer, ProposedMove, propose_move
from controller.perception.alignment.orientation_file import (
    CrystalOrientation,
    crystal_orientation,
)
from controller.perception.alignment.overlay import Caption
from controller.perception.alignment.resolution import ResolutionOrder, order_of_resolution
from controller.perception.alignment.result import TiltEstimate
from controller.perception.alignment.stereogram import Stereogram
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.zones import PlacedZone, laue_layer_inv_A, place_zones


@dataclass(frozen=True)
class Findings:
    """Everything besides the tilt; None or empty where it cannot be told."""

    move: ProposedMove | None
    zones: tuple[PlacedZone, ...]
    orientation: CrystalOrientation | None
    resolution: ResolutionOrder | None = None
    imperfection: Imperfection | None = None

    def as_record(self) -> dict[str, Any]:
        """Entries that join the pattern's record in the JSON."""
        record: dict[str, Any] = {}
        if self.move is not None:
            record["move"] = self.move.as_record()
        if self.zones:
            record["zones"] = [zone.as_record() for zone in self.zones]
        if self.orientation is not None:
            record["orientation_in_holder"] = [
                list(row) for row in self.orientation.holder_from_crystal().tolist()
            ]
            record["ub_holder_inv_A"] = [list(row) for row in self.orientation.ub_holder_inv_A]
        if self.resolution is not None:
            record["order_of_resolution"] = self.resolution.as_record()
        if self.imperfection is not None:
            record["imperfection"] = self.imperfection.as_record()
        return record

    def notes(self) -> tuple[str, ...]:
        """Lines for the picture."""
        lines = []
        if self.resolution is not None:
            more = " and beyond" if self.resolution.limited_by_detector else ""
            lines.append(
                f"spots to {self.resolution.g_inv_A:.2f} 1/Å, d {self.resolution.d_A:.2f} Å{more}"
            )
        if self.imperfection is not None and self.imperfection.flagged:
            lines.append(self.imperfection.text())
        return tuple(lines)


def find_more(
    estimate: TiltEstimate,
    counts: ArrayLike,
    *,
    energy_keV: float,
    structure: CrystalStructure | None = None,
    goniometer: Goniometer | None = None,
    source: str = "",
    utc: str = "",
) -> Findings:
    """Gather what follows from an answer.

    Parameters
    ----------
    estimate
        The tilt as measured.
    counts
        The pattern that it was measured in, (row, col).
    structure
        As it was measured with; without it there are no zones and no orientation.
    goniometer
        Reading and frame; without it neither move nor zones.
    source, utc
        Where the pattern came from and when; written into the exported orientation.
    """
    move = None if goniometer is None else propose_move(estimate, goniometer)
    zones: tuple[PlacedZone, ...] = ()
    orientation = None
    if goniometer is not None and structure is not None and estimate.answered:
        orientation = crystal_orientation(
            estimate, structure, goniometer, energy_keV=energy_keV, utc=utc, source=source
        )
        if estimate.orientation is not None:
            zones = tuple(
                place_zones(
                    structure,
                    estimate.orientation,
                    alpha_deg=goniometer.alpha_deg,
                    beta_deg=goniometer.beta_deg,
                    frame=goniometer.frame,
                    reach=goniometer.reach,
                )
            )
    resolution = order_of_resolution(counts, estimate, energy_keV=energy_keV, structure=structure)
    imperfection = None
    if structure is not None:
        imperfection = find_imperfection(
            counts, estimate, energy_keV=energy_keV, structure=structure
        )
    return Findings(move, zones, orientation, resolution, imperfection)


def caption(
    title: str,
    findings: Findings,
    structure: CrystalStructure | None = None,
    zone_uvw: tuple[int, int, int] | None = None,
) -> Caption:
    """The words beside the picture."""
    layer = None
    if structure is not None and zone_uvw is not None:
        layer = laue_layer_inv_A(structure, zone_uvw)
    return Caption(
        title=title,
        crystal="" if structure is None else structure.name.removesuffix(".cif"),
        zone_uvw=zone_uvw,
        layer_inv_A=layer,
        move=findings.move,
        notes=findings.notes(),
    )


def stereogram(title: str, findings: Findings, goniometer: Goniometer) -> Stereogram:
    """What the stereogram shows."""
    move = findings.move
    return Stereogram(
        zones=findings.zones,
        alpha_deg=goniometer.alpha_deg,
        beta_deg=goniometer.beta_deg,
        reach=goniometer.reach,
        target=None if move is None else (move.alpha_deg, move.beta_deg),
        title=title,
    )
