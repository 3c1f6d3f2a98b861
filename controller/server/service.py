"""The hardware server: one guarded microscope, three lanes, one driver at a time.

Commands come one at a time and only from the holder of the lease; questions are answered beside
them; blank, stop, health and the heartbeat have a lane of their own that waits for nothing.  When
the holder falls silent or stops getting anywhere, the beam is blanked and the stage halted here,
next to the hardware, whoever asked for what.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import zmq

from controller.hardware.errors import (
    LinkError,
    MicroscopeError,
    ModeError,
    NotAuthorisedError,
    ProtocolError,
    RefusedError,
)
from controller.hardware.wire.clocks import clock_facts
from controller.hardware.wire.endpoints import Endpoints
from controller.hardware.wire.message import PROTOCOL, Array
from controller.hardware.wire.responder import Asked, Responder, Sender
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from controller.server.door import Door, check_door
from controller.server.hand import HandWatch
from controller.server.lease import TTL_S, Lease, LeaseBook
from controller.server.publisher import Publisher
from controller.server.roles import Right, may
from controller.server.security_log import SecurityLog
from controller.server.sessions import Peer, Sessions
from controller.server.status import StatusReport
from controller.server.verbs import VERBS, Beat, Budgets, Hello, Lane, TakeLease, Verb

WATCH_S = 0.02
"""How often the lease is looked at."""
HANGS_S = 0.5
"""A watch over the lease that has not come round for so long hangs."""
INSIST_S = 0.2
"""How often a stop is repeated while a command of an ended lease is still under way."""
QUESTIONS_AT_ONCE = 4
AT_ONCE = 32
"""Of one kind in the safety lane; a flood of one kind keeps no other from coming in."""

Job = tuple[Verb, Any, Asked, Peer]


class Service:
    """Serves `microscope` on the lanes of `endpoints` until it is closed.

    Parameters
    ----------
    microscope
        Guarded; nobody else drives it from now on.
    door
        Who may come in.
    publisher
        Already among the auditors of the ledger.
    lease_ttl_s
        How long a driver may be silent, at most 2 s.

    Raises
    ------
    OSError
        An endpoint cannot be listened on.
    RefusedError
        No keys, though the instrument is real or can be reached from outside.
    """

    def __init__(
        self,
        microscope: GuardedMicroscope,
        endpoints: Endpoints,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        publisher: Publisher,
        door: Door,
        security: SecurityLog | None = None,
        lease_ttl_s: float = TTL_S,
        dead_man: Callable[[], bool] = lambda: False,
    ) -> None:
        check_door(door, endpoints, simulated=microscope.capabilities.simulated)
        self.endpoints = endpoints
        self.security = security or SecurityLog(None)
        self._microscope = microscope
        self._door = door
        self._publisher = publisher
        self._dead_man = dead_man
        self._sessions = Sessions()
        self._book = LeaseBook(ttl_s=lease_ttl_s)
        self._lock = threading.Lock()
        self._busy: Job | None = None
        self._hold = ""
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._questions = ThreadPoolExecutor(QUESTIONS_AT_ONCE, "lodestem question")
        self._slots = {
            name: threading.BoundedSemaphore(AT_ONCE)
            for name in ("stop", "blank", "column.health", "clock.sleep", "others")
        }
        self._closing = threading.Event()
        self._looked_s = time.monotonic()
        self._limits = microscope.ledger.limits
        self._hand = HandWatch(microscope.capabilities)
        self._own = {
            "service.state": lambda peer, asked: self.state(),
            "lease.take": self._take,
            "lease.release": self._release,
            "budgets.set": self._set_budgets,
        }
        publisher.clock = microscope.clock
        report = StatusReport(microscope, publisher, self._hand, self.state)
        self._threads = [
            threading.Thread(target=work, name=f"lodestem {name}", daemon=True)
            for name, work in (
                ("driver", self._drive),
                ("lease", self._watch),
                ("status", lambda: report.run(self._closing)),
            )
        ]
        for thread in self._threads:
            thread.start()
        with contextlib.ExitStack() as opening:
            opening.callback(self.close)
            self._lanes = (
                self._listen(endpoints.command, self._on_command, context, "commands"),
                self._listen(endpoints.safety, self._on_safety, context, "safety"),
            )
            opening.pop_all()

    def _listen(
        self,
        endpoint: str,
        handler: Callable[[Asked], None],
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
    ) -> Responder:
        def refused(sender: Sender, why: str) -> None:
            self.security.refuse(sender.user, name, why)

        return Responder(
            endpoint,
            handler,
            context=context,
            keys=self._door.keys,
            refused=refused,
            name=name,
            passage=self._door.passage(),
        )

    # --- who drives ---------------------------------------------------------------------------

    @property
    def lease(self) -> Lease | None:
        """The present lease."""
        with self._lock:
            return self._book.current

    @property
    def is_alive(self) -> bool:
        """Whether every thread that safety hangs on still runs, or ends on purpose."""
        if self._closing.is_set():
            return True
        if time.monotonic() - self._looked_s > HANGS_S:  # stuck in a driver: let the watchdog act
            return False
        lanes = getattr(self, "_lanes", ())
        return all(t.is_alive() for t in self._threads) and all(lane.is_alive for lane in lanes)

    def state(self) -> dict[str, Any]:
        """Who drives, what is under way, and why nothing is; JSON-able."""
        with self._lock:
            lease, busy, hold = self._book.current, self._busy, self._hold
        return {
            "lease": None
            if lease is None
            else {"epoch": lease.epoch, "holder": lease.holder, "step": lease.step},
            "busy": "" if busy is None else busy[0].says,
            "working_on": "" if busy is None else str(busy[2].request.id),
            "safe_hold": hold,
            "by_hand": self._hand.what,
            "refused": self.security.refused,
            "sessions": self._sessions.count(),
        }

    # --- the lanes ------------------------------------------------------------------------------

    def _on_command(self, asked: Asked) -> None:
        with self._guarded(asked) as said:
            if asked.request.verb == "hello":
                said.answer(self._hello(asked))
                return
            peer = self._sessions.find(asked.sender, asked.request.session)
            if not self._is_new(peer, "command", asked):
                return
            said.peer = peer
            own = self._own.get(asked.request.verb)
            if own is not None:
                said.answer(own(peer, asked))
                return
            verb = self._verb(asked, peer)
            if verb.lane is Lane.DRIVE:
                self._begin_driving(verb, asked, peer)
            elif verb.lane is Lane.INLINE:
                said.answer(*verb.run(self._microscope, verb.arguments(asked.request.args)))
            else:
                self._beside(verb, asked, peer)

    def _on_safety(self, asked: Asked) -> None:
        with self._guarded(asked) as said:
            verb_name = asked.request.verb
            if verb_name in ("blank", "stop"):  # from anybody, with or without a session
                self._beside(self._verb(asked, None), asked, None)
                return
            peer = self._sessions.find(asked.sender, asked.request.session)
            if not self._is_new(peer, "safety", asked):
                return
            said.peer = peer
            if verb_name == "beat":
                said.answer(self._beat(peer, asked))
                return
            verb = self._verb(asked, peer)
            if verb.lane is Lane.DRIVE:
                raise ProtocolError(f"{verb.name} is a command; the safety lane takes none")
            self._beside(verb, asked, peer)

    def _is_new(self, peer: Peer, lane: str, asked: Asked) -> bool:
        """Whether to act; a repetition is answered from memory."""
        new = self._sessions.is_new(peer, lane, asked.request)
        if isinstance(new, bool):
            return new
        if new is not None:
            asked.send(new)
        return False

    def _verb(self, asked: Asked, peer: Peer | None) -> Verb:
        verb = VERBS.get(asked.request.verb)
        if verb is None:
            raise ProtocolError(
                f"no verb {asked.request.verb!r}; there are hello, beat, {', '.join(self._own)}, "
                f"{', '.join(VERBS)}"
            )
        if peer is not None:
            self._allow(peer, verb.right, verb.name)
        return verb

    def _allow(self, peer: Peer, right: Right, what: str) -> None:
        if not may(peer.role, right):
            raise NotAuthorisedError(
                f"{peer.name} is {peer.role.value} and may not {what} (needs the right to "
                f"{right.value.replace('_', ' ')}); nothing was done. Ask whoever keeps the list "
                f"of keys."
            )

    @contextlib.contextmanager
    def _guarded(self, asked: Asked) -> Iterator[_Said]:
        """Answer with whatever goes wrong, and note what was refused."""
        said = _Said(asked, self._sessions)
        try:
            yield said
        except (MicroscopeError, ValueError) as problem:
            if isinstance(problem, RefusedError | LinkError | ValueError):
                who = asked.sender.user if said.peer is None else said.peer.name
                self.security.refuse(who, asked.request.verb, str(problem))
            said.fail(problem)

    # --- what the service itself understands ----------------------------------------------------

    def _hello(self, asked: Asked) -> dict[str, Any]:
        try:
            hello = Hello.model_validate(asked.request.args)
        except ValueError as error:
            raise ValueError(f"hello was not understood: {error}") from error
        name, role = self._door.role_of(asked.sender, hello)
        driving = self.lease
        keep = "" if driving is None else driving.session
        peer = self._sessions.begin(asked.sender, name, role, keep=keep)
        microscope = self._microscope
        dead_man = "independent" if self._dead_man() else "server"
        return {
            "protocol": PROTOCOL,
            "session": peer.session,
            "name": name,
            "role": role.value,
            "capabilities": microscope.capabilities.replace(dead_man=dead_man).model_dump(
                mode="json"
            ),
            "calibration": microscope.calibration.model_dump(mode="json"),
            "lease_ttl_s": self._book.ttl_s,
            **clock_facts(microscope.clock),
        }

    def _release(self, peer: Peer, asked: Asked) -> dict[str, Any]:
        with self._lock:
            self._book.check(peer.session, asked.request.epoch)
            self._end(f"{peer.name} let go")
        self._microscope.stop(f"{peer.name} let go of the lease")
        self._publisher.publish("lease", self.state())
        return {}

    def _take(self, peer: Peer, asked: Asked) -> dict[str, Any]:
        self._allow(peer, Right.DRIVE, "drive")
        wanted = TakeLease.model_validate(asked.request.args)
        with self._lock:
            other = self._book.current
            by_force = wanted.by_force and may(peer.role, Right.TAKE_OVER)
            if self._busy is not None and (other is None or other.session != peer.session):
                raise ModeError(
                    f"{self._busy[0].says} of an earlier lease is still under way; nothing was "
                    f"changed. Stop it, or wait for its end."
                )
            lease = self._book.take(
                peer.session,
                peer.name,
                time.monotonic(),
                by_force=by_force,
                most_s_per_step=wanted.most_s_per_step,
            )
            self._hold = ""
            try:
                self._narrow(wanted)
            except MicroscopeError:
                self._end("the plan's limits were refused")
                raise
        if other is not None and other.session != peer.session:
            self._microscope.stop(f"{peer.name} took over from {other.holder}")
        self._publisher.publish("lease", self.state())
        return {"epoch": lease.epoch, "ttl_s": lease.ttl_s}

    def _narrow(self, wanted: TakeLease) -> None:
        """The plan's limits hold inside the server's, as long as the lease does."""
        self._microscope.plan_limits(wanted.stage_limits)
        limits = self._limits
        self._microscope.ledger.limits = (
            limits if wanted.budgets is None else limits.within(wanted.budgets)
        )

    def _end(self, why: str) -> None:
        """The lease is over, and its limits with it; the caller holds the lock."""
        self._book.end(why)
        self._microscope.plan_limits(None)
        self._microscope.ledger.limits = self._limits

    def _set_budgets(self, peer: Peer, asked: Asked) -> dict[str, Any]:
        self._allow(peer, Right.BUDGETS, "change the budgets")
        wanted = Budgets.model_validate(asked.request.args)
        fields = wanted.model_dump(exclude={"why"})
        with self._lock:
            if self._book.current is not None:
                raise ModeError(
                    f"{self._book.current.holder} drives; the budgets stay as they are until the "
                    f"lease is over. Stop the run first."
                )
            self._limits = DoseLimits(**fields, area_e_per_A2=self._limits.area_e_per_A2)
            self._microscope.ledger.limits = self._limits
        body = {"by": peer.name, "why": wanted.why, **fields}
        self._publisher.publish("budgets", body)
        return self._limits.model_dump(mode="json")

    def _beat(self, peer: Peer, asked: Asked) -> dict[str, Any]:
        beat = Beat.model_validate(asked.request.args)
        with self._lock:
            lease = self._book.renew(
                peer.session, asked.request.epoch, time.monotonic(), step=beat.step
            )
            busy = self._busy
        return {
            "epoch": lease.epoch,
            "working_on": "" if busy is None else str(busy[2].request.id),
            "driver_alive": self._threads[0].is_alive(),
        }

    # --- work -----------------------------------------------------------------------------------

    def _begin_driving(self, verb: Verb, asked: Asked, peer: Peer) -> None:
        arguments = verb.arguments(asked.request.args)
        with self._lock:
            self._book.check(peer.session, asked.request.epoch)
            self._hand.check(time.monotonic(), verb.says)
            if self._busy is not None:
                raise ModeError(
                    f"{verb.says} was refused: {self._busy[0].says} is under way; nothing was "
                    f"done. One command drives at a time: wait, or stop it first."
                )
            self._busy = (verb, arguments, asked, peer)
            self._jobs.put(self._busy)

    def _drive(self) -> None:
        """The one thread that moves things."""
        while (job := self._jobs.get()) is not None:
            verb, arguments, asked, peer = job
            said = _Said(asked, self._sessions, peer)
            self._hand.ours()
            try:
                with self._lock:
                    self._book.check(peer.session, asked.request.epoch)
                result, arrays = verb.run(self._microscope, arguments)
            except BaseException as problem:  # noqa: BLE001  (it travels to whoever asked)
                self._idle()
                said.fail(problem)
            else:
                self._idle()
                said.answer(result, arrays)
                if isinstance(result, dict) and "frame" in result:
                    self._publisher.publish("frame", result["frame"], arrays)

    def _idle(self) -> None:
        self._hand.ours()
        with self._lock:
            self._busy = None

    def _beside(self, verb: Verb, asked: Asked, peer: Peer | None) -> None:
        """Carry out what needs no lease, in a thread that nothing waits for."""
        arguments = verb.arguments(asked.request.args)

        def work() -> None:
            said = _Said(asked, self._sessions, peer)
            try:
                result, arrays = verb.run(self._microscope, arguments)
            except Exception as problem:  # noqa: BLE001  (it travels to whoever asked)
                said.fail(problem)
            else:
                said.answer(result, arrays)

        if verb.lane is Lane.QUERY:
            self._questions.submit(work)
            return
        slots = self._slots[verb.name if verb.name in self._slots else "others"]
        if not slots.acquire(blocking=False):
            raise ModeError(
                f"as many {verb.name} requests as there is room for are under way; this one was "
                f"refused. Those before it act: ask again in a moment."
            )

        def work_and_leave() -> None:
            try:
                work()
            finally:
                slots.release()

        threading.Thread(target=work_and_leave, name=f"lodestem {verb.name}", daemon=True).start()

    # --- watching -------------------------------------------------------------------------------

    def _watch(self) -> None:
        """End a lease that has gone silent; insist until its command has ended too."""
        insisted_s = 0.0
        while not self._closing.wait(WATCH_S):
            now_s = self._looked_s = time.monotonic()
            why = self._ended(now_s)
            if why:
                insisted_s = now_s
                self._stop(why)
                self.security.refuse("", "lease", why)
                self._publisher.publish("lease", self.state())
                continue
            with self._lock:
                orphan = self._busy is not None and self._book.current is None
                why = self._book.ended
            if orphan and now_s - insisted_s > INSIST_S:
                insisted_s = now_s
                self._stop(why)

    def _ended(self, now_s: float) -> str | None:
        with self._lock:
            lease = self._book.current
            why = None if lease is None else lease.ends_because(now_s)
            if why:
                self._end(why)
                self._hold = why
            return why

    def _stop(self, why: str) -> None:
        # a driver that fails here must not end the watch
        with contextlib.suppress(Exception):
            self._microscope.stop(why)

    def close(self) -> None:
        """Blank, halt, stop listening. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            self._end("the server stops")
        self._stop("the server stops")
        self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        for lane in getattr(self, "_lanes", ()):
            lane.close()
        self._questions.shutdown(wait=False, cancel_futures=True)


class _Said:
    """Answers a message and remembers what was answered."""

    def __init__(self, asked: Asked, sessions: Sessions, peer: Peer | None = None) -> None:
        self._asked = asked
        self._sessions = sessions
        self.peer = peer

    def answer(self, result: Any = None, arrays: list[Array] | None = None) -> None:  # noqa: ANN401
        # whatever a driver puts into a value, a snapshot or a residual must not end a thread
        try:
            frames = self._asked.written(result, arrays or [])
        except Exception as problem:  # noqa: BLE001
            frames = self._asked.failed(ProtocolError(f"a result that cannot be sent: {problem}"))
        self._send(frames)

    def fail(self, problem: BaseException) -> None:
        try:
            frames = self._asked.failed(problem)
        except Exception:  # noqa: BLE001
            frames = self._asked.failed(ProtocolError(f"{type(problem).__name__}: {problem}"))
        self._send(frames)

    def _send(self, frames: list[bytes]) -> None:
        # kept first: whoever asks again at once finds it
        if self.peer is not None:
            self._sessions.answered(self.peer, self._asked.request, frames)
        self._asked.send(frames)
