"""What people ask of the queue is done between two steps, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from controller.decision.actions import EndRun, WaitFor
from controller.decision.belief import Belief, fold, update
from controller.decision.policy import _asked_by_people
from controller.decision.queue import attend
from controller.decision.rig import Rig
from controller.hardware.values import Calibration, DoseReading, StagePose
from controller.perception.view import View
from controller.record.events import (
    Event,
    Pick,
    QueueChanged,
    RegionsFound,
    StepStarted,
    TargetEnded,
    TargetsChosen,
)
from controller.record.inbox import Inbox, QueueRequest, send


def pick(x_um: float) -> Pick:
    return Pick(
        x_um=x_um, y_um=0.0, radius_nm=100, score=0.5, diameter_nm=200, frame="f", x_px=1, y_px=1
    )


class Run:
    """A run folder with its belief; `ask` sends a request and attends to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.belief = fold(
            [
                RegionsFound(tile=0, frame="f", picks=(), class_fractions={}),
                TargetsChosen(targets={f"T{n:02d}": pick(float(n)) for n in (1, 2, 3)}),
                StepStarted(step=0, action="Visit", target="T01", details={}, reason=""),
            ]
        )
        pose = StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0, beta_deg=0.0)
        view = View((100, 100), 50.0, Calibration(), pose)
        self.rig = cast(
            Rig,
            SimpleNamespace(
                emit=self.emit,
                microscope=SimpleNamespace(dose=lambda x, y: DoseReading()),
                stored_frame=lambda name: (SimpleNamespace(electrons=np.zeros((100, 100))), view),
            ),
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.belief = update(self.belief, event)

    def ask(self, **fields: Any) -> QueueChanged:
        send(self.folder, QueueRequest.model_validate({"by": "Ann", **fields}))
        assert attend(Inbox(self.folder), self.belief, self.rig)
        assert Inbox(self.folder).waiting() == []
        return next(e for e in reversed(self.events) if isinstance(e, QueueChanged))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def order(belief: Belief) -> list[str]:
    return list(belief.targets)


def test_nothing_asked_is_nothing_done(run: Run) -> None:
    assert not attend(Inbox(run.folder), run.belief, run.rig)


def test_the_order_is_changed(run: Run) -> None:
    run.ask(what="first", target="T03")
    assert order(run.belief) == ["T03", "T01", "T02"]
    run.ask(what="last", target="T02")
    assert order(run.belief) == ["T03", "T01", "T02"]
    assert run.belief.active == "T01"


def test_a_queued_crystal_is_skipped_with_its_account_closed(run: Run) -> None:
    run.ask(what="skip", target="T02", reason="a crack")
    assert run.belief.target("T02").status == "skipped"
    (ended,) = [e for e in run.events if isinstance(e, TargetEnded)]
    assert ended.reason == "Ann took it off the queue: a crack"


def test_the_active_one_is_left_by_the_policy(run: Run) -> None:
    run.ask(what="skip", target="T01")
    assert run.belief.target("T01").rejected == "Ann asked for it"
    assert run.belief.target("T01").status == "active"


def test_pause_go_on_and_finish(run: Run) -> None:
    run.ask(what="pause", reason="lunch")
    asked = _asked_by_people(run.belief)
    assert asked is not None
    assert isinstance(asked.action, WaitFor)
    assert "lunch" in asked.reason
    run.ask(what="go_on")
    assert _asked_by_people(run.belief) is None
    run.ask(what="finish")
    assert _asked_by_people(run.belief) is None, "the present crystal first"
    run.emit(
        TargetEnded(
            target="T01", status="done", reason="", dose_before_scan_e_per_A2=0,
            dose_scan_e_per_A2=0,
        )
    )  # fmt: skip
    asked = _asked_by_people(run.belief)
    assert asked is not None
    assert isinstance(asked.action, EndRun)


def test_a_crystal_is_pointed_at_in_a_tile_that_shows_it(run: Run) -> None:
    changed = run.ask(what="add", x_um=1.0, y_um=-0.5)
    assert changed.target == "P01"
    assert order(run.belief) == ["P01", "T01", "T02", "T03"]
    added = run.belief.target("P01")
    assert (added.x_um, added.y_um) == (1.0, -0.5)
    view_px = (added.pick.x_px, added.pick.y_px)
    assert view_px == pytest.approx((69.5, 39.5), abs=1.0)
    far = run.ask(what="add", x_um=50.0, y_um=0.0)
    assert far.what == "refused"
    assert "no tile" in far.reason


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"what": "skip", "target": "T09"}, "no crystal T09; there are T01, T02, T03"),
        ({"what": "first", "target": "T01"}, "being worked on"),
    ],
)
def test_what_cannot_be_done_is_refused(run: Run, fields: dict[str, Any], why: str) -> None:
    before = order(run.belief)
    changed = run.ask(**fields)
    assert changed.what == "refused"
    assert why in changed.reason
    assert order(run.belief) == before


def test_rubbish_in_the_inbox_is_named_and_put_away(run: Run) -> None:
    folder = run.folder / "inbox"
    folder.mkdir()
    (folder / "1.json").write_text("{")
    (folder / "2.json").write_text(json.dumps({"what": "explode", "by": "x"}))
    (folder / "3.json").write_text("x" * 20_000)
    for _ in range(3):
        assert attend(Inbox(run.folder), run.belief, run.rig)
    assert [e.what for e in run.events if isinstance(e, QueueChanged)] == ["refused"] * 3
    assert len(list((folder / "done").iterdir())) == 3


@pytest.mark.parametrize("fields", [{"what": "skip"}, {"what": "add", "x_um": 1.0}])
def test_a_request_says_what_it_is_about(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QueueRequest.model_validate({"by": "Ann", **fields})
