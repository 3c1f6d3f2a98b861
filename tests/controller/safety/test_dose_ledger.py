"""No sequence of exposures exceeds a limit, and nothing that was charged is forgotten."""

from __future__ import annotations

import csv
import itertools
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.hardware.clock import VirtualClock
from controller.hardware.errors import DoseLimitError, StorageError, WriteFailedError
from controller.hardware.values import Purpose
from controller.safety.dose import DoseLedger
from controller.safety.footprint import Footprint
from controller.safety.ledger_store import ChargeState, LedgerStore
from controller.safety.limits import DoseLimits
from tests.strategies import numbers

SPACE = UUID("5b0a1f54-0000-5000-8000-00000000abcd")
LIMITS = DoseLimits(specimen_e_per_A2=100.0, before_scan_e_per_A2=1.0, data_e_per_A2=90.0)


def number(n: int) -> UUID:
    return uuid5(SPACE, str(n))


def disc(x_um: float = 0.0, y_um: float = 0.0, radius_nm: float = 300.0) -> Footprint:
    return Footprint(x_um=x_um, y_um=y_um, radius_nm=radius_nm)


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Callable[..., DoseLedger]]:
    opened: list[DoseLedger] = []

    def make(limits: DoseLimits = LIMITS, **options: float) -> DoseLedger:
        ledger = DoseLedger(tmp_path / "ledger.sqlite", limits, VirtualClock(), **options)
        opened.append(ledger)
        return ledger

    yield make
    for ledger in opened:
        ledger.close()


def book(
    ledger: DoseLedger,
    n: int,
    fluence: float,
    footprint: Footprint | None = None,
    purpose: Purpose = Purpose.TRACK,
    area: str = "S00",
) -> UUID:
    ledger.reserve(
        number(n),
        area=area,
        purpose=purpose,
        footprint=footprint or disc(),
        fluence_e_per_A2=fluence,
    )
    return number(n)


# --- states ---------------------------------------------------------------------------------


def test_a_booking_counts_from_the_moment_it_is_made(open_ledger: Callable) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.6)
    assert ledger.reading(0.0, 0.0).before_scan_e_per_A2 == 0.6
    with pytest.raises(DoseLimitError):
        book(ledger, 2, 0.6)


