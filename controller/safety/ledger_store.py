"""The durable half of the dose ledger: an append-only SQLite file.

Every booking is one row of ``bookings`` and every change of its state one row of ``states``;
triggers refuse to change or delete either.  ``journal_mode=WAL`` with ``synchronous=FULL`` means
that a row is on the disk when the call returns.  One process may write: it holds an exclusive
transaction on ``<file>.lock``, which the operating system releases when the process dies.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from controller.hardware.errors import StorageError, WriteFailedError
from controller.hardware.values import Purpose
from controller.safety.footprint import Footprint

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS bookings (
    exposure_id TEXT PRIMARY KEY,
    area TEXT NOT NULL,
    purpose TEXT NOT NULL,
    reserved_e_per_A2 REAL NOT NULL,
    footprint TEXT NOT NULL,
    request TEXT NOT NULL,
    utc TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS states (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    exposure_id TEXT NOT NULL REFERENCES bookings(exposure_id),
    state TEXT NOT NULL,
    charged_e_per_A2 REAL NOT NULL,
    outcome TEXT NOT NULL,
    utc TEXT NOT NULL,
    UNIQUE (exposure_id, state)
);
CREATE TABLE IF NOT EXISTS conclusions (
    exposure_id TEXT PRIMARY KEY REFERENCES bookings(exposure_id),
    receipt TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS unseen (
    exposure_id TEXT PRIMARY KEY REFERENCES bookings(exposure_id),
    unseen_e_per_A2 REAL NOT NULL
);
CREATE TRIGGER IF NOT EXISTS bookings_stay BEFORE UPDATE ON bookings
    BEGIN SELECT RAISE(ABORT, 'the dose ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS bookings_remain BEFORE DELETE ON bookings
    BEGIN SELECT RAISE(ABORT, 'the dose ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS states_stay BEFORE UPDATE ON states
    BEGIN SELECT RAISE(ABORT, 'the dose ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS states_remain BEFORE DELETE ON states
    BEGIN SELECT RAISE(ABORT, 'the dose ledger is append-only'); END;
"""


class ChargeState(StrEnum):
    """Life of a booking; the last three are final."""

    RESERVED = "reserved"
    """Booked at its upper bound, the beam not yet asked to open."""
    OPENING = "opening"
    """The beam may be on the specimen from now."""
    SETTLED = "settled"
    """Blanked and confirmed; charged at the upper bound of what was measured."""
    UNKNOWN = "unknown"
    """Nobody knows how long the beam was on; charged at the bound, never lowered."""
    RELEASED = "released"
    """The beam never opened; nothing is charged."""


NEXT: dict[ChargeState, frozenset[ChargeState]] = {
    ChargeState.RESERVED: frozenset({ChargeState.OPENING, ChargeState.RELEASED}),
    ChargeState.OPENING: frozenset({ChargeState.SETTLED, ChargeState.UNKNOWN}),
    ChargeState.SETTLED: frozenset(),
    ChargeState.UNKNOWN: frozenset(),
    ChargeState.RELEASED: frozenset(),
}
"""Which state may follow which."""


@dataclass(frozen=True)
class Booking:
    """One exposure as it was booked."""

    exposure_id: UUID
    area: str
    purpose: Purpose
    reserved_e_per_A2: float
    footprint: Footprint
    request: str = ""
    """The exposure as JSON, so that a repeated id with another content is noticed."""
    utc: str = ""
    unseen_e_per_A2: float | None = None
    """Charged if the process dies with the beam open; None: as reserved."""

    @property
    def unseen_bound_e_per_A2(self) -> float:
        """The upper bound if nobody saw the end of the exposure."""
        return max(self.reserved_e_per_A2, self.unseen_e_per_A2 or 0.0)


@dataclass(frozen=True)
class LedgerRecord:
    """A booking with its present state."""

    booking: Booking
    state: ChargeState
    charged_e_per_A2: float
    outcome: str = ""
    """What the exposure left behind, as JSON or words."""
    utc: str = ""


