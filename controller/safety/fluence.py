"""The upper bound of the fluence of one exposure, from what the instrument itself reports.

    fluence <= electrons per second (current + 5 sigma, at most the cap of the gun)
               x time that the beam can be on
               / lower bound of the illuminated area

in electrons per square angstrom of the plane perpendicular to the beam.  No credit is taken for
tilt (the specimen would see cos(tilt) of it).  A scan is uniform over its field: what counts is
the number of electrons per step squared, however wide the defocused probe is, for a probe that is
narrower only spreads them less.  The raster may lie on the cells of the ledger so that a cell of
side L holds up to (L / step + sqrt 2)^2 positions: this is the lattice factor.  Flyback, and the
time in which a scan starts and ends, fall on single rows: they count as if all fell on one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from controller.hardware.errors import LimitError
from controller.hardware.values import Calibration, Capabilities, Exposure, OpticsState
from controller.safety.footprint import SIGMAS

ELEMENTARY_CHARGE_C = 1.602176634e-19
ELECTRONS_PER_PA_S = 1e-12 / ELEMENTARY_CHARGE_C
CURRENT_SIGMAS = 5.0
UNSEEN_S = 2.5
"""How much longer the beam may be on if its process dies: a lease of 2 s, 250 ms to blank."""
UNSEEN_CURRENT = 1.5
"""How much the current may rise while nobody measures it any more."""


@dataclass(frozen=True)
class FluenceBound:
    """An upper bound with the numbers it came from."""

    current_pA: float
    open_s: float
    area_A2: float
    factor: float
    """Lattice factor times the margin that the caller asked for."""
    pattern_s: float | None = None
    """Of a scan: the part of `open_s` that is spread evenly over the field."""
    crowding: float = 1.0
    """Of a scan: how many times denser the rest falls, on the rows that the probe covers."""

    @property
    def fluence_e_per_A2(self) -> float:
        """The bound."""
        return self.at(self.open_s)

    @property
    def unseen_e_per_A2(self) -> float:
        """The bound if the process dies meanwhile and a watchdog has to blank."""
        return self.at(self.open_s + UNSEEN_S, UNSEEN_CURRENT * self.current_pA)

    def at(self, open_s: float, current_pA: float | None = None) -> float:
        """The bound if the beam was on for `open_s`, with a current that was measured again.

        A scan that ended early has left some rows out, and the others have had all of theirs.
        """
        current = self.current_pA if current_pA is None else max(current_pA, self.current_pA)
        even_s = open_s if self.pattern_s is None else self.pattern_s
        dense_s = even_s + self.crowding * max(0.0, open_s - even_s)
        return self.factor * current * ELECTRONS_PER_PA_S * dense_s / self.area_A2


def current_bound_pA(readings_pA: list[float | None], capabilities: Capabilities) -> float:
    """Largest reading plus 5 sigma, at most the cap of the gun; the cap where nothing was read."""
    known = [value for value in readings_pA if value]
    if capabilities.current_from == "none" or not known:
        return capabilities.max_current_pA
    widened = max(known) * (1 + CURRENT_SIGMAS * capabilities.current_relative_sigma)
    return min(widened, capabilities.max_current_pA)


def fluence_bound(
    exposure: Exposure,
    optics: OpticsState,
    capabilities: Capabilities,
    calibration: Calibration,
    *,
    current_pA: float,
    overhead_s: float,
    cell_nm: float,
) -> FluenceBound:
    """Upper bound for `exposure` under `optics`.

    Parameters
    ----------
    current_pA
        From :func:`current_bound_pA`.
    overhead_s
        Time that commands and readout may keep the beam on beyond exposure and blanker latency.
    cell_nm
        Side of a cell of the ledger.

    Raises
    ------
    LimitError
        The length calibration is too poor to bound an area.
    """
    shrink = 1 - SIGMAS * calibration.pixel_size_relative_sigma
    if not shrink > 0:
        raise LimitError(
            f"lengths are calibrated to {100 * calibration.pixel_size_relative_sigma:g} % only, "
            f"so no area has a lower bound; nothing was exposed. Calibrate to better than "
            f"{100 / SIGMAS:.0f} %."
        )
    open_s = exposure.duration_s + 2 * capabilities.blank.latency_s + overhead_s
    scan = exposure.scan
    if scan is None:
        area_A2 = math.pi / 4 * (10 * optics.beam_diameter_nm * shrink) ** 2
        return FluenceBound(current_pA, open_s, area_A2, exposure.margin)
    step_A = scan.step_A * shrink
    rows, columns = scan.shape
    probe_rows = min(rows, max(1.0, 10 * optics.beam_diameter_nm * shrink / step_A))
    lattice = (1 + math.sqrt(2) * step_A / (10 * cell_nm)) ** 2
    return FluenceBound(
        current_pA,
        open_s,
        area_A2=rows * columns * step_A**2,
        factor=exposure.margin * lattice,
        pattern_s=rows * columns * scan.dwell_s,
        crowding=rows / probe_rows,
    )
