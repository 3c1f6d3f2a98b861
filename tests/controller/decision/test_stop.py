"""STOP by a person: what broke off is no fault of the crystal's, and the run waits for people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.decision.actions import EndRun, Tilt, WaitFor
from controller.decision.approval import Unattended
from controller.decision.belief import Belief, fold
from controller.decision.loop import AgentLoop
from controller.decision.policy import _asked_by_people
from controller.decision.rig import Rig
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import StoppedByOtherError
from controller.plan.run import RunMode
from controller.record.events import Answered, Fault, Pick, QueueChanged, StepStarted, TargetsChosen
from controller.record.inbox import Inbox, QueueRequest, send
from controller.record.journal import Journal, read_journal
from controller.record.notify.rules import notice_of

TILT = Tilt("T01", 1.0, 2.0, 0.0, 0.0, 0.02, 0.0, 0.0)


def belief() -> Belief:
    pick = Pick(
        x_um=0.0, y_um=0.0, radius_nm=9, score=0.5, diameter_nm=20, frame="f", x_px=1, y_px=1
    )
    return fold(
        [
            TargetsChosen(targets={"T01": pick}),
            StepStarted(step=0, action="Visit", target="T01", details={}, reason=""),
        ]
    )


@pytest.mark.parametrize("pressed", [True, False])
def test_a_step_that_a_person_stopped_keeps_its_crystal(tmp_path: Path, pressed: bool) -> None:
    clock = VirtualClock()
    plan: Any = SimpleNamespace(recovery={})
    with Journal(tmp_path / "journal.jsonl", clock) as journal:
        rig = cast(
            Rig, SimpleNamespace(microscope=SimpleNamespace(clock=clock), plan=plan, emit=None)
        )
        inbox = Inbox(tmp_path)
        loop = AgentLoop(
            rig, journal, belief(), mode=RunMode.SUPERVISED, approver=Unattended(), inbox=inbox
        )
        if pressed:
            send(tmp_path, QueueRequest(what="stop", by="Ann"))
        loop._handle(TILT, StoppedByOtherError("the move was stopped"))
    (fault,) = [e.event for e in read_journal(tmp_path / "journal.jsonl")]
    assert isinstance(fault, Fault)
    assert (loop.belief.held == "") is pressed
    assert fault.handled.startswith("STOP by a person" if pressed else "hold")
    # nobody is told of what somebody did on purpose
    assert (notice_of(fault) is None) is pressed


def test_after_stop_the_run_waits_until_somebody_goes_on_or_ends_it() -> None:
    stopped = fold([QueueChanged(what="stop", by="Ann")], belief())
    waits = _asked_by_people(stopped)
    assert waits is not None
    assert isinstance(waits.action, WaitFor)
    assert "STOP: Ann" in waits.reason
    assert _asked_by_people(fold([QueueChanged(what="go_on", by="Ann")], stopped)) is None
    ends = _asked_by_people(fold([QueueChanged(what="finish", by="Ann")], stopped))
    assert ends is not None
    assert isinstance(ends.action, EndRun)
    assert ends.action.outcome == "stopped"


def test_a_proposal_that_was_withdrawn_leaves_no_mark_on_the_crystal() -> None:
    before = belief()
    fields: dict[str, Any] = {"step": 1, "action": "Tilt", "target": "T01", "by": "queue"}
    after = fold([Answered(**fields, answer="withdrawn")], before)
    assert after.target("T01") == before.target("T01")
    assert after.steps == 2
    rejected = fold([Answered(**fields, answer="reject")], before)
    assert rejected.target("T01").rejected
