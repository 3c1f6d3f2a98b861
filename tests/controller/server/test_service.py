"""The hardware server, over real sockets: who may what, what silence does, what is refused."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import zmq

from controller.hardware.clock import WallClock
from controller.hardware.errors import (
    LeaseLostError,
    MicroscopeError,
    ModeError,
    NotAuthorisedError,
    NotReachedError,
    RefusedError,
    ReplyTimeoutError,
    StaleEpochError,
    StoppedByOtherError,
    UnreachableError,
)
from controller.hardware.values import Axis, Exposure, Frame, PartialPose, Purpose
from controller.hardware.wire.endpoints import Endpoints, Keys
from controller.hardware.wire.message import Notice, Reply, Request, decode, encode
from controller.hardware.wire.requester import Requester
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.server import client as client_module
from controller.server.client import connect, stop_now
from controller.server.door import Door, check_door
from controller.server.roles import Role
from tests.conformance.fake_adapter import FakeAdapter, MemorySink
from tests.conformance.microscope_suite import GENEROUS
from tests.conformance.watched_adapter import WatchedAdapter
from tests.controller.server.serving import Keyring, Served, keyed, served

GENEROUS_S = 2.0
"""A busy machine is no defect; `make soak` and `benchmarks.server` measure the 0.25 s."""


@dataclass
class Bench:
    server: Served
    adapter: WatchedAdapter
    fake: FakeAdapter
    ledger: DoseLedger


def open_bench(folder: Path, ring: Keyring, *, real_time: bool, ttl_s: float) -> Iterator[Bench]:
    fake = FakeAdapter(clock=WallClock()) if real_time else FakeAdapter()
    adapter = WatchedAdapter(fake)
    with DoseLedger(folder / "ledger.sqlite", GENEROUS, adapter.clock) as ledger:
        guarded = GuardedMicroscope(adapter, ledger, sink=MemorySink())
        with served(guarded, ring, lease_ttl_s=ttl_s) as server:
            yield Bench(server, adapter, fake, ledger)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from open_bench(tmp_path, keyed(tmp_path), real_time=False, ttl_s=2.0)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Bench]:
    """In real time, with a short lease."""
    yield from open_bench(tmp_path, keyed(tmp_path), real_time=True, ttl_s=0.5)


def picture(duration_s: float = 0.2) -> Exposure:
    return Exposure(
        exposure_id=uuid4(),
        area="S00",
        purpose=Purpose.SURVEY,
        detector="camera",
        duration_s=duration_s,
    )


def wait_for(condition: Callable[[], bool], within_s: float = 5.0) -> float:
    """Seconds until `condition` held."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "it never happened"
        time.sleep(0.002)
    return time.monotonic() - began_s


# --- who may what ------------------------------------------------------------------------------

ACTIONS: dict[str, tuple[Callable[[client_module.RemoteMicroscope], object], set[Role]]] = {
    "look": (lambda m: m.stage.pose(), set(Role)),
    "stop": (lambda m: m.stop("a test"), set(Role)),
    "blank": (lambda m: m.blank("a test"), set(Role)),
    "drive": (lambda m: m.drive().__enter__(), set(Role) - {Role.VIEWER}),
    "budgets": (
        lambda m: m.set_budgets(
            why="a test", specimen_e_per_A2=2e6, before_scan_e_per_A2=1.0, data_e_per_A2=1.0
        ),
        {Role.SCIENTIST, Role.ADMIN},
    ),
}


@pytest.mark.parametrize("role", list(Role))
def test_every_role_may_what_it_may_and_nothing_else(bench: Bench, role: Role) -> None:
    before = bench.ledger.limits
    for name, (act, allowed) in ACTIONS.items():
        refused_before = bench.server.security.refused
        with bench.server.client(role.value) as microscope:
            if role in allowed:
                act(microscope)
                continue
            with pytest.raises(NotAuthorisedError, match=f"is {role.value} and may not"):
                act(microscope)
        assert bench.server.security.refused == refused_before + 1, name
    assert (bench.ledger.limits == before) == (role not in ACTIONS["budgets"][1])


def test_a_viewer_cannot_drive_even_with_somebody_elses_lease(bench: Bench) -> None:
    with (
        bench.server.client("agent") as agent,
        agent.drive(),
        bench.server.client("viewer") as viewer,
    ):
        viewer._link.epoch = agent._link.epoch
        viewer._link.commands.session = agent._link.commands.session
        with pytest.raises(NotAuthorisedError, match="somebody else's"):
            viewer.stage.move(PartialPose(x_um=1.0))
    assert bench.adapter.moves == []