def test_settling_lowers_once_to_what_was_measured(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    ledger.settle(one, 0.4, "")
    assert ledger.reading(0.0, 0.0).total_e_per_A2 == 0.4
    for again in (
        lambda: ledger.settle(one, 0.1, ""),
        lambda: ledger.release(one, ""),
        lambda: ledger.opening(one),
        lambda: ledger.unknown(one, 0.1, ""),
    ):
        with pytest.raises(StorageError, match=r"is settled and cannot become .* was not changed"):
            again()
    assert ledger.reading(0.0, 0.0).total_e_per_A2 == 0.4


def test_settling_may_raise_the_charge_if_more_was_measured(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    ledger.settle(one, 5.0, "overrun")
    assert ledger.reading(0.0, 0.0).total_e_per_A2 == 5.0
    with pytest.raises(DoseLimitError, match=r"before_scan_e_per_A2 limit 1"):
        book(ledger, 2, 0.02)


def test_a_cell_beyond_its_limit_takes_a_glance_and_nothing_more(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    ledger.unknown(one, 5.0, "a crash")
    book(ledger, 2, 0.009)
    with pytest.raises(DoseLimitError, match=r"before_scan_e_per_A2 limit 1"):
        book(ledger, 3, 0.011)


def test_a_cell_below_its_limit_takes_no_glance_beyond_it(open_ledger: Callable) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.995)
    with pytest.raises(DoseLimitError):
        book(ledger, 2, 0.009)


def test_unknown_is_never_below_the_bound(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    assert ledger.unknown(one, 0.1, "").charged_e_per_A2 == 0.6


def test_a_released_booking_leaves_nothing(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.release(one, "arm failed")
    assert ledger.reading(0.0, 0.0).total_e_per_A2 == 0.0
    assert ledger.record(one).state is ChargeState.RELEASED


def test_an_opened_booking_cannot_be_released(open_ledger: Callable) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    with pytest.raises(StorageError, match="is opening and cannot become released"):
        ledger.release(one, "")


def test_an_id_is_booked_once(open_ledger: Callable) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.1)
    with pytest.raises(StorageError, match=r"already in the ledger as reserved.*new exposure_id"):
        book(ledger, 1, 0.1)


def test_an_id_that_was_never_booked_cannot_open(open_ledger: Callable) -> None:
    with pytest.raises(StorageError, match="is not booked and cannot become opening"):
        open_ledger().opening(number(1))


# --- limits ---------------------------------------------------------------------------------


def test_the_message_says_where_how_much_and_what_to_do(open_ledger: Callable) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.7, disc(2.05, -1.05, 20.0))
    with pytest.raises(DoseLimitError) as e:
        book(ledger, 2, 0.4, disc(2.05, -1.05, 20.0))
    text = str(e.value)
    assert "at x = " in text
    assert "would reach 1.1 e/Å²" in text
    assert "charged 0.7, this track exposure 0.4, before_scan_e_per_A2 limit 1)" in text
    assert "nothing was booked and the beam stays blanked" in text
    assert "Choose a fresh area" in text
    assert "%" not in text
    assert e.value.snapshot["asked_e_per_A2"] == 0.4
    assert ledger.record(number(2)) is None


def test_data_do_not_count_before_the_scan_but_count_for_the_specimen(
    open_ledger: Callable,
) -> None:
    ledger = open_ledger()
    one = book(ledger, 1, 89.0, purpose=Purpose.DATA)
    ledger.opening(one)
    ledger.settle(one, 89.0, "")
    book(ledger, 2, 0.9)
    reading = ledger.reading(0.0, 0.0)
    assert reading.before_scan_e_per_A2 == 0.9
    assert reading.total_e_per_A2 == pytest.approx(89.9)
    with pytest.raises(DoseLimitError, match="data_e_per_A2"):
        book(ledger, 3, 2.0, purpose=Purpose.DATA)
    with pytest.raises(DoseLimitError, match="specimen_e_per_A2"):
        book(ledger, 4, 20.0, purpose=Purpose.DATA)


def test_a_budget_of_an_area_sums_over_its_exposures_wherever_they_are(
    open_ledger: Callable,
) -> None:
    ledger = open_ledger(LIMITS.replace(area_e_per_A2={Purpose.ALIGN: 0.1}))
    book(ledger, 1, 0.07, disc(0, 0), Purpose.ALIGN, "T07")
    with pytest.raises(DoseLimitError, match=r"area T07 has 0.07 .*would reach 0.14 \(limit 0.1\)"):
        book(ledger, 2, 0.07, disc(50, 50), Purpose.ALIGN, "T07")
    book(ledger, 3, 0.07, disc(50, 50), Purpose.ALIGN, "T08")
    book(ledger, 4, 0.5, disc(50, 50), Purpose.TRACK, "T07")


@pytest.mark.parametrize("fluence", [float("nan"), float("inf"), -1.0])
def test_what_is_not_a_dose_cannot_be_booked(open_ledger: Callable, fluence: float) -> None:
    ledger = open_ledger()
    with pytest.raises(DoseLimitError, match=r"cannot be booked; nothing was booked"):
        book(ledger, 1, fluence)
    assert ledger.records() == []


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="above specimen_e_per_A2 = 10"):
        DoseLimits(specimen_e_per_A2=10, before_scan_e_per_A2=1, data_e_per_A2=20)
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            DoseLimits(specimen_e_per_A2=bad, before_scan_e_per_A2=bad, data_e_per_A2=bad)
    with pytest.raises(ValidationError):
        DoseLimits(specimen=10, before_scan_e_per_A2=1, data_e_per_A2=1)


# --- laws -----------------------------------------------------------------------------------

footprints = st.builds(
    Footprint,
    x_um=numbers(-1, 1),
    y_um=numbers(-1, 1),
    radius_nm=numbers(20, 400),
    half_width_nm=numbers(0, 300),
    half_height_nm=numbers(0, 300),
    angle_deg=numbers(-90, 90),
    alpha_deg=numbers(-60, 60),
    beta_deg=numbers(-30, 30),
)
steps = st.tuples(
    footprints,
    st.sampled_from(Purpose),
    numbers(0.0, 60.0),
    st.sampled_from(["settle", "unknown", "release", "leave", "open"]),
    numbers(0.0, 1.0),
)


@settings(max_examples=40)
@given(st.lists(steps, max_size=12), st.sampled_from([25.0, 60.0, 100.0]), st.integers(0, 10**6))
def test_no_sequence_of_exposures_exceeds_a_limit(
    tmp_path_factory: pytest.TempPathFactory,
    sequence: list[tuple[Footprint, Purpose, float, str, float]],
    cell_nm: float,
    seed: int,
) -> None:
    """And the charge is that of a slow reference that adds up point by point."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1.5, 1.5, (60, 2))
    truth = {purpose: np.zeros(len(points)) for purpose in Purpose}
    with DoseLedger(path, LIMITS, VirtualClock(), cell_nm=cell_nm) as ledger:
        for n, (footprint, purpose, fluence, end, share) in enumerate(sequence):
            try:
                one = book(ledger, n, fluence, footprint, purpose)
            except DoseLimitError:
                continue
            charged = fluence
            if end == "release":
                ledger.release(one, "")
                charged = 0.0
            elif end != "leave":
                ledger.opening(one)
            if end == "settle":
                charged = share * fluence
                ledger.settle(one, charged, "")
            elif end == "unknown":
                ledger.unknown(one, 0.0, "")
            away = 1000 * (points - [footprint.x_um, footprint.y_um])
            truth[purpose] += charged * footprint.touches(away[:, 0], away[:, 1], 0.0)
        chart = ledger.map((-3.0, 3.0, -3.0, 3.0))
        assert (chart.total_e_per_A2 <= LIMITS.specimen_e_per_A2 + 1e-9).all()
        assert (chart.before_scan_e_per_A2 <= LIMITS.before_scan_e_per_A2 + 1e-9).all()
        assert (chart.fluence_e_per_A2[Purpose.DATA] <= LIMITS.data_e_per_A2 + 1e-9).all()
        for i, (x_um, y_um) in enumerate(points):
            reading = ledger.reading(x_um, y_um)
            for purpose in Purpose:
                assert reading.by_purpose[purpose] >= truth[purpose][i] - 1e-9
        before = [ledger.reading(x, y).total_e_per_A2 for x, y in points]
    with DoseLedger(path, LIMITS, VirtualClock(), cell_nm=cell_nm) as ledger:
        after = [ledger.reading(x, y).total_e_per_A2 for x, y in points]
        assert all(
            r.state not in (ChargeState.RESERVED, ChargeState.OPENING) for r in ledger.records()
        )
    left_reserved = any(end == "leave" for *_, end, _ in sequence)
    for x, y in zip(before, after, strict=True):
        assert y == pytest.approx(x, abs=1e-9) or (left_reserved and y < x)


@given(footprints, numbers(10, 100))
def test_every_cell_that_holds_a_touched_point_is_charged(
    tmp_path_factory: pytest.TempPathFactory, footprint: Footprint, cell_nm: float
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    rng = np.random.default_rng(1)
    half = np.array(footprint.half_extent_nm())
    away = rng.uniform(-1, 1, (100, 2)) * half
    touched = footprint.touches(away[:, 0], away[:, 1], 0.0)
    with DoseLedger(path, LIMITS, VirtualClock(), cell_nm=cell_nm) as ledger:
        one = book(ledger, 1, 0.5, footprint)
        ledger.opening(one)
        ledger.settle(one, 0.5, "")
        for x_nm, y_nm in away[touched][:20]:
            reading = ledger.reading(footprint.x_um + x_nm / 1000, footprint.y_um + y_nm / 1000)
            assert reading.total_e_per_A2 == 0.5


def test_the_touched_area_is_not_much_larger_than_the_footprint(open_ledger: Callable) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.5, disc(0.03, 0.02, 1000.0))
    one = number(1)
    ledger.opening(one)
    ledger.settle(one, 0.5, "")
    cells = (ledger.map().total_e_per_A2 > 0).sum() * 0.1**2
    assert np.pi < cells < 1.25 * np.pi


# --- crashes --------------------------------------------------------------------------------


def life(ledger: DoseLedger, end: str) -> None:
    """One exposure from booking to its end."""
    one = book(ledger, 1, 0.6)
    ledger.opening(one)
    if end == "settle":
        ledger.settle(one, 0.5, "")
    else:
        ledger.unknown(one, 0.0, "")


@pytest.mark.parametrize("end", ["settle", "unknown"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_crash_at_any_write_never_forgets_a_beam_that_may_have_been_on(
    open_ledger: Callable, monkeypatch: pytest.MonkeyPatch, write: int, when: str, end: str
) -> None:
    """The process dies just before or just after each durable write."""
    ledger = open_ledger()
    writes = itertools.count(1)
    original = LedgerStore._write

    def dying(self: LedgerStore, *statements: object) -> None:
        now = next(writes) == write
        if now and when == "before":
            raise SystemExit
        original(self, *statements)
        if now:
            raise SystemExit

    monkeypatch.setattr(LedgerStore, "_write", dying)
    with pytest.raises(SystemExit):
        life(ledger, end)
    monkeypatch.undo()
    ledger.close()

    again = open_ledger()
    record = again.record(number(1))
    durable = write if when == "after" else write - 1
    if durable == 0:
        assert record is None
    elif durable == 1:
        assert record.state is ChargeState.RELEASED
        assert "before the beam was opened" in record.outcome
        assert again.reading(0, 0).total_e_per_A2 == 0.0
    elif durable == 2:
        assert record.state is ChargeState.UNKNOWN
        assert "may have been on" in record.outcome
        assert again.reading(0, 0).total_e_per_A2 == 0.6
    else:
        assert record.state is (ChargeState.SETTLED if end == "settle" else ChargeState.UNKNOWN)
        assert again.reading(0, 0).total_e_per_A2 == (0.5 if end == "settle" else 0.6)


KILLED = """
import sys, time
from pathlib import Path
from tests.controller.safety.test_dose_ledger import LIMITS, VirtualClock, DoseLedger, book
ledger = DoseLedger(Path(sys.argv[1]), LIMITS, VirtualClock())
book(ledger, 1, 0.6)
if sys.argv[2] == "opening":
    ledger.opening(book(ledger, 2, 0.3))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stage", ["reserved", "opening"])
def test_a_killed_process_leaves_a_ledger_that_remembers(tmp_path: Path, stage: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(StorageError, match="another process keeps"):
            DoseLedger(path, LIMITS, VirtualClock())
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
    with DoseLedger(path, LIMITS, VirtualClock()) as ledger:
        assert ledger.record(number(1)).state is ChargeState.RELEASED
        expected = 0.3 if stage == "opening" else 0.0
        assert ledger.reading(0, 0).total_e_per_A2 == expected


def test_an_interrupted_write_is_read_again_from_disk(
    open_ledger: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the disk and the memory of the same process."""
    ledger = open_ledger()
    original = LedgerStore.book

    def interrupted(self: LedgerStore, booking: object) -> None:
        original(self, booking)
        raise KeyboardInterrupt

    monkeypatch.setattr(LedgerStore, "book", interrupted)
    with pytest.raises(KeyboardInterrupt):
        book(ledger, 1, 0.6)
    monkeypatch.undo()
    assert ledger.record(number(1)).state is ChargeState.RESERVED
    assert ledger.reading(0, 0).total_e_per_A2 == 0.6


def test_a_disk_that_refuses_is_reported_and_nothing_is_booked(
    open_ledger: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger()
    ledger._store._db.execute("PRAGMA query_only=ON")
    with pytest.raises(WriteFailedError, match=r"could not be written .* no beam may be opened"):
        book(ledger, 1, 0.6)
    ledger._store._db.execute("PRAGMA query_only=OFF")
    assert ledger.record(number(1)) is None


# --- the file -------------------------------------------------------------------------------


def test_the_file_is_append_only_and_durable(open_ledger: Callable, tmp_path: Path) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.6)
    database = ledger._store._db
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
    for sql in (
        "UPDATE states SET charged_e_per_A2 = 0",
        "DELETE FROM states",
        "UPDATE bookings SET reserved_e_per_A2 = 0",
        "DELETE FROM bookings",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(sql)


def test_a_second_process_may_read_but_not_keep_the_ledger(
    open_ledger: Callable, tmp_path: Path
) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.6)
    with pytest.raises(StorageError, match=r"another process keeps the dose ledger.*end the other"):
        open_ledger()
    reader = sqlite3.connect(f"file:{tmp_path / 'ledger.sqlite'}?mode=ro", uri=True)
    assert reader.execute("SELECT COUNT(*) FROM bookings").fetchone()[0] == 1
    reader.close()


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError, match="cannot be used as a dose ledger"):
        DoseLedger(path, LIMITS, VirtualClock())
    assert path.read_bytes().startswith(b"not a database")


def test_the_cells_of_a_ledger_never_change_and_are_small(open_ledger: Callable) -> None:
    open_ledger(cell_nm=50.0).close()
    with pytest.raises(StorageError, match=r"cells of 50.0 nm, not 100 nm"):
        open_ledger()
    with pytest.raises(ValueError, match=r"cells of 200 nm: .* at most 100 nm"):
        open_ledger(cell_nm=200.0)


def test_the_map_and_its_csv_agree_with_readings(open_ledger: Callable, tmp_path: Path) -> None:
    ledger = open_ledger()
    for n, (footprint, purpose) in enumerate(
        [(disc(1.0, -2.0), Purpose.ALIGN), (disc(1.2, -2.1, 150), Purpose.DATA)]
    ):
        one = book(ledger, n, 0.25 * (n + 1), footprint, purpose)
        ledger.opening(one)
        ledger.settle(one, 0.25 * (n + 1), "")
    chart = ledger.map()
    path = tmp_path / "dose.csv"
    chart.write_csv(path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == (chart.total_e_per_A2 > 0).sum()
    for row in rows[::5]:
        reading = ledger.reading(float(row["x_um"]), float(row["y_um"]))
        assert float(row["total_e_per_A2"]) == pytest.approx(reading.total_e_per_A2, rel=1e-5)
        assert float(row["align_e_per_A2"]) == reading.by_purpose[Purpose.ALIGN]
    window = ledger.map((0.5, 1.5, -2.5, -1.5))
    assert window.total_e_per_A2.shape == (11, 11)
    assert window.extent_um == pytest.approx((0.5, 1.6, -2.5, -1.4))


def test_the_age_of_the_map_is_that_of_its_first_booking(
    open_ledger: Callable[..., DoseLedger],
) -> None:
    """A night that is taken up again has drifted since it began."""
    ledger = open_ledger()
    assert ledger.age_s() == 0.0
    book(ledger, 1, 0.1)
    ledger._clock.sleep(500)
    book(ledger, 2, 0.1, disc(5.0, 5.0))
    assert ledger.age_s() == pytest.approx(500)


def test_the_peak_under_a_footprint_is_what_a_further_exposure_meets(
    open_ledger: Callable,
) -> None:
    ledger = open_ledger()
    book(ledger, 1, 0.3, disc(0.9, 0.0))
    assert ledger.peak(disc(0.0, 0.0, 800.0)).total_e_per_A2 == 0.3
    assert ledger.peak(disc(-3.0, 0.0)).total_e_per_A2 == 0.0
