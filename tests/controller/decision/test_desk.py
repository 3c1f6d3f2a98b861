"""An answer counts only for what was seen, from whoever drives; silence is never a yes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.decision.actions import AcquireScan, FindHeight, Tilt
from controller.decision.approval import Answer, Proposal
from controller.decision.delegation import Delegation, Envelope
from controller.decision.desk import ARMED_AFTER_S, Desk
from controller.decision.operator_lease import ORPHANED_AFTER_S
from controller.hardware.values import Axis, StageLimits
from controller.record.desk import (
    Delegated,
    DeskError,
    LeaseWanted,
    Said,
    Who,
    ask,
    read_state,
)
from controller.record.inbox import Inbox, QueueRequest, send

ANN = Who(session="session-ann", name="Ann", role="operator")
BOB = Who(session="session-bob", name="Bob", role="operator")
ENVELOPE = {"moves": 2, "until_error_mrad": 1, "at_most_e_per_A2": 1, "largest_move_deg": 2}


def proposal(number: int = 0, alpha_deg: float = 1.0, **fields: Any) -> Proposal:
    move = Tilt("T01", alpha_deg, 0.5, 0.0, 0.0, 0.02, 0.0, 0.0)
    known = {"cost_e_per_A2": 0.1, "error_mrad": 4.1, "confidence": 0.9}
    return Proposal(
        number, move, "off axis", state_revision=7, id=f"{number:064x}", **known | fields
    )


class Stand:
    """A desk with its clock in the hand of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.t_s = 100.0
        self.stopped: list[str] = []
        self.desk = Desk(folder, stop=self.stopped.append, now_s=lambda: self.t_s)
        limits = StageLimits(ranges={Axis.ALPHA: (-30, 30), Axis.BETA: (-20, 20)})
        self.desk.attach(stop=self.stopped.append, limits=limits)
        self.answers: list[Answer] = []

    def say(self, request: LeaseWanted | Said | Delegated) -> dict[str, Any]:
        return ask(self.folder, request, sleep=lambda s: (self.desk.look(), time.sleep(s))[1])

    def drive(self, who: Who = ANN) -> int:
        return int(self.say(LeaseWanted(what="ask", who=who))["epoch"])

    def open(self, asked: Proposal, wait_s: float = 600.0) -> threading.Thread:
        thread = threading.Thread(target=lambda: self.answers.append(self.desk.ask(asked, wait_s)))
        thread.start()
        while self.desk._open is None and thread.is_alive():
            time.sleep(0.001)
        self.t_s += 2 * ARMED_AFTER_S
        return thread

    def said(self, epoch: int, number: int = 0, **fields: Any) -> Said:
        known = {"answer": "approve", "state_revision": 7, "who": ANN}
        return Said(epoch=epoch, proposal=f"{number:064x}", **known | fields)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_the_driver_approves_what_was_seen(stand: Stand) -> None:
    epoch = stand.drive()
    thread = stand.open(proposal())
    stand.desk.look()
    state = read_state(stand.folder)
    assert state is not None
    assert (state["proposal"]["id"], state["lease"]["holder"]["name"]) == (f"{0:064x}", "Ann")
    stand.say(stand.said(epoch))
    thread.join()
    assert stand.answers == [Answer("approve", by="Ann")]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"number": 3}, "not the proposal that was seen"),
        ({"state_revision": 6}, r"state has changed since \(revision 7, seen 6\)"),
        ({"who": BOB}, "Ann drives now"),
        ({"epoch": 0}, "this page does not"),
        ({"answer": "edit", "changes": {"alpha_deg": 31.0}}, "alpha"),
        ({"answer": "edit", "changes": {"x_um": 1.0}}, "cannot be edited"),
        ({"answer": "edit"}, "without a change"),
    ],
)
def test_whatever_is_stale_foreign_or_beyond_a_limit_is_refused(
    stand: Stand, fields: dict[str, Any], why: str
) -> None:
    epoch = stand.drive()
    thread = stand.open(proposal())
    with pytest.raises(DeskError, match=why):
        stand.say(stand.said(**{"epoch": epoch} | fields))
    stand.say(stand.said(epoch, answer="reject", reason="wrong circle"))
    thread.join()
    assert [a.answer for a in stand.answers] == ["reject"]