@pytest.mark.parametrize("kind", ["no key", "a stranger's key", "the wrong server key"])
def test_without_the_right_keys_nobody_answers(
    bench: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.4)
    ring = bench.server.ring
    agent = ring.of("agent")
    assert agent is not None
    keys: dict[str, Keys | None] = {
        "no key": None,
        "a stranger's key": ring.of("stranger"),
        "the wrong server key": Keys(agent.public, agent.secret, agent.public),
    }
    with (
        pytest.raises(UnreachableError, match="whether this client's key is on its list"),
        connect(bench.server.url, keys=keys[kind]),
    ):
        pass
    if kind == "a stranger's key":
        assert "not on the list" in (ring.folder / "security.jsonl").read_text()
    assert "open_beam" not in bench.adapter.diary
    with bench.server.client("viewer") as viewer:
        viewer.stage.pose()


def test_no_keys_only_for_a_simulator_on_this_machine() -> None:
    here, there = Endpoints.of("tcp://127.0.0.1:7000"), Endpoints.of("tcp://0.0.0.0:7000")
    check_door(Door(), here, simulated=True)
    with pytest.raises(RefusedError, match="never served without keys"):
        check_door(Door(), here, simulated=False)
    with pytest.raises(RefusedError, match="reached from other machines"):
        check_door(Door(), there, simulated=True)


# --- the lease ---------------------------------------------------------------------------------


def test_a_watcher_cannot_command(bench: Bench) -> None:
    with (
        bench.server.client() as microscope,
        pytest.raises(LeaseLostError, match="only watches"),
    ):
        microscope.stage.move(PartialPose(x_um=1.0))
    assert bench.adapter.moves == []


def test_a_second_driver_is_refused_and_a_person_may_take_over_from_a_program(
    bench: Bench,
) -> None:
    with (
        bench.server.client("agent") as agent,
        agent.drive(),
        bench.server.client("operator") as operator,
    ):
        with pytest.raises(LeaseLostError, match="agent drives"), operator.drive():
            pass
        with operator.drive(by_force=True):
            with pytest.raises((LeaseLostError, StaleEpochError)):
                agent.stage.move(PartialPose(x_um=1.0))
            operator.stage.move(PartialPose(x_um=2.0))
    assert [target for _, target in bench.adapter.moves] == [2.0]


def test_a_program_cannot_take_over_from_a_person(bench: Bench) -> None:
    with (
        bench.server.client("operator") as operator,
        operator.drive(),
        bench.server.client("agent") as agent,
        pytest.raises(LeaseLostError),
        agent.drive(by_force=True),
    ):
        pass


def test_the_end_of_the_lease_blanks_and_halts(bench: Bench) -> None:
    with bench.server.client() as microscope:
        with microscope.drive():
            bench.adapter.diary.clear()
        assert {"blank_beam", "halt"} <= set(bench.adapter.diary)


@pytest.mark.live
def test_silence_during_an_exposure_blanks(live: Bench) -> None:
    with live.server.client() as microscope:
        failed: list[BaseException] = []

        def expose() -> None:
            try:
                microscope.expose(picture(8.0))
            except Exception as problem:  # noqa: BLE001  (looked at below)
                failed.append(problem)

        with microscope.drive():
            thread = threading.Thread(target=expose)
            thread.start()
            wait_for(lambda: live.fake.read_blanked() is False)
            microscope._link.beat = lambda: None  # type: ignore[method-assign]
            wait_for(lambda: live.server.service.lease is None)
            took_s = wait_for(lambda: live.fake.read_blanked() is True)
            thread.join(timeout=10)
    assert took_s < GENEROUS_S
    assert isinstance(failed[0], StoppedByOtherError | ReplyTimeoutError)
    assert live.server.service.state()["safe_hold"].startswith("agent has been silent")


@pytest.mark.live
def test_a_program_that_gets_nowhere_is_stopped(live: Bench) -> None:
    with live.server.client() as microscope, microscope.drive(most_s_per_step=0.6):
        for step in range(3):
            microscope.advance(step)
            time.sleep(0.3)
            assert live.server.service.lease is not None
        wait_for(lambda: live.server.service.lease is None, 3.0)
        assert "no progress" in live.server.service.state()["safe_hold"]
        with pytest.raises((LeaseLostError, StaleEpochError)):
            microscope.stage.move(PartialPose(x_um=1.0))


