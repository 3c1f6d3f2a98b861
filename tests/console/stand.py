"""A run without an instrument, and an instrument without a column: what a console looks at.

`StandRun` keeps a real journal, real frames and a real desk and plays a script at it; `Hardware` is
the two doors of a hardware server that a console knows: telemetry and STOP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import zmq

from controller.decision.actions import (
    Action,
    MeasurePattern,
    Tilt,
    action_details,
    action_name,
    action_target,
)
from controller.decision.approval import Answer, Proposal
from controller.decision.belief import Belief, update
from controller.decision.desk import Desk
from controller.decision.knowledge import confidence, error_mrad
from controller.hardware.values import Axis, Frame, Mode, StageLimits
from controller.hardware.wire.endpoints import Endpoints
from controller.hardware.wire.picture import picture_out
from controller.hardware.wire.responder import Asked, Responder
from controller.record.events import Answered, Proposed, QueueChanged
from controller.record.inbox import Inbox
from controller.server.publisher import Publisher
from tests.controller.record.conftest import Night, optics, pose

LIMITS = StageLimits(ranges={Axis.ALPHA: (-25, 25), Axis.BETA: (-15, 15)})


def tilt(alpha_deg: float, beta_deg: float, target: str = "R1") -> Tilt:
    return Tilt(target, alpha_deg, beta_deg, 0.0, 0.0, 0.05, 0.0, 0.0)


class StandRun:
    """A supervised run that proposes what a script says, over and over."""

    def __init__(
        self, folder: Path, script: list[Action], *, wait_s: float = 600.0, names: str = "R"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.night = Night(folder)
        self.belief = Belief()
        self.night.journal.listen(self._fold)
        self.night.start("supervised")
        self.night.survey([(120.0, 90.0), (240.0, 250.0), (90.0, 300.0)], ["R1", "R2", "R3"])
        self.night.begin("Visit", "R1", "best of those left")
        self.night.end(after_s=0.1)
        self.night.pattern("R1", 0.235, pose())
        self.script = script
        self.wait_s = wait_s
        self.step_s = 0.3
        self.done: list[tuple[str, Answer]] = []
        self.stopped: list[str] = []
        self.desk = Desk(folder, stop=self.stopped.append)
        self.desk.attach(stop=self.stopped.append, limits=LIMITS)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> StandRun:
        self.desk.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.desk._closing.set()
        self._thread.join(timeout=5)
        self.desk.__exit__(None, None, None)
        self.night.journal.close()

    def _fold(self, entry: Any) -> None:
        self.belief = update(self.belief, entry.event)

    def _attend(self) -> None:
        inbox = Inbox(self.folder)
        for path, request in inbox.waiting():
            if not isinstance(request, str):
                self.night.say(
                    QueueChanged(
                        what=request.what,
                        by=request.by,
                        target=request.target,
                        reason=request.reason,
                    )
                )
            inbox.put_away(path)

    def _play(self) -> None:
        number = 0
        while not self._closing.is_set() and number < len(self.script):
            self._attend()
            if self.belief.paused:
                time.sleep(0.05)
                continue
            answer = self._ask(self.script[number])
            if answer is None:
                return
            if answer.answer != "withdrawn":
                number += 1

    def _ask(self, action: Action) -> Answer | None:
        step, revision = self.belief.steps, self.belief.revision
        told = {
            "step": step,
            "action": action_name(action),
            "target": action_target(action),
            "details": action_details(action),
        }
        cost = 0.0 if isinstance(action, Tilt) else 0.02
        entry = self.night.journal.append(
            Proposed(**told, reason="off axis", cost_e_per_A2=cost, state_revision=revision)
        )
        target = self.belief.find("R1")
        proposal = Proposal(
            step,
            action,
            "off axis",
            cost,
            revision,
            entry.hash,
            error_mrad(target),
            confidence(target),
        )
        waiting: list[Answer] = []
        asking = threading.Thread(
            target=lambda: waiting.append(self.desk.ask(proposal, self.wait_s)), daemon=True
        )
        asking.start()
        while asking.is_alive():
            asking.join(0.05)
            if self._closing.is_set():
                return None
        answer = waiting[0]
        self.done.append((action_name(action), answer))
        kind = "hold" if answer.answer == "silence" else answer.answer
        self.night.say(
            Answered(
                **told, answer=kind, by=answer.by, reason=answer.reason, edited=dict(answer.changes)
            )
        )
        if answer.answer in ("approve", "edit"):
            self._carry_out(action, answer)
        return answer

    def _carry_out(self, action: Action, answer: Answer) -> None:
        self._closing.wait(self.step_s)
        self.night.step = self.belief.steps
        match action:
            case Tilt():
                alpha = answer.changes.get("alpha_deg", action.alpha_deg)
                self.night.tilt("R1", alpha, answer.changes.get("beta_deg", action.beta_deg))
            case MeasurePattern():
                self.night.pattern("R1", 0.05, pose())
            case _:
                self.night.begin(action_name(action), action_target(action), "as approved")
                self.night.end()


class Hardware:
    """The doors of a hardware server: telemetry five times a second, and STOP."""

    def __init__(self, url: str, *, frames_hz: float = 0.0, size: int = 512) -> None:
        self.url = url
        self.stops_s: list[float] = []
        self.deaf = False
        """Does not answer a STOP."""
        self.blanked = True
        self._frames_hz = frames_hz
        self._size = size
        self._closing = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        ends = Endpoints.of(url)
        self._publisher = Publisher(ends.telemetry, context=self._context)
        self._door = Responder(ends.safety, self._on_stop, context=self._context)
        self._threads = [threading.Thread(target=work, daemon=True) for work in self._work()]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._door.close()
        self._publisher.close()
        self._context.term()

    def _work(self) -> list[Callable[[], None]]:
        return [self._status, *([self._frames] if self._frames_hz else [])]

    def _on_stop(self, asked: Asked) -> None:
        if self.deaf:
            return
        self.blanked = True
        self.stops_s.append(time.time())
        asked.answer(None)

    def _status(self) -> None:
        while not self._closing.wait(0.2):
            good = {"condition": "good"}
            self._publisher.publish(
                "status",
                {
                    "service": {"busy": "", "lease": None, "safe_hold": ""},
                    "pose": pose().model_dump(mode="json"),
                    "health": {"valve_open": good, "vacuum_ready": good},
                    "blanked": self.blanked,
                },
            )

    def _frames(self) -> None:
        rng = np.random.default_rng(3)
        rows, cols = np.indices((self._size, self._size))
        mean = 40.0 * np.exp(-((rows - 250) ** 2 + (cols - 260) ** 2) / 9000.0)
        pictures = [rng.poisson(mean).astype(np.uint16) for _ in range(5)]
        number, due_s = 0, time.monotonic()
        while not self._closing.is_set():
            number += 1
            frame = Frame(
                exposure_id=UUID(int=number),
                sequence=number,
                data=pictures[number % 5],
                gain=1.0,
                offset=0.0,
                exposure_s=0.1,
                utc=_utc_now(),
                pose=pose(),
                optics=optics(Mode.DIFFRACTION),
                charged_e_per_A2=0.001,
            )
            self._publisher.publish("frame", *picture_out(frame))
            due_s += 1.0 / self._frames_hz
            self._closing.wait(max(0.0, due_s - time.monotonic()))


def _utc_now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat()


def steps(n: int) -> list[Action]:
    """Moves and patterns by turns."""
    moves: list[Action] = [tilt(1.0 + 0.1 * k, -0.5) for k in range(n)]
    return [MeasurePattern("R1", 0.01, 250.0, 1) if k % 2 else moves[k] for k in range(n)]
