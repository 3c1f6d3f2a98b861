"""The dose ledger: what every patch of specimen has already received, and may still receive.

Fluence is counted in electrons per square angstrom on a map fixed to the specimen, in cells of
100 nm or finer, so that stage moves, overlapping scans and other targets' exposures all add up in
the same place.  An exposure is booked at its upper bound, durably, before the beam opens; every
cell that it *might* touch is charged with its peak fluence.  A booking may be lowered once, to
the upper bound of what was measured; one whose end nobody saw keeps its bound for ever.  Nothing
here talks to hardware; ``safety.gate`` does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from controller.hardware.clock import Clock
from controller.hardware.errors import BeamState, DoseLimitError, DoseState, StorageError
from controller.hardware.values import DoseReading, Purpose
from controller.safety.dose_map import DoseMap, SparseFluence, Window
from controller.safety.footprint import Footprint
from controller.safety.ledger_store import (
    NEXT,
    Booking,
    ChargeState,
    LedgerRecord,
    LedgerStore,
)
from controller.safety.limits import DoseLimits

MAX_CELL_NM = 100.0
GLANCE_SHARE = 0.01
"""Of a limit: so little more does not matter to a cell that is beyond the limit already."""


class DoseLedger:
    """Books exposures against the limits; the one authority on dose.

    Parameters
    ----------
    path
        The SQLite file.  Opening it settles what an earlier process left behind: a booking whose
        beam may have been open becomes UNKNOWN at its bound, one that never opened is released.
    limits
        Upper limits per cell, in e/A2.
    clock
        For the times in the records.
    cell_nm
        Side of a cell; 100 nm or finer.
    beam_off
        When somebody else (a watchdog) took the beam off that was opened at the given UTC, or None.
        What an earlier process left open is charged for all that time, and never less than its
        bound.
    at_write
        Called at every point of every write; see `LedgerStore`.

    Raises
    ------
    ValueError
        A cell above 100 nm.
    StorageError
        Another process keeps this ledger, or the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        limits: DoseLimits,
        clock: Clock,
        *,
        cell_nm: float = 100.0,
        beam_off: Callable[[datetime], datetime | None] = lambda opened: None,
        at_write: Callable[[str], None] = lambda point: None,
    ) -> None:
        if not 0 < cell_nm <= MAX_CELL_NM:
            raise ValueError(
                f"cells of {cell_nm:g} nm: the ledger needs more than 0 and at most "
                f"{MAX_CELL_NM:g} nm, so that neighbouring crystals do not share one"
            )
        self.limits = limits
        self.cell_nm = float(cell_nm)
        self._clock = clock
        self._guard = threading.RLock()
        self._store = LedgerStore(path, cell_nm=self.cell_nm, at_write=at_write)
        self._records: dict[UUID, LedgerRecord] = {}
        self._closed = SparseFluence(self.cell_nm)
        self._stale = True
        self._recover(beam_off)

    # --- the life of a booking --------------------------------------------------------------

    def reserve(
        self,
        exposure_id: UUID,
        *,
        area: str,
        purpose: Purpose,
        footprint: Footprint,
        fluence_e_per_A2: float,
        unseen_e_per_A2: float | None = None,
        request: str = "",
    ) -> LedgerRecord:
        """Book an exposure at its upper bound; durable when this returns.

        `unseen_e_per_A2` is charged if this process dies while the beam may be open: more than
        the bound, for it takes a while until a watchdog has blanked the beam.

        Raises
        ------
        DoseLimitError
            A cell or an area would exceed a limit. Nothing was booked.
        StorageError
            The id was booked before, or the disk refuses.
        """
        with self._guard:
            self._refresh()
            if exposure_id in self._records:
                raise StorageError(
                    f"exposure {exposure_id} is already in the ledger as "
                    f"{self._records[exposure_id].state.value}; it was not booked again. "
                    f"Use a new exposure_id."
                )
            self.check(area=area, purpose=purpose, footprint=footprint, fluence=fluence_e_per_A2)
            utc = self._clock.utc().isoformat()
            booking = Booking(
                exposure_id,
                area,
                purpose,
                fluence_e_per_A2,
                footprint,
                request,
                utc,
                unseen_e_per_A2,
            )
            return self._book(booking)

    def opening(self, exposure_id: UUID) -> LedgerRecord:
        """Note, durably, that the beam may be on from now."""
        return self._change(exposure_id, ChargeState.OPENING, None, "")

    def settle(self, exposure_id: UUID, fluence_e_per_A2: float, outcome: str) -> LedgerRecord:
        """Charge the upper bound of what was measured; more than booked if it was more."""
        return self._change(exposure_id, ChargeState.SETTLED, fluence_e_per_A2, outcome)

    def unknown(self, exposure_id: UUID, fluence_e_per_A2: float, outcome: str) -> LedgerRecord:
        """Charge the bound for good (or more, if the beam was certainly on for longer)."""
        return self._change(exposure_id, ChargeState.UNKNOWN, fluence_e_per_A2, outcome)

    def release(self, exposure_id: UUID, outcome: str) -> LedgerRecord:
        """Take back a booking whose beam never opened."""
        return self._change(exposure_id, ChargeState.RELEASED, 0.0, outcome)

    def stray(self, exposure_id: UUID, footprint: Footprint, outcome: str) -> LedgerRecord | None:
        """Charge an exposure once more, where it was not booked: somebody moved the stage under it.

        No budget can refuse what has happened.  None if there is no such exposure.
        """
        with self._guard:
            self._refresh()
            record = self._records.get(exposure_id)
            if record is None:
                return None
            booked = record.booking
            charged = max(record.charged_e_per_A2, booked.reserved_e_per_A2)
            stray_id = uuid5(exposure_id, "stray")
            if stray_id in self._records:
                return self._records[stray_id]
            utc = self._clock.utc().isoformat()
            request = booked.request.replace(str(exposure_id), str(stray_id))
            booking = Booking(
                stray_id, booked.area, booked.purpose, charged, footprint, request, utc
            )
            self._book(booking)
            self.opening(stray_id)
            return self.unknown(stray_id, charged, outcome)

    def conclude(self, exposure_id: UUID, receipt: str) -> None:
        """Keep the receipt (JSON) of a scan, for a caller who asks with the same id again."""
        with self._guard:
            self._store.conclude(exposure_id, receipt)

    # --- questions --------------------------------------------------------------------------

    def record(self, exposure_id: UUID) -> LedgerRecord | None:
        """The booking of that id with its state, if there is one."""
        with self._guard:
            self._refresh()
            return self._records.get(exposure_id)

    def conclusion(self, exposure_id: UUID) -> str | None:
        """The receipt that was kept under that id, if any."""
        with self._guard:
            return self._store.conclusion(exposure_id)

    def records(self) -> list[LedgerRecord]:
        """All bookings in the order they were made."""
        with self._guard:
            self._refresh()
            return list(self._records.values())

    def age_s(self) -> float:
        """Time since the first booking, by the record clock; 0 if there is none."""
        with self._guard:
            first = next(iter(self.records()), None)
            if first is None:
                return 0.0
            begun = datetime.fromisoformat(first.booking.utc)
            return max(0.0, (self._clock.utc() - begun).total_seconds())

    def check(self, *, area: str, purpose: Purpose, footprint: Footprint, fluence: float) -> None:
        """Refuse what would exceed a limit; books nothing.

        Raises
        ------
        DoseLimitError
            With the cell, what it has received, the limit and the remedy.
        """
        with self._guard:
            self._refresh()
            if not 0 <= fluence < float("inf"):
                raise DoseLimitError(
                    f"an exposure of {fluence} e/Å² cannot be booked; nothing was booked and the "
                    f"beam stays blanked. Measure the current and the beam diameter again."
                )
            self._check_area(area, purpose, fluence)
            self._check_cells(purpose, footprint, fluence)

    def reading(self, x_um: float, y_um: float) -> DoseReading:
        """What is charged to the cell of a specimen point, e/A2 by purpose."""
        with self._guard:
            self._refresh()
            col = self._closed.cell_of_nm(1000 * x_um)
            row = self._closed.cell_of_nm(1000 * y_um)
            charged = self._read(Window(row, col, (1, 1)))
            return DoseReading({p: float(values[0, 0]) for p, values in charged.items()})

    def peak(self, footprint: Footprint) -> DoseReading:
        """The largest charge by purpose of any cell under `footprint`, e/A2."""
        with self._guard:
            self._refresh()
            window = self._closed.window(footprint)
            touched = self._closed.touched(footprint, window)
            charged = self._read(window)
            return DoseReading({p: float(v[touched].max()) for p, v in charged.items()})

    def area_e_per_A2(self, area: str) -> dict[Purpose, float]:
        """Sum of the charges booked on an area, by purpose."""
        with self._guard:
            self._refresh()
            sums = dict.fromkeys(Purpose, 0.0)
            for record in self._records.values():
                if record.booking.area == area:
                    sums[record.booking.purpose] += record.charged_e_per_A2
            return sums

    def map(self, extent_um: tuple[float, float, float, float] | None = None) -> DoseMap:
        """The charged fluence on a grid; without `extent_um` (x0, x1, y0, y1) all of it."""
        with self._guard:
            self._refresh()
            window = self._window(extent_um)
            cell_um = self.cell_nm / 1000
            rows, cols = window.shape
            return DoseMap(
                fluence_e_per_A2=dict(self._read(window)),
                extent_um=(
                    window.col * cell_um,
                    (window.col + cols) * cell_um,
                    window.row * cell_um,
                    (window.row + rows) * cell_um,
                ),
                cell_nm=self.cell_nm,
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------

    def _book(self, booking: Booking) -> LedgerRecord:
        self._stale = True
        self._store.book(booking)
        charged = booking.reserved_e_per_A2
        record = LedgerRecord(booking, ChargeState.RESERVED, charged, "", booking.utc)
        self._records[booking.exposure_id] = record
        self._stale = False
        return record

    def _change(
        self, exposure_id: UUID, state: ChargeState, charged: float | None, outcome: str
    ) -> LedgerRecord:
        with self._guard:
            self._refresh()
            record = self._records.get(exposure_id)
            if record is None or state not in NEXT[record.state]:
                now = "not booked" if record is None else record.state.value
                raise StorageError(
                    f"exposure {exposure_id} is {now} and cannot become {state.value}; the ledger "
                    f"was not changed. Keep the beam blanked and look at the ledger."
                )
            if charged is None:
                charged = record.charged_e_per_A2
            if state is ChargeState.UNKNOWN:
                charged = max(charged, record.booking.reserved_e_per_A2)
            changed = replace(
                record,
                state=state,
                charged_e_per_A2=charged,
                outcome=outcome,
                utc=self._clock.utc().isoformat(),
            )
            self._stale = True
            self._store.change(changed)
            self._keep(changed)
            self._stale = False
            return changed

    def _keep(self, record: LedgerRecord) -> None:
        """Take a record into memory; final ones go onto the map, once."""
        self._records[record.booking.exposure_id] = record
        if not NEXT[record.state] and record.charged_e_per_A2 > 0:
            self._closed.add(
                record.booking.footprint, record.booking.purpose, record.charged_e_per_A2
            )

    def _refresh(self) -> None:
        """Read everything again after a write whose end this object did not see."""
        if not self._stale:
            return
        self._records = {}
        self._closed = SparseFluence(self.cell_nm)
        for record in self._store.records():
            self._keep(record)
        self._stale = False

    def _recover(self, beam_off: Callable[[datetime], datetime | None]) -> None:
        for record in self.records():
            exposure_id = record.booking.exposure_id
            if record.state is ChargeState.OPENING:
                factor, because, known = _overrun(record, beam_off)
                charged = factor * record.charged_e_per_A2
                if not known:
                    charged = max(charged, record.booking.unseen_bound_e_per_A2)
                self.unknown(exposure_id, charged, because)
            elif record.state is ChargeState.RESERVED:
                self.release(exposure_id, "the process ended before the beam was opened")

    def _read(self, window: Window) -> dict[Purpose, NDArray[np.float64]]:
        """Closed charges plus open bookings."""
        charged = self._closed.read(window)
        for record in self._records.values():
            if NEXT[record.state]:
                touched = self._closed.touched(record.booking.footprint, window)
                charged[record.booking.purpose] += record.charged_e_per_A2 * touched
        return charged

    def _window(self, extent_um: tuple[float, float, float, float] | None) -> Window:
        if extent_um is None:
            return self._closed.bounds() or Window(0, 0, (1, 1))
        col, last_col = (self._closed.cell_of_nm(1000 * v) for v in extent_um[:2])
        row, last_row = (self._closed.cell_of_nm(1000 * v) for v in extent_um[2:])
        return Window(row, col, (last_row - row + 1, last_col - col + 1))

    def _check_cells(self, purpose: Purpose, footprint: Footprint, fluence: float) -> None:
        window = self._closed.window(footprint)
        touched = self._closed.touched(footprint, window)
        charged = self._read(window)
        for name, (limit, counted) in self.limits.budgets().items():
            if purpose not in counted:
                continue
            before = np.asarray(sum(charged[p] for p in Purpose if p in counted))
            # what a crash may have burnt must not forbid a glance at everything around it
            lost = (before > limit) & (fluence <= GLANCE_SHARE * limit)
            after = np.where(touched & ~lost, before + fluence, 0.0)
            if not (after <= limit).all():
                row, col = (int(i) for i in np.unravel_index(int(after.argmax()), after.shape))
                raise DoseLimitError(
                    f"cell ({window.row + row}, {window.col + col}) of the specimen, at "
                    f"x = {(window.col + col + 0.5) * self.cell_nm / 1000:.2f}, "
                    f"y = {(window.row + row + 0.5) * self.cell_nm / 1000:.2f} um, would reach "
                    f"{after[row, col]:.4g} e/Å² (charged {before[row, col]:.4g}, this "
                    f"{purpose.value} exposure {fluence:.4g}, {name} limit {limit:.4g}); nothing "
                    f"was booked and the beam stays blanked. Choose a fresh area, or lower the "
                    f"exposure time or the probe current.",
                    **_refused(name, limit, float(before[row, col]), fluence),
                )

    def _check_area(self, area: str, purpose: Purpose, fluence: float) -> None:
        limit = self.limits.area_e_per_A2.get(purpose)
        if limit is None:
            return
        spent = self.area_e_per_A2(area)[purpose]
        if not spent + fluence <= limit:
            raise DoseLimitError(
                f"area {area} has {spent:.4g} e/Å² of {purpose.value} exposures and would reach "
                f"{spent + fluence:.4g} (limit {limit:.4g}); nothing was booked and the beam stays "
                f"blanked. Go on to the next area, or lower the exposure.",
                **_refused(f"area_e_per_A2.{purpose.value}", limit, spent, fluence),
            )


def _overrun(
    record: LedgerRecord, beam_off: Callable[[datetime], datetime | None]
) -> tuple[float, str, bool]:
    """By how much the beam may have stayed on too long, in words, and whether that is known."""
    because = "the process ended while the beam may have been on"
    opened = datetime.fromisoformat(record.utc)
    closed = beam_off(opened)
    try:
        planned_s = float(json.loads(record.booking.request)["duration_s"])
    except (ValueError, KeyError, TypeError):
        planned_s = 0.0
    if closed is None or not planned_s > 0:
        return 1.0, because, False
    open_s = (closed - opened).total_seconds()
    because = f"{because}; it was taken off after at most {open_s:.2f} s"
    return max(1.0, open_s / planned_s), because, True


def _refused(budget: str, limit: float, charged: float, asked: float) -> dict[str, Any]:
    return {
        "beam_state": BeamState.BLANKED,
        "dose_state": DoseState.NONE,
        "snapshot": {
            "budget": budget,
            "limit_e_per_A2": limit,
            "charged_e_per_A2": charged,
            "asked_e_per_A2": asked,
        },
    }
