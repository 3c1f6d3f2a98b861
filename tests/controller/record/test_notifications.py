"""Who is told what; and that nobody waits for a channel."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.cli.watch import send_test, watch
from controller.hardware.clock import VirtualClock
from controller.plan.notifications import EmailPlan, NotificationPlan, WebhookPlan
from controller.record.events import Answered, Event, Fault, Proposed, RunEnded, StepStarted
from controller.record.journal import Entry, Journal
from controller.record.notify.channels import Channel, ChannelError, channels_of
from controller.record.notify.post import PostOffice, acknowledge
from controller.record.notify.rules import Notice, Severity, notice_of


def fault(error: str = "ValveClosed", handled: str = "hold (rule)", beam: str = "blanked") -> Fault:
    return Fault(
        error=error, message="it is shut", action="Locate", target="T01", beam_state=beam,
        dose_state="none", handled=handled,
    )  # fmt: skip


def ended(outcome: Any, *, blanked: bool = True) -> RunEnded:
    return RunEnded(outcome=outcome, reason="because", beam_blanked=blanked)


@pytest.mark.parametrize(
    ("event", "severity"),
    [
        (fault(), Severity.FAULT),
        (fault(handled="wait (rule)"), None),
        (fault("TouchAlarm", handled="skip target (rule)"), Severity.MAJOR),
        (fault(handled="retry (rule)", beam="unknown"), Severity.FAULT),
        (ended("completed"), Severity.INFO),
        (ended("stopped"), None),
        (ended("stopped", blanked=False), Severity.FAULT),
        (ended("held"), Severity.FAULT),
        (ended("fault"), Severity.FAULT),
    ],
)
def test_what_is_told(event: Event, severity: Severity | None) -> None:
    notice = notice_of(event)
    assert (None if notice is None else notice.severity) == severity


class Office:
    """A post office with a clock that a test turns and a channel that it reads."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.now_s = 0.0
        self.taken: list[tuple[Notice, bool]] = []
        self.post = PostOffice(
            NotificationPlan(command=("true",), **plan),
            "night",
            folder,
            channels=[Channel("memory", lambda n, run, up: self.taken.append((n, up)))],
            now_s=lambda: self.now_s,
        )

    def hear(self, event: Event) -> None:
        self.post(Entry(1, "", 0.0, event, ""))

    def subjects(self) -> list[str]:
        return [notice.subject for notice, _ in self.taken]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Callable[..., Office]]:
    made: list[Office] = []

    def make(**plan: Any) -> Office:
        made.append(Office(tmp_path, **plan))
        return made[-1]

    yield make
    for one in made:
        one.post.close()


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_same_cause_is_told_once_in_half_an_hour(office: Callable[..., Office]) -> None:
    desk = office(escalate_after_min=1000)
    for minutes in (0, 1, 5, 20, 31):
        desk.now_s = 60.0 * minutes
        desk.hear(fault())
    until(lambda: len(desk.taken) == 2)
    assert "3 further notices were held back" in desk.taken[1][0].body


def test_no_more_than_a_few_an_hour_but_every_fault(office: Callable[..., Office]) -> None:
    desk = office(most_per_hour=3)
    told = [desk.post.tell(Notice(Severity.MINOR, f"c{n}", "x", "")) for n in range(5)]
    assert told == [True] * 3 + [False] * 2
    assert desk.post.tell(Notice(Severity.FAULT, "fault", "x", ""))


def proposal(step: int) -> Proposed:
    return Proposed(
        step=step, action="Tilt", target="T01", details={}, reason="2 deg off", cost_e_per_A2=0.01,
        state_revision=3,
    )  # fmt: skip


def test_an_approval_that_waits_is_told_and_one_that_came_is_not(
    office: Callable[..., Office],
) -> None:
    desk = office(approval_waits_min=10)
    desk.hear(proposal(1))
    desk.hear(Answered(step=1, action="Tilt", target="T01", answer="approve", by="Ann"))
    desk.hear(proposal(2))
    desk.now_s = 601.0
    until(lambda: bool(desk.taken))
    assert desk.subjects() == ["T01: Tilt waits for approval"]
    assert "silence never approves" in desk.taken[0][0].body


def test_a_note_that_all_is_well_comes_at_its_hours(office: Callable[..., Office]) -> None:
    desk = office(still_well_h=(2.0, 4.0))
    desk.hear(StepStarted(step=1, action="Locate", target="T05", details={}, reason=""))
    desk.now_s = 2.1 * 3600
    until(lambda: len(desk.taken) == 1)
    desk.now_s = 4.1 * 3600
    until(lambda: len(desk.taken) == 2)
    assert desk.subjects() == ["still well after 2.1 h", "still well after 4.1 h"]
    assert "T05 Locate" in desk.taken[0][0].body


@pytest.mark.parametrize("seen", [True, False])
def test_what_nobody_acknowledges_is_escalated(
    office: Callable[..., Office], tmp_path: Path, seen: bool
) -> None:
    desk = office(escalate_after_min=15)
    desk.hear(fault())
    until(lambda: len(desk.taken) == 1)
    if seen:
        acknowledge(tmp_path, "Ann")
        stamp = time.time() + 1
        os.utime(tmp_path / "acknowledged", (stamp, stamp))
        time.sleep(1.2)
    desk.now_s = 901.0
    time.sleep(1.2)
    escalated = [notice for notice, up in desk.taken if up]
    assert len(escalated) == (0 if seen else 1)