def test_nothing_is_approved_in_the_moment_it_appears(stand: Stand) -> None:
    epoch = stand.drive()
    thread = stand.open(proposal())
    stand.t_s -= 2 * ARMED_AFTER_S
    with pytest.raises(DeskError, match="only just appeared"):
        stand.say(stand.said(epoch))
    stand.t_s += 1000.0
    thread.join()
    assert stand.answers[0].answer == "silence"
    with pytest.raises(DeskError, match="silent for too long"):
        stand.say(stand.said(epoch))


def test_no_can_be_said_in_the_moment_it_appears(stand: Stand) -> None:
    epoch = stand.drive()
    thread = stand.open(proposal())
    stand.t_s -= 2 * ARMED_AFTER_S
    stand.say(stand.said(epoch, answer="reject", reason="no"))
    thread.join()
    assert stand.answers[0].answer == "reject"


def test_a_change_of_the_queue_or_a_stop_withdraws_the_proposal(stand: Stand) -> None:
    thread = stand.open(proposal())
    send(stand.folder, QueueRequest(what="stop", by="Eve"))
    thread.join()
    assert stand.answers[0].answer == "withdrawn"


def test_a_delegation_counts_down_and_a_breach_goes_back_to_the_person(stand: Stand) -> None:
    epoch = stand.drive()
    thread = stand.open(proposal())
    wanted = Delegated(
        who=ANN, epoch=epoch, proposal=f"{0:064x}", state_revision=7, envelope=ENVELOPE
    )
    stand.say(wanted)
    thread.join()
    assert stand.desk.ask(proposal(1), 1.0).reason == "0 of 2 moves and 0.8 e/Å² left"
    thread = stand.open(proposal(2))
    stand.desk.look()
    state = read_state(stand.folder)
    assert state is not None
    assert state["delegation"] is None
    assert state["proposal"]["returned"] == "the 2 moves are used up"
    stand.say(stand.said(epoch, number=2))
    thread.join()
    assert [a.by for a in stand.answers] == ["Ann (delegated)", "Ann"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (proposal(alpha_deg=2.5), r"a move of 2.50°, at most 2.00°"),
        (proposal(cost_e_per_A2=1.5), "bring the dose to 1.5"),
        (proposal(cost_e_per_A2=float("nan")), "bring the dose to nan"),
        (proposal(error_mrad=0.5), r"done: 0.50 mrad"),
        (proposal(confidence=0.1), "confidence 0.10"),
        (Proposal(0, AcquireScan("T01", 0.1, 0.0), "", 0.1, 7), "a scan is never delegated"),
        (Proposal(0, FindHeight("T01", -5.0, 5.0, 1), "", 0.1, 7), "a move of 10.00°"),
    ],
)
def test_what_lies_outside_the_envelope_is_named(asked: Proposal, why: str) -> None:
    envelope = Envelope(**ENVELOPE | {"least_confidence": 0.5})
    assert Delegation(envelope, "Ann").breach(proposal()) is None
    breach = Delegation(envelope, "Ann").breach(asked)
    assert breach is not None
    assert why.replace(r"\.", ".") in breach


def test_a_driver_who_falls_silent_while_a_step_is_under_way_stops_it(stand: Stand) -> None:
    stand.drive()
    stand.t_s += ORPHANED_AFTER_S + 0.1
    stand.desk.look()
    stand.desk.look()
    assert stand.stopped == ["the page of Ann, who drives, has fallen silent"]
    assert Inbox(stand.folder).is_stopped()


def test_a_driver_who_falls_silent_while_the_run_waits_changes_nothing(stand: Stand) -> None:
    stand.drive()
    thread = stand.open(proposal(), wait_s=60.0)
    stand.t_s += ORPHANED_AFTER_S
    stand.desk.look()
    assert stand.stopped == []
    stand.t_s += 60.0
    thread.join()
    assert stand.answers[0].answer == "silence"


def test_a_viewer_cannot_even_be_written_down() -> None:
    with pytest.raises(ValidationError):
        Who.model_validate({"session": "session-eve", "name": "Eve", "role": "viewer"})


def test_a_run_that_does_not_answer_is_said_to_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(DeskError, match="did not answer") as caught:
        ask(tmp_path, LeaseWanted(what="ask", who=ANN), timeout_s=0.02)
    assert not caught.value.answered
    assert not list((tmp_path / "desk" / "in").iterdir())
