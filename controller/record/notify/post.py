"""The post office: takes notices from the journal, sends them from a thread of its own.

The loop never waits for it: a mail relay, a name server or a webhook that hangs costs nobody a
second.  The same cause is told once in half an hour, and no more than a few notices an hour go out;
what was held back is counted in the next one.  What is urgent and not acknowledged goes to a second
address.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controller.plan.notifications import NotificationPlan
from controller.record.events import Answered, Proposed, StepStarted
from controller.record.journal import Entry
from controller.record.notify.channels import Channel, channels_of
from controller.record.notify.rules import (
    Notice,
    Severity,
    notice_of,
    unacknowledged,
    waiting,
)

log = logging.getLogger("lodestem.notify")

SAME_CAUSE_S = 1800.0
FAREWELL_S = 60.0
"""Longest that the end of a run waits for its notices."""
_MARGIN_S = 1.0
LOOK_S = 0.5
NOTICES_FILE = "notices.jsonl"
ACKNOWLEDGED_FILE = "acknowledged"


def acknowledge(run_dir: Path, who: str) -> None:
    """Somebody has seen what was told so far: nothing of it is escalated."""
    (run_dir / ACKNOWLEDGED_FILE).write_text(
        json.dumps({"who": who, "utc": datetime.now(UTC).isoformat()}) + "\n", encoding="utf-8"
    )


@dataclass
class _Told:
    """When what was told."""

    by_cause: dict[str, float] = field(default_factory=dict)
    sent: deque[float] = field(default_factory=deque)
    held_back: int = 0
    urgent: list[tuple[float, Notice]] = field(default_factory=list)
    waiting: dict[int, tuple[float, Proposed]] = field(default_factory=dict)
    notes_sent: int = 0


class PostOffice:
    """Listens to a journal; a context manager that sends what waits at its end.

    Parameters
    ----------
    plan
        Channels and rules.
    run, run_dir
        Name of the run; its folder gets ``notices.jsonl``: what was sent, by what, and what failed.
    channels
        Instead of the plan's, for tests.
    now_s
        Monotonic seconds.
    """

    def __init__(
        self,
        plan: NotificationPlan,
        run: str,
        run_dir: Path,
        *,
        channels: Sequence[Channel] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._run = run
        self._run_dir = run_dir
        self._channels = channels_of(plan) if channels is None else tuple(channels)
        self._now_s = now_s
        self._begun_s = now_s()
        self._told = _Told()
        self._lock = threading.Lock()
        self._box: deque[tuple[Notice, bool]] = deque()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._last = "nothing yet"
        self._thread = threading.Thread(target=self._serve, name="lodestem post", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, entry: Entry) -> None:
        """One more entry of the journal; returns at once."""
        event = entry.event
        with self._lock:
            if isinstance(event, Proposed):
                self._told.waiting[event.step] = (self._now_s(), event)
            elif isinstance(event, Answered):
                self._told.waiting.pop(event.step, None)
            elif isinstance(event, StepStarted):
                where = f"{event.target} " if event.target else ""
                self._last = f"{where}{event.action}"
        notice = notice_of(event)
        if notice is not None:
            self.tell(notice)

    def tell(self, notice: Notice) -> bool:
        """Put a notice in the box; False if it was held back."""
        now_s = self._now_s()
        with self._lock:
            told = self._told
            while told.sent and now_s - told.sent[0] > 3600:
                told.sent.popleft()
            since_s = now_s - told.by_cause.get(notice.cause, -float("inf"))
            full = len(told.sent) >= self._plan.most_per_hour and notice.severity < Severity.FAULT
            if since_s < SAME_CAUSE_S or full:
                told.held_back += 1
                return False
            told.by_cause[notice.cause] = now_s
            told.sent.append(now_s)
            if told.held_back:
                more = f"\n{told.held_back} further notices were held back; see the journal."
                notice = replace(notice, body=notice.body + more)
                told.held_back = 0
            if notice.is_urgent:
                told.urgent.append((now_s, notice))
            self._box.append((notice, False))
        self._work.set()
        return True

    def close(self) -> None:
        """Send what waits, as long as the channels' deadlines allow, at most `FAREWELL_S`.

        What could not be sent by then is noted as unsent.  Idempotent.
        """
        self._closing.set()
        self._work.set()
        sends = (len(self._box) + 1) * len(self._channels)
        self._thread.join(timeout=min(FAREWELL_S, sends * self._plan.timeout_s + _MARGIN_S))
        while (waiting_yet := self._next()) is not None:
            for channel in self._channels:
                self._note(waiting_yet[0], channel.name, "the run ended before its turn", 0.0)

    def _next(self) -> tuple[Notice, bool] | None:
        try:
            return self._box.popleft()
        except IndexError:
            return None

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._work.wait(LOOK_S)
            self._work.clear()
            self._look()
            self._empty()
        self._empty()

    def _look(self) -> None:
        """What time brings: approvals that wait, notes that are due, urgent ones unseen."""
        now_s = self._now_s()
        for step, (since_s, proposal) in list(self._told.waiting.items()):
            if now_s - since_s > 60 * self._plan.approval_waits_min:
                with self._lock:
                    self._told.waiting.pop(step, None)
                self.tell(waiting(proposal, (now_s - since_s) / 60))
        hours = (now_s - self._begun_s) / 3600
        due = sum(hours >= h for h in self._plan.still_well_h)
        if due > self._told.notes_sent:
            self._told.notes_sent = due
            self.tell(
                Notice(
                    Severity.INFO,
                    f"still well {due}",
                    f"still well after {hours:.1f} h",
                    f"At work on: {self._last}.",
                )
            )
        self._escalate(now_s)

    def _escalate(self, now_s: float) -> None:
        seen = self._acknowledged_s(now_s)
        for since_s, notice in list(self._told.urgent):
            if seen is not None and seen >= since_s:
                self._told.urgent.remove((since_s, notice))
            elif now_s - since_s > 60 * self._plan.escalate_after_min:
                self._told.urgent.remove((since_s, notice))
                self._box.append((unacknowledged(notice, (now_s - since_s) / 60), True))

    def _acknowledged_s(self, now_s: float) -> float | None:
        """When somebody last acknowledged, on the monotonic clock."""
        try:
            age_s = time.time() - (self._run_dir / ACKNOWLEDGED_FILE).stat().st_mtime
        except OSError:
            return None
        return now_s - age_s

    def _empty(self) -> None:
        while (item := self._next()) is not None:
            notice, escalated = item
            for channel in self._channels:
                began_s = self._now_s()
                problem = ""
                try:
                    channel.send(notice, self._run, escalated)
                except Exception as error:  # noqa: BLE001  (the night goes on)
                    log.warning("notice by %s failed: %s", channel.name, error)
                    problem = f"{type(error).__name__}: {error}"
                self._note(notice, channel.name, problem, self._now_s() - began_s)

    def _note(self, notice: Notice, channel: str, problem: str, took_s: float) -> None:
        line: dict[str, Any] = {
            "utc": datetime.now(UTC).isoformat(),
            "severity": notice.severity.name,
            "cause": notice.cause,
            "subject": notice.subject,
            "channel": channel,
            "sent": not problem,
            "problem": problem,
            "took_s": round(took_s, 3),
        }
        try:
            with (self._run_dir / NOTICES_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            log.exception("a notice could not be noted")
