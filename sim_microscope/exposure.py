"""From beam time to footprints: who received how many electrons while the beam was open.

Time is cut where the beam changes (valve, gun, current) and, while the stage runs, into short
pieces; each piece leaves one deposit in the true dose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Mode, Scan
from sim_microscope.column import BEAM_FAULTS, SimulatedColumn
from sim_microscope.dose import ELECTRONS_PER_PA_S, Deposit
from sim_microscope.faults import FaultBoard
from sim_microscope.optics import SimulatedOptics
from sim_microscope.specimen import Specimen, TruePose

Array = NDArray[np.float64]

_PIECE_MOVING_S = 0.015
_PIECE_STILL_S = 10.0
_MOST_PIECES = 400


@dataclass(frozen=True)
class Running:
    """The scan that runs while the beam is open: it began at `from_s`.

    Once done, the engine sweeps the last row until the beam is blanked.
    """

    scan: Scan
    from_s: float


def beam_pieces(
    column: SimulatedColumn, faults: FaultBoard, from_s: float, to_s: float, *, seen: bool = False
) -> Iterator[tuple[float, float, float]]:
    """(start, end, current factor) of the times when beam met the specimen (or the detector)."""
    names = (*BEAM_FAULTS, "screen-down") if seen else BEAM_FAULTS
    for on, off in column.openings(from_s, to_s):
        edges = [on, *faults.instants(names, on, off), off]
        for start, end in pairwise(edges):
            middle = 0.5 * (start + end)
            passes = column.reaches_detector if seen else column.passes
            if passes(middle):
                yield start, end, column.current_factor(middle)


def electrons_between(
    column: SimulatedColumn, faults: FaultBoard, nominal_pA: float, from_s: float, to_s: float
) -> float:
    """Electrons that left for the detector in a time."""
    seconds = sum(
        (end - start) * factor
        for start, end, factor in beam_pieces(column, faults, from_s, to_s, seen=True)
    )
    return float(nominal_pA * ELECTRONS_PER_PA_S * seconds)


def electrons_per_frame(
    column: SimulatedColumn,
    faults: FaultBoard,
    nominal_pA: float,
    starts_s: list[float],
    dwell_s: float,
) -> Array:
    """Electrons that left for the detector in each of the frames, like `starts_s`."""
    first, last = starts_s[0], starts_s[-1] + dwell_s
    pieces = list(beam_pieces(column, faults, first, last, seen=True))
    if len(pieces) == 1 and pieces[0][:2] == (first, last):
        return np.full(len(starts_s), nominal_pA * ELECTRONS_PER_PA_S * dwell_s * pieces[0][2])
    return np.array(
        [electrons_between(column, faults, nominal_pA, t, t + dwell_s) for t in starts_s]
    )


def cut(start_s: float, end_s: float, *, moving: bool) -> list[tuple[float, float]]:
    """A time in pieces short enough for the stage's motion."""
    longest = _PIECE_MOVING_S if moving else _PIECE_STILL_S
    count = int(np.clip(np.ceil((end_s - start_s) / longest), 1, _MOST_PIECES))
    edges = np.linspace(start_s, end_s, count + 1)
    return [(float(a), float(b)) for a, b in pairwise(edges)]


def footprint(
    specimen: Specimen,
    optics: SimulatedOptics,
    pose: TruePose,
    electrons: float,
    times_s: tuple[float, float],
    running: Running | None,
    exposure: int,
) -> Deposit:
    """What `electrons` spent between two instants at one pose leave behind."""
    middle = optics.beam_centre_um()
    height_um = float(specimen.to_column(pose.x_um, pose.y_um, pose)[2])
    flatten = pose.tilt()[:2, :2]
    radius = optics.beam_diameter_nm(optics.now.defocus_nm - 1e3 * height_um) * 5e-4
    if optics.mode is not Mode.STEM:
        radius = optics.beam_diameter_nm() * 5e-4

    def at(column_x: float, column_y: float) -> tuple[float, float]:
        x, y = specimen.to_holder(np.array(column_x), np.array(column_y), pose)
        return float(x), float(y)

    edge = max(optics.scenario.beam.edge_share * radius, 1e-6)
    start, end = times_s
    if running is None:
        return Deposit(
            centre_um=at(float(middle[0]), float(middle[1])),
            to_beam=flatten,
            electrons=electrons,
            edge_um=edge,
            radius_um=radius,
            exposure=exposure,
            from_s=start,
            to_s=end,
        )
    rows, columns = running.scan.shape
    step_um = running.scan.step_A * 1e-4
    row_s = columns * running.scan.dwell_s + running.scan.flyback_s
    first, last = np.clip((np.array(times_s) - running.from_s) / row_s, 0, rows).tolist()
    first = min(first, rows - 1.0)
    axes = optics.column_from_scan()
    last = max(last, first + 1.0)
    # rows are counted from the top; the centre of those scanned in this time
    centre = middle + axes @ np.array([0.0, ((first + last) / 2 - rows / 2) * step_um])
    return Deposit(
        centre_um=at(float(centre[0]), float(centre[1])),
        to_beam=np.linalg.inv(axes) @ flatten,
        electrons=electrons,
        edge_um=max(radius / 2, step_um / 2),
        size_um=(columns * step_um, (last - first) * step_um),
        exposure=exposure,
        from_s=start,
        to_s=end,
    )