class LedgerStore:
    """Bookings and their states on disk.

    Parameters
    ----------
    path
        The SQLite file; created when missing.
    cell_nm
        Written into a new file; must be the same in an existing one.
    at_write
        Called with the name of each point of each write, such as ``opening:before``; only tests
        of crashes have something to do there.

    Raises
    ------
    StorageError
        Another process writes this ledger, or the file is not one of ours. Nothing was changed.
    """

    def __init__(
        self, path: Path, *, cell_nm: float, at_write: Callable[[str], None] = lambda point: None
    ) -> None:
        self.path = path
        self._at_write = at_write
        self._lock = _hold_lock(path.with_name(path.name + ".lock"))
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(SCHEMA)
            self._db.execute(
                "INSERT OR IGNORE INTO ledger VALUES ('cell_nm', ?)", (repr(float(cell_nm)),)
            )
            row = self._db.execute("SELECT value FROM ledger WHERE key = 'cell_nm'").fetchone()
        except sqlite3.DatabaseError as problem:
            self._lock.close()
            raise StorageError(
                f"{path} cannot be used as a dose ledger ({problem}); nothing was exposed. "
                f"Move the file away only if this specimen has never been in the beam."
            ) from problem
        if float(row[0]) != cell_nm:
            self.close()
            raise StorageError(
                f"{path} was kept with cells of {row[0]} nm, not {cell_nm:g} nm; nothing was "
                f"exposed. Open it with the cell size it was made with."
            )

    def book(self, booking: Booking) -> None:
        """Write a booking and its state RESERVED; durable when this returns."""
        self._write(
            ChargeState.RESERVED.value,
            (
                "INSERT INTO bookings VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    str(booking.exposure_id),
                    booking.area,
                    booking.purpose.value,
                    booking.reserved_e_per_A2,
                    booking.footprint.model_dump_json(),
                    booking.request,
                    booking.utc,
                ),
            ),
            _state_row(
                LedgerRecord(
                    booking, ChargeState.RESERVED, booking.reserved_e_per_A2, "", booking.utc
                )
            ),
            (
                "INSERT INTO unseen VALUES (?, ?)",
                (str(booking.exposure_id), booking.unseen_bound_e_per_A2),
            ),
        )

    def change(self, record: LedgerRecord) -> None:
        """Append a new state of a booking; durable when this returns."""
        self._write(record.state.value, _state_row(record))

    def records(self) -> list[LedgerRecord]:
        """All bookings with their latest state, in the order they were booked."""
        return _records(self._db)

    def conclude(self, exposure_id: UUID, receipt: str) -> None:
        """Keep what an exposure brought, as JSON; durable when this returns."""
        self._write(
            "concluded", ("INSERT INTO conclusions VALUES (?, ?)", (str(exposure_id), receipt))
        )

    def conclusion(self, exposure_id: UUID) -> str | None:
        """What an exposure brought, if it was kept."""
        row = self._db.execute(
            "SELECT receipt FROM conclusions WHERE exposure_id = ?", (str(exposure_id),)
        ).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        self._lock.close()

    def _write(self, what: str, *statements: tuple[str, tuple[object, ...]]) -> None:
        self._at_write(f"{what}:before")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    self._db.execute(sql, values)
                self._at_write(f"{what}:inside")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as problem:
            raise WriteFailedError(
                f"{self.path}: the dose ledger could not be written ({problem}); this change was "
                f"not booked, so no beam may be opened on it. Free the disk or repair the file.",
                vendor_text=str(problem),
            ) from problem
        self._at_write(f"{what}:after")


def read_ledger(path: Path) -> list[LedgerRecord]:
    """What a ledger holds, whoever writes it meanwhile; in the order of the bookings.

    Raises
    ------
    StorageError
        No such file, or no dose ledger.
    """
    if not path.is_file():
        raise StorageError(f"{path} is no file; name a run folder or its ledger.sqlite")
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return _records(db)
        finally:
            db.close()
    except (sqlite3.Error, ValueError) as problem:
        raise StorageError(f"{path} cannot be read as a dose ledger ({problem})") from problem


def _records(db: sqlite3.Connection) -> list[LedgerRecord]:
    has_unseen = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'unseen'").fetchone()
    unseen = "(SELECT unseen_e_per_A2 FROM unseen u WHERE u.exposure_id = b.exposure_id)"
    rows = db.execute(
        "SELECT b.exposure_id, b.area, b.purpose, b.reserved_e_per_A2, b.footprint, b.request,"
        " b.utc, s.state, s.charged_e_per_A2, s.outcome, s.utc,"
        f" {unseen if has_unseen else 'NULL'} FROM bookings b"
        " JOIN states s ON s.sequence ="
        " (SELECT MAX(sequence) FROM states WHERE exposure_id = b.exposure_id)"
        " ORDER BY (SELECT MIN(sequence) FROM states WHERE exposure_id = b.exposure_id)"
    ).fetchall()
    return [
        LedgerRecord(
            Booking(
                UUID(r[0]),
                r[1],
                Purpose(r[2]),
                r[3],
                Footprint.model_validate_json(r[4]),
                r[5],
                r[6],
                r[11],
            ),
            ChargeState(r[7]),
            r[8],
            r[9],
            r[10],
        )
        for r in rows
    ]


def _state_row(record: LedgerRecord) -> tuple[str, tuple[object, ...]]:
    return (
        "INSERT INTO states (exposure_id, state, charged_e_per_A2, outcome, utc)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            str(record.booking.exposure_id),
            record.state.value,
            record.charged_e_per_A2,
            record.outcome,
            record.utc,
        ),
    )


def _hold_lock(path: Path) -> sqlite3.Connection:
    lock = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as problem:
        lock.close()
        raise StorageError(
            f"another process keeps the dose ledger {path.with_suffix('').name} ({problem}); "
            f"nothing was exposed. There is one ledger per specimen: end the other session first."
        ) from problem
    return lock