@pytest.mark.live
def test_a_server_that_falls_silent_is_noticed(
    live: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENT_S", 0.6)
    with live.server.client() as microscope, microscope.drive():
        release = threading.Event()
        live.adapter.on_call = lambda name: release.wait(20) if name == "start_move" else None  # type: ignore[assignment,return-value]
        monkeypatch.setattr(live.server.service, "_on_safety", lambda asked: None)
        live.server.service._lanes[1]._handler = lambda asked: None
        with pytest.raises(ReplyTimeoutError, match="outcome is unknown"):
            microscope.stage.move(PartialPose(x_um=1.0))
        release.set()


@pytest.mark.live
def test_stop_from_a_second_client_ends_a_long_move(live: Bench) -> None:
    live.fake.faults.slow_factor = 100.0
    with (
        live.server.client() as driver,
        live.server.client("viewer") as watcher,
        driver.drive(),
    ):
        failed: list[BaseException] = []

        def move() -> None:
            try:
                driver.stage.move(PartialPose(x_um=30.0))
            except StoppedByOtherError as problem:
                failed.append(problem)

        thread = threading.Thread(target=move)
        thread.start()
        wait_for(lambda: bool(live.adapter.moves))
        time.sleep(0.3)
        live.adapter.diary.clear()
        began_s = time.monotonic()
        watcher.stop("seen from the office")
        wait_for(lambda: "halt" in live.adapter.diary)
        took_s = time.monotonic() - began_s
        thread.join(timeout=5)
    assert took_s < GENEROUS_S
    assert live.fake.read_blanked() is True
    assert "seen from the office" in str(failed[0])


def test_stop_needs_no_session(bench: Bench) -> None:
    bench.adapter.diary.clear()
    stop_now(bench.server.url, "from a shell", keys=bench.server.ring.of("viewer"))
    assert "halt" in bench.adapter.diary


class Wire:
    """A unix socket in front of another that can be cut in either direction."""

    def __init__(self, path: Path, behind: Path) -> None:
        self.cut: set[str] = set()
        self._behind = str(behind)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._behind)
            for source, target, name in ((near, far, "up"), (far, near, "down")):
                threading.Thread(
                    target=self._pump, args=(source, target, name), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, name: str) -> None:
        try:
            while data := source.recv(65536):
                while name in self.cut:
                    time.sleep(0.01)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.live
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_link_cut_in_either_direction_blanks(
    live: Bench, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENT_S", 0.4)
    monkeypatch.setattr(client_module, "ANSWER_S", 0.4)
    behind = Endpoints.of(live.server.url)
    front = live.server.ring.folder / "front"
    wires = [
        Wire(Path(str(front) + tail), Path(lane.removeprefix("ipc://")))
        for tail, lane in (("", behind.command), (".safety", behind.safety))
    ]
    keys = live.server.ring.of("agent")
    with connect(f"ipc://{front}", keys=keys, name="agent") as microscope:
        failed: list[BaseException] = []

        def expose() -> None:
            try:
                microscope.expose(picture(8.0))
            except Exception as problem:  # noqa: BLE001  (looked at below)
                failed.append(problem)

        with microscope.drive():
            thread = threading.Thread(target=expose)
            thread.start()
            wait_for(lambda: live.fake.read_blanked() is False)
            for wire in wires:
                wire.cut.add(direction)
            took_s = wait_for(lambda: live.fake.read_blanked() is True)
            thread.join(timeout=10)
        for wire in wires:
            wire.cut.clear()
            wire.close()
    # the answers missing: the client falls silent after 0.4 s; then the lease of 0.5 s runs out
    assert took_s < 0.5 + GENEROUS_S + (0.4 + 0.2 if direction == "down" else 0.0)
    assert isinstance(failed[0], ReplyTimeoutError)
    assert "outcome is unknown" in str(failed[0])


def test_a_person_at_the_panel_has_precedence(bench: Bench) -> None:
    bench.server.service._hand._quiet_s = 1.0
    with bench.server.client() as microscope, microscope.drive():
        microscope.stage.move(PartialPose(x_um=5.0))
        time.sleep(0.6)
        assert bench.server.service.state()["by_hand"] == "", "our own move is no hand"
        leg = bench.fake.positions[Axis.Y]
        leg.start = leg.target = 3.0
        wait_for(lambda: bool(bench.server.service.state()["by_hand"]))
        with pytest.raises(StoppedByOtherError, match=r"works at the panel \(y_um from 0 to 3"):
            microscope.stage.move(PartialPose(x_um=6.0))
        time.sleep(1.1)
        microscope.stage.move(PartialPose(x_um=6.0))


# --- messages ----------------------------------------------------------------------------------


def test_a_repeated_message_is_answered_again_and_carried_out_once(bench: Bench) -> None:
    with bench.server.client() as microscope, microscope.drive():
        link = microscope._link
        exposure = picture()
        pending = link.commands.send("expose", exposure.model_dump(mode="json"), epoch=link.epoch)
        assert pending.wait(5)
        first, arrays = pending.answer()
        twin = type(pending)(pending.request, pending.frames)
        link.commands._waiting[pending.request.id] = twin
        link.commands.again(twin)
        assert twin.wait(5)
        again, arrays_again = twin.answer()
    assert again == first
    np.testing.assert_array_equal(arrays[0], arrays_again[0])
    assert bench.adapter.openings == 1


def test_an_old_message_is_refused(bench: Bench) -> None:
    with bench.server.client() as microscope, microscope.drive():
        link = microscope._link
        microscope.stage.move(PartialPose(x_um=1.0))
        moves = len(bench.adapter.moves)
        old = Request(
            id=uuid4(),
            verb="stage.move",
            args={"target": {"x_um": 5.0}},
            session=link.commands.session,
            seq=1,
            epoch=link.epoch,
        )
        pending = type(link.commands.send("clock.now"))(old, encode(old))
        link.commands._waiting[old.id] = pending
        link.commands.again(pending)
        assert pending.wait(5)
        with pytest.raises(StaleEpochError, match="comes from the past"):
            pending.answer()
    assert len(bench.adapter.moves) == moves


def test_a_lost_answer_is_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LOST_S", 0.3)
    with bench.server.client() as microscope, microscope.drive():
        commands = microscope._link.commands
        receive, dropped = commands._receive, []

        def lose_one() -> None:
            if not dropped:
                try:
                    frames = commands._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                dropped.append(frames)
            receive()

        monkeypatch.setattr(commands, "_receive", lose_one)
        frame = microscope.expose(picture())
    assert isinstance(frame, Frame)
    assert dropped
    assert bench.adapter.openings == 1


def test_nobody_gets_anothers_answer(bench: Bench) -> None:
    with bench.server.client() as microscope:
        link = microscope._link.commands
        asked = [link.send("dose", {"x_um": float(n), "y_um": 0.0}) for n in range(50)]
        asked += [link.send("clock.now") for _ in range(50)]
        assert all(pending.wait(5) for pending in asked)
        assert all(isinstance(pending.answer()[0], dict) for pending in asked[:50])
        assert all(isinstance(pending.answer()[0], float) for pending in asked[50:])


def test_a_picture_with_a_nan_in_its_header_is_an_error_and_not_silence(bench: Bench) -> None:
    with bench.server.client() as microscope, pytest.raises(ValueError, match="not understood"):
        microscope._link.question("dose", {"x_um": "somewhere", "y_um": 0.0})


def fuzz(server: Served, count: int, seed: int) -> None:
    """Throw `count` malformed messages of an allowed client at both lanes."""
    rng = random.Random(seed)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    keys = server.ring.of("agent")
    assert keys is not None
    lanes = []
    for endpoint in (Endpoints.of(server.url).command, Endpoints.of(server.url).safety):
        lane = context.socket(zmq.DEALER)
        lane.linger = 1000
        keys.on_client(lane)
        lane.connect(endpoint)
        lanes.append(lane)
    good = Request(id=uuid4(), verb="expose", args=picture().model_dump(mode="json"), epoch=1)
    whole = encode(good, [np.zeros((4, 4), dtype=np.uint16)])
    for n in range(count):
        frames = [bytearray(frame) for frame in whole]
        for _ in range(rng.randint(1, 6)):
            frame = rng.choice(frames)
            kind = rng.randint(0, 4)
            if kind == 0 and frame:
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del frame[rng.randrange(len(frame) + 1) :]
            elif kind == 2:
                frame += rng.randbytes(rng.randint(1, 40))
            elif kind == 3:
                frames.append(bytearray(rng.randbytes(rng.randint(0, 60))))
            else:
                rng.shuffle(frames)
        lane = lanes[n % 2]
        lane.send_multipart([bytes(frame) for frame in frames])
        while lane.poll(0):
            reply, _ = decode(Reply, lane.recv_multipart())
            assert not reply.ok
    for lane in lanes:
        lane.close()
    context.term()


def check_fuzzed(bench: Bench, count: int) -> None:
    fuzz(bench.server, count, 5)
    wait_for(lambda: bench.server.security.refused >= 0.98 * count, 30 + count / 500)
    with bench.server.client() as microscope, microscope.drive():
        microscope.stage.pose()
        assert bench.adapter.openings == 0
        assert bench.ledger.records() == []
        assert isinstance(microscope.expose(picture()), Frame)


def test_malformed_messages_are_refused_logged_and_harmless(bench: Bench) -> None:
    check_fuzzed(bench, 3_000)


@pytest.mark.soak
def test_a_hundred_thousand_malformed_messages(bench: Bench) -> None:
    check_fuzzed(bench, 100_000)


@pytest.mark.live
def test_a_flood_of_sleeps_keeps_no_stop_from_coming_in(live: Bench) -> None:
    with live.server.client("viewer") as viewer:
        for _ in range(40):
            viewer._link.safety.send("clock.sleep", {"duration_s": 3.0})
        time.sleep(0.2)
        live.adapter.diary.clear()
        viewer.stop("through the flood")
        assert viewer.column.health().valve_open.condition.value == "good"
    assert "halt" in live.adapter.diary


def test_a_crowd_of_watchers_does_not_push_out_who_drives(bench: Bench) -> None:
    with bench.server.client("agent") as driver, driver.drive():
        link = Requester(
            Endpoints.of(bench.server.url).command, keys=bench.server.ring.of("viewer")
        )
        for _ in range(400):
            link.ask("hello", {"name": "cron"}, timeout_s=5)
        link.close()
        assert bench.server.service.state()["sessions"] <= 256
        driver.stage.move(PartialPose(x_um=1.0))


def test_what_cannot_be_sent_is_an_error_and_ends_no_thread(bench: Bench) -> None:
    with bench.server.client("agent") as driver, driver.drive():
        numbers = {"residual": np.float32(0.5), "nan": float("nan")}
        wrong = NotReachedError("off", residual={"x_um": float("nan")}, snapshot=numbers)

        def fail(name: str) -> None:
            if name == "start_move":
                raise wrong

        bench.adapter.on_call = fail
        with pytest.raises(MicroscopeError, match="off"):
            driver.stage.move(PartialPose(x_um=1.0))
        bench.adapter.on_call = lambda name: None
        driver.stage.move(PartialPose(x_um=2.0))


def test_the_ledger_comes_in_pages(bench: Bench) -> None:
    with bench.server.client("agent") as driver, driver.drive():
        for _ in range(60):
            driver.expose(picture(0.01))
        rows = driver.bookings()
    assert len(rows) == 60
    assert {row["state"] for row in rows} == {"settled"}


def test_an_oversized_message_ends_the_connection_and_nothing_else(bench: Bench) -> None:
    keys = bench.server.ring.of("agent")
    link = Requester(Endpoints.of(bench.server.url).command, keys=keys)
    pending = link.send("hello", {"name": "big"}, arrays=[np.zeros(6_000_000, dtype=np.uint8)])
    assert not pending.wait(0.7)
    link.close()
    with bench.server.client() as microscope:
        microscope.stage.pose()


# --- telemetry ---------------------------------------------------------------------------------


def test_everybody_who_listens_is_told(bench: Bench) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = context.socket(zmq.SUB)
    listener.linger = 0
    keys = bench.server.ring.of("viewer")
    assert keys is not None
    keys.on_client(listener)
    listener.subscribe(b"")
    listener.connect(Endpoints.of(bench.server.url).telemetry)
    assert listener.poll(3000)
    with bench.server.client() as microscope, microscope.drive():
        frame = microscope.expose(picture())
    assert isinstance(frame, Frame)
    numbers: dict[str, list[int]] = {}
    pictures = []
    while listener.poll(700) and not (numbers.get("frame") and len(numbers.get("lease", [])) > 1):
        topic, *message = listener.recv_multipart()
        notice, arrays = decode(Notice, message)
        assert notice.topic == topic.decode()
        numbers.setdefault(notice.topic, []).append(notice.seq)
        pictures += arrays
    listener.close()
    context.term()
    assert {"status", "lease", "frame"} <= set(numbers)
    for topic, seen in numbers.items():
        assert seen == list(range(seen[0], seen[0] + len(seen))), topic
    np.testing.assert_array_equal(pictures[0], frame.data)


def test_refusals_are_written_down(bench: Bench) -> None:
    with bench.server.client("viewer") as viewer, pytest.raises(NotAuthorisedError):
        viewer.set_budgets(
            why="more!", specimen_e_per_A2=1e6, before_scan_e_per_A2=1.0, data_e_per_A2=1.0
        )
    lines = (bench.server.ring.folder / "security.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["who"] == "viewer"
    assert last["what"] == "budgets.set"
    assert ModeError.__name__ not in last["why"]