def test_a_channel_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, never answers
        email = EmailPlan(host="127.0.0.1", port=mute.getsockname()[1], sender="a@b", to=("c@d",))
        plan = NotificationPlan(email=email, timeout_s=1.5)
        with (
            Journal(tmp_path / "journal.jsonl", VirtualClock()) as journal,
            PostOffice(plan, "night", tmp_path) as post,
        ):
            journal.listen(post)
            began_s = time.monotonic()
            for _ in range(50):
                journal.append(fault())
            journal.append(ended("held"))
            assert time.monotonic() - began_s < 2.5, "the loop waited for the channel"
    notes = [json.loads(line) for line in (tmp_path / "notices.jsonl").read_text().splitlines()]
    assert [note["sent"] for note in notes] == [False, False]
    assert all(note["took_s"] < 5.0 for note in notes)


def test_what_the_end_of_a_run_could_not_send_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.record.notify.post.FAREWELL_S", 0.2)
    go = threading.Event()
    stuck = Channel("stuck", lambda notice, run, up: go.wait(10) and None)
    plan = NotificationPlan(command=("true",))
    with PostOffice(plan, "night", tmp_path, channels=[stuck]) as post:
        post.tell(Notice(Severity.FAULT, "a", "first", ""))
        until(lambda: not post._box)
        post.tell(Notice(Severity.FAULT, "b", "second", ""))
    notes = [json.loads(line) for line in (tmp_path / "notices.jsonl").read_text().splitlines()]
    assert [(note["subject"], note["sent"]) for note in notes] == [("second", False)]
    assert "ended before its turn" in notes[0]["problem"]
    go.set()


@contextmanager
def smtp() -> Iterator[tuple[int, list[str]]]:
    """A mail relay that speaks just enough of RFC 5321."""
    said: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer, peer.makefile("rwb", buffering=0) as line:
            line.write(b"220 here\r\n")
            in_data = False
            while raw := line.readline():
                text = raw.decode().rstrip("\r\n")
                said.append(text)
                if in_data:
                    if text == ".":
                        in_data = False
                        line.write(b"250 taken\r\n")
                    continue
                if text.upper() == "DATA":
                    in_data = True
                    line.write(b"354 go on\r\n")
                elif text.upper() == "QUIT":
                    line.write(b"221 bye\r\n")
                    return
                else:
                    line.write(b"250 fine\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], said
    server.close()
    thread.join(timeout=5)


def test_mail_goes_out_without_line_breaks_in_its_subject() -> None:
    with smtp() as (port, said):
        email = EmailPlan(host="127.0.0.1", port=port, sender="a@b.org", to=("c@d.org",))
        (channel,) = channels_of(NotificationPlan(email=email))
        channel.send(
            Notice(Severity.FAULT, "x", "shut\r\nBcc: everybody@else.org", "the valve"),
            "night",
            False,
        )
    assert any(line.lower() == "rcpt to:<c@d.org>" for line in said)
    assert any(line.startswith("Subject: [lodestem night] FAULT shut Bcc:") for line in said)
    assert not [line for line in said if line.startswith("Bcc:")]
    assert "the valve" in said


def test_a_webhook_gets_json_and_only_inside_the_lan() -> None:
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    outcome = send_test(NotificationPlan(webhook=WebhookPlan(url=url)), "night")
    thread.join(timeout=5)
    server.server_close()
    assert outcome == {"webhook": ""}
    assert got[0]["schema"] == "lodestem/notice/1"
    assert got[0]["severity"] == "INFO"
    (outside,) = channels_of(NotificationPlan(webhook=WebhookPlan(url="http://8.8.8.8/x")))
    with pytest.raises(ChannelError, match="outside the local network"):
        outside.send(Notice(Severity.INFO, "x", "y", "z"), "night", False)


def test_a_command_gets_severity_and_subject(tmp_path: Path) -> None:
    out = tmp_path / "said"
    script = f"import sys, os; open({str(out)!r}, 'w').write(' | '.join(sys.argv[1:]))"
    plan = NotificationPlan(command=(sys.executable, "-c", script))
    assert send_test(plan, "night") == {"command": ""}
    assert out.read_text() == "INFO | a test of the notifications"
    assert "FileNotFoundError" in send_test(NotificationPlan(command=("nowhere",)), "n")["command"]


def test_notes_without_a_channel_are_refused() -> None:
    with pytest.raises(ValidationError, match="no channel"):
        NotificationPlan(still_well_h=(2.0,))


def test_silence_is_noticed_from_outside(tmp_path: Path) -> None:
    told: list[Notice] = []
    with Journal(tmp_path / "journal.jsonl", VirtualClock()) as journal:
        journal.append(fault())
        old = time.time() - 3600
        os.utime(tmp_path / "journal.jsonl", (old, old))
        assert watch(tmp_path, told.append, silent_s=1800, once=True).startswith("silent")
        journal.append(fault())
        assert watch(tmp_path, told.append, silent_s=1800, once=True).startswith("alive")
        journal.append(ended("completed"))
    assert watch(tmp_path, told.append, silent_s=1800).startswith("ended: completed")
    assert [notice.subject for notice in told] == ["no sign of life for 60 min"]
