"""Each wrapper plays its fault when it is due, and is a mere go-between when it is not."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from controller.decision.actions import SurveyTile
from controller.decision.approval import Answer, Proposal, Unattended
from controller.decision.rig import Eyes
from controller.hardware.clock import VirtualClock
from controller.hardware.faults import FAULTS, NoFaults, kind_of
from controller.hardware.values import DetectorInfo, FrameBatch, Mode, OpticsState
from controller.injection import night
from controller.injection.disk import FaultyDisk, damage
from controller.injection.link import FaultyLink
from controller.injection.people import PausePoint, SilentApprover, refusing
from controller.injection.perception import FaultyAligner, FaultyPicker
from controller.injection.process import (
    LedgerCrash,
    RepeatingMicroscope,
    TurnCrash,
    leave_stale_lock,
)
from controller.perception.credible import credible
from controller.perception.protocols import AxisSeen, RegionPick, RegionsSeen, TiltReading
from controller.record.notify.channels import Channel
from controller.safety.dose import DoseLedger
from controller.safety.limits import DoseLimits
from tests.conformance.fake_adapter import OPTICS, MemorySink

LIMITS = DoseLimits(specimen_e_per_A2=10.0, before_scan_e_per_A2=10.0, data_e_per_A2=10.0)


class Script:
    """A source that says what a test wants."""

    def __init__(self, *once: str, on: tuple[str, ...] = ()) -> None:
        self.once = list(once)
        self.on = set(on)
        self.counted: list[str] = []

    def strikes(self, name: str) -> bool:
        kind_of(name)
        if name in self.once:
            self.once.remove(name)
            return True
        return False

    def is_on(self, name: str) -> bool:
        kind_of(name)
        return name in self.on

    def count(self, what: str) -> None:
        self.counted.append(what)


# --- disk -----------------------------------------------------------------------------------

BATCH = FrameBatch(UUID(int=1), 0, np.zeros((2, 3, 3), np.uint8))


class FileSink(MemorySink):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def finish(self) -> tuple[str, int, str]:
        content = b"frames " * 100
        self.path.write_bytes(content)
        return str(self.path), 2, hashlib.sha256(content).hexdigest()


def test_a_full_disk_says_so_as_an_operating_system_does() -> None:
    inner = MemorySink()
    disk = FaultyDisk(inner, Script("disk-full"), VirtualClock())
    with pytest.raises(OSError, match="No space left") as e:
        disk.append(BATCH)
    assert e.value.errno == errno.ENOSPC
    assert inner.batches == []
    disk.append(BATCH)
    assert len(inner.batches) == 1


def test_a_slow_disk_takes_two_seconds_per_write() -> None:
    clock = VirtualClock()
    disk = FaultyDisk(MemorySink(), Script(on=("disk-slow",)), clock)
    disk.append(BATCH)
    assert clock.now_s() == 2.0


def test_a_damaged_file_no_longer_has_the_checksum_of_its_receipt(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "scan.h5")
    for faults, same in ((Script(), True), (Script("file-corrupt"), False)):
        uri, committed, checksum = FaultyDisk(sink, faults, VirtualClock()).finish()
        assert committed == 2
        found = hashlib.sha256(Path(uri).read_bytes()).hexdigest()
        assert (found == checksum) is same


def test_damage_is_as_long_as_the_file_was(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    path.write_bytes(b"abc")
    damage(path)
    assert len(path.read_bytes()) == 3
    assert path.read_bytes() != b"abc"


# --- perception -----------------------------------------------------------------------------

PICK = RegionPick(x_px=20.0, y_px=12.0, radius_nm=100.0, score=0.8, diameter_nm=250.0)
CAMERA = DetectorInfo(name="camera", shape=(48, 64), kind="integrating", modes=frozenset(Mode))


class Picker:
    model_hash = "abc"

    def pick(self, frames: object, **_: object) -> RegionsSeen:
        labels = np.zeros((48, 64), np.uint8)
        return RegionsSeen((PICK, PICK, PICK), labels, {"usable": 0.2})


def seen(*faults: str) -> RegionsSeen:
    return FaultyPicker(Picker(), Script(*faults)).pick(
        [np.zeros((48, 64))], detector=CAMERA, pixel_size_nm=20.0, incident_electrons_per_px=8.0
    )


def believed(*faults: str) -> RegionsSeen:
    return credible(seen(*faults), (48, 64), 20.0)


def test_eyes_without_a_fault_see_what_they_see() -> None:
    assert seen().picks == (PICK, PICK, PICK)
    assert believed().picks == seen().picks
    assert believed().reason == ""


def test_regions_that_cannot_be_are_dropped_with_the_reason() -> None:
    assert len(seen("regions-nan").picks) == 4
    assert any(math.isnan(pick.x_px) for pick in seen("regions-nan").picks)
    left = believed("regions-nan")
    assert left.picks == ()
    assert "4 of 4 regions cannot be" in left.reason
    assert seen("regions-everywhere").labels.all()
    assert "does not fit into the picture" in believed("regions-everywhere").reason
    assert believed("regions-empty").picks == ()


def test_shifted_regions_that_leave_the_picture_are_dropped() -> None:
    assert [pick.x_px for pick in seen("regions-shifted").picks] == [60.0] * 3
    assert len(believed("regions-shifted").picks) == 3
    assert credible(seen("regions-shifted"), (48, 50), 20.0).picks == ()


@pytest.mark.parametrize(
    "change",
    [
        {"score": 1.2},
        {"score": math.nan},
        {"radius_nm": 0.0},
        {"diameter_nm": math.inf},
        {"y_px": -1.0},
    ],
)
def test_each_number_of_a_region_has_its_bounds(change: dict[str, float]) -> None:
    odd = RegionPick(**(vars(PICK) | change))
    both = RegionsSeen((PICK, odd), np.zeros((48, 64), np.uint8), {"usable": math.nan}, reason="x")
    left = credible(both, (48, 64), 20.0)
    assert left.picks == (PICK,)
    assert left.reason.startswith("x; 1 of 2 regions cannot be")
    assert left.class_fractions == {}


class Aligner:
    def read(self, counts: object, **_: object) -> TiltReading:
        axis = AxisSeen((0, 0, 1), (0, 0, 1), (0.1, -0.2, 0.97))
        return TiltReading(
            answered=True,
            reason="",
            zone_uvw=(0, 0, 1),
            tilt_mrad=(30.0, -5.0),
            sigma_mrad=1.0,
            centre_px=(128, 128),
            inv_A_per_px=0.01,
            mode="known",
            axes=(axis,),
        )


def read(*faults: str) -> TiltReading:
    optics: OpticsState = OPTICS
    return FaultyAligner(Aligner(), Script(*faults)).read(
        np.zeros((4, 4), np.float32), optics=optics, zones=[(0, 0, 1)]
    )


def test_an_inverted_circle_has_the_other_sign_everywhere() -> None:
    assert read().tilt_mrad == (30.0, -5.0)
    turned = read("circle-inverted")
    assert turned.tilt_mrad == (-30.0, 5.0)
    assert turned.axes[0].direction == (-0.1, 0.2, 0.97)


def test_an_ambiguous_circle_is_no_answer() -> None:
    reading = read("circle-ambiguous")
    assert not reading.answered
    assert reading.zone_uvw is None


# --- people ---------------------------------------------------------------------------------

PROPOSAL = Proposal(1, SurveyTile(0, 0.0, 0.0), "survey", 0.1, 3)


def test_nobody_answers_within_the_time_that_was_given() -> None:
    clock = VirtualClock()
    person = SilentApprover(Unattended(), Script("approval-silence"), clock)
    assert person.ask(PROPOSAL, 600.0).answer == "silence"
    assert clock.now_s() == 600.0
    assert person.ask(PROPOSAL, 600.0) == Answer("approve", by="plan")


def test_a_channel_that_is_down_refuses_and_sends_nothing() -> None:
    sent: list[str] = []
    faults = Script(on=("notification-down",))
    send: Callable[[str], None] = refusing(sent.append, faults)
    with pytest.raises(ConnectionRefusedError):
        send("help")
    faults.on.clear()
    send("help")
    assert sent == ["help"]


def test_only_the_first_channel_is_spoilt() -> None:
    sent: list[tuple[str, object]] = []

    def to(name: str) -> Channel:
        return Channel(name, lambda notice, run, escalated: sent.append((name, notice)))

    first, second = night.spoilt_channels([to("a"), to("b")], Script(on=("notification-down",)))
    with pytest.raises(ConnectionRefusedError):
        first.send("n", "run", False)
    second.send("n", "run", False)
    assert sent == [("b", "n")]
    assert night.spoilt_channels([], Script()) == ()


def test_a_suspended_run_goes_on_when_it_may() -> None:
    clock, faults = VirtualClock(), Script(on=("suspended",))
    clock.call_at(59.5, faults.on.clear)
    assert PausePoint(faults, clock)()
    assert clock.now_s() == 60.0


def test_a_suspended_run_can_be_ended() -> None:
    answers = iter([True, False, False])
    pause = PausePoint(Script(on=("suspended",)), VirtualClock(), lambda: next(answers))
    assert not pause()


# --- process --------------------------------------------------------------------------------


def test_the_ledger_crashes_inside_the_write_that_is_due(tmp_path: Path) -> None:
    died: list[str] = []
    faults = Script()
    crash = LedgerCrash(faults, lambda: died.append("dead"))
    for point in ("reserved:before", "reserved:inside", "reserved:after"):
        crash(point)
    assert faults.counted == ["write"]
    assert died == []
    faults.once.append("server-crash")
    crash("opening:inside")
    assert died == ["dead"]


def test_the_loop_dies_or_hangs_before_its_step() -> None:
    done: list[str] = []
    faults = Script("client-crash", "client-hang")
    turn = TurnCrash(faults, death=lambda: done.append("dead"), stop=lambda: done.append("stopped"))
    assert turn()
    assert done == ["dead", "stopped"]
    assert faults.counted == ["turn"]


def test_a_ledger_whose_owner_died_can_be_taken_up_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    leave_stale_lock(path)
    assert path.with_name("ledger.sqlite.lock").exists()
    DoseLedger(path, LIMITS, VirtualClock()).close()


def test_a_ledger_whose_owner_lives_cannot(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with DoseLedger(path, LIMITS, VirtualClock()), pytest.raises(RuntimeError, match="stale lock"):
        leave_stale_lock(path)


def test_a_caller_that_asks_twice_gets_the_second_answer() -> None:
    asked: list[object] = []

    class Inner:
        def expose(self, exposure: object) -> str:
            asked.append(exposure)
            return f"answer {len(asked)}"

    microscope = RepeatingMicroscope(Inner(), Script("exposure-repeated"))
    assert microscope.expose("e") == "answer 2"
    assert microscope.expose("f") == "answer 3"
    assert asked == ["e", "e", "f"]


# --- link -----------------------------------------------------------------------------------


def test_a_link_without_a_fault_passes_everything_on() -> None:
    link: FaultyLink[str] = FaultyLink(Script())
    assert link.passes("request", "a") == ["a"]
    assert link.passes("reply", "b") == ["b"]


@pytest.mark.parametrize("fault", ["request-lost", "server-thread-dead"])
def test_a_link_that_is_cut_towards_the_server_loses_requests_only(fault: str) -> None:
    link: FaultyLink[str] = FaultyLink(Script(on=(fault,)))
    assert link.passes("request", "a") == []
    assert link.passes("reply", "b") == ["b"]


def test_a_link_that_is_cut_towards_the_client_loses_replies_only() -> None:
    link: FaultyLink[str] = FaultyLink(Script(on=("reply-lost",)))
    assert link.passes("request", "a") == ["a"]
    assert link.passes("reply", "b") == []


def test_two_replies_change_places_once() -> None:
    link: FaultyLink[str] = FaultyLink(Script("replies-swapped"))
    assert link.passes("reply", "first") == []
    assert link.passes("reply", "second") == ["second", "first"]
    assert link.passes("reply", "third") == ["third"]


def test_a_request_arrives_twice_once() -> None:
    link: FaultyLink[str] = FaultyLink(Script("message-repeated"))
    assert [link.passes("request", "a") for _ in range(2)] == [["a", "a"], ["a"]]


# --- a real night ---------------------------------------------------------------------------


def test_nothing_is_wrapped_at_a_real_instrument() -> None:
    quiet, clock = NoFaults(), VirtualClock()
    eyes = Eyes(Picker(), Aligner(), None)
    person = Unattended()
    assert night.spoilt_eyes(eyes, quiet) is eyes
    assert night.spoilt_approver(person, quiet, clock) is person
    assert night.spoilt_microscope(person, quiet) is person
    assert night.spoilt_going(quiet, clock)()


def test_every_fault_outside_the_column_has_a_player() -> None:
    """The names that the wrappers ask for are the names of the list."""
    folder = Path(night.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    for name, kind in FAULTS.items():
        if kind.place.value != "column":
            assert f'"{name}"' in text, name


# --- a crash at every write -----------------------------------------------------------------


def test_a_crash_at_any_write_leaves_a_ledger_that_charges_what_may_have_been_open(
    tmp_path: Path,
) -> None:
    """``server-crash@write:N`` for every N: the process is gone without a word."""
    from controller.hardware.values import Exposure, Purpose
    from controller.injection.night import HOOKS
    from controller.safety.ledger_store import NEXT, ChargeState
    from controller.server.session import open_session

    scenario = str(Path(__file__).parents[2] / "conformance" / "light.yaml")
    exposure = [
        Exposure(
            exposure_id=UUID(int=n),
            area="T00",
            purpose=Purpose.TRACK,
            detector="camera",
            duration_s=0.1,
        )
        for n in (1, 2)
    ]

    def expose(folder: Path, *faults: str) -> None:
        with open_session(
            "sim",
            {"scenario": scenario, "faults": faults},
            run_dir=folder,
            dose_limits=LIMITS,
            hooks=HOOKS,
        ) as session:
            for one in exposure:
                session.microscope.expose(one)

    ends = []
    for write in range(1, 8):
        folder = tmp_path / str(write)
        child = os.fork()
        if child == 0:
            try:
                expose(folder, f"server-crash@write:{write}")
                os._exit(0)
            finally:
                os._exit(1)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        before = sqlite3.connect(folder / "ledger.sqlite").execute(
            "SELECT exposure_id, state FROM states ORDER BY sequence"
        )
        written = dict(before.fetchall())
        with DoseLedger(folder / "ledger.sqlite", LIMITS, VirtualClock()) as ledger:
            records = {str(r.booking.exposure_id): r for r in ledger.records()}
            assert set(records) == set(written)
            for identity, state in written.items():
                record = records[identity]
                assert not NEXT[record.state]
                if state == "opening":
                    assert record.state is ChargeState.UNKNOWN
                    assert record.charged_e_per_A2 > record.booking.reserved_e_per_A2
                if state == "reserved":
                    assert record.state is ChargeState.RELEASED
    assert ends == [137] * 6 + [0]
