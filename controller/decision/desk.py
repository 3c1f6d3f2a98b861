"""The desk: where a supervised run asks people in other processes, and they answer.

An :class:`~controller.decision.approval.Approver` that shows its proposal in the run folder, and
takes answers, edits and delegations from files beside it (:mod:`controller.record.desk`).  It keeps
the operator lease.  Whatever does not name the proposal that is open now, the state it was made in
and the present lease is refused, and nothing is approved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from controller.decision.actions import action_details, action_name, action_target, edited
from controller.decision.approval import Answer, Proposal
from controller.decision.delegation import Delegation, Envelope
from controller.decision.operator_lease import LeaseRefusedError, OperatorLease, Person
from controller.hardware.values import PartialPose, StageLimits
from controller.record.desk import Delegated, DeskFiles, DeskRequest, LeaseWanted, Said
from controller.record.inbox import Inbox, QueueRequest, send

LOOK_S = 0.05
PUBLISH_S = 0.5
ARMED_AFTER_S = 0.5
"""Nobody approves what has only just appeared under the hand."""


@dataclass(frozen=True)
class _Open:
    """The proposal that waits."""

    proposal: Proposal
    since_s: float
    wait_s: float
    returned: str
    """Why a delegation did not cover it; empty where there was none."""


class Desk:
    """Asks over files in the run folder; a context manager that serves them meanwhile.

    Parameters
    ----------
    stop
        Blanks and halts: called when the driver's page falls silent while a step is under way.
    now_s
        Monotonic seconds.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        stop: Callable[[str], object] = lambda why: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._files = DeskFiles(run_dir)
        self._inbox = Inbox(run_dir)
        self._stop = stop
        self._now_s = now_s
        self._lease = OperatorLease()
        self._was_orphaned = False
        self._delegation: Delegation | None = None
        self._delegation_ended = ""
        self._open: _Open | None = None
        self._answer: Answer | None = None
        self._limits: StageLimits | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._published_s = -PUBLISH_S
        self._stale = True
        self._thread = threading.Thread(target=self._serve, name="lodestem desk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def attach(self, *, stop: Callable[[str], object], limits: StageLimits) -> None:
        """The instrument is open: how to stop it, and what the stage reaches."""
        self._stop, self._limits = stop, limits

    # --- the run asks -------------------------------------------------------------------------

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        """Wait for a person, or for what a person delegated; the beam is blanked meanwhile."""
        with self._changed:
            delegated = self._by_delegation(proposal)
            if delegated is not None:
                return delegated
            self._open = _Open(proposal, self._now_s(), wait_s, self._delegation_ended)
            self._answer = None
            self._stale = True
            try:
                return self._wait(self._open)
            finally:
                self._open = None
                self._stale = True

    def _by_delegation(self, proposal: Proposal) -> Answer | None:
        delegation = self._delegation
        if delegation is None:
            return None
        why = "the driver's page is silent" if self._lease.is_orphaned(self._now_s()) else None
        why = why or delegation.breach(proposal)
        if why is not None:
            self._end_delegation(why)
            return None
        self._delegation = delegation.used(proposal)
        self._stale = True
        return Answer(
            "approve", by=f"{delegation.by} (delegated)", reason=self._delegation.in_words()
        )

    def _wait(self, open_: _Open) -> Answer:
        while True:
            if self._answer is not None:
                return self._answer
            if self._inbox.waiting():
                return Answer("withdrawn", by="queue", reason="somebody changed the queue")
            if self._now_s() - open_.since_s > open_.wait_s:
                return Answer("silence", by="nobody", reason=f"no answer in {open_.wait_s:g} s")
            self._changed.wait(LOOK_S)

    # --- people ask ---------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing.wait(LOOK_S):
            self.look()
        self._publish(closed=True)

    def look(self) -> None:
        """One round: requests, the lease, the state; called by the desk's own thread."""
        for path, request in self._files.waiting():
            try:
                told = self._attend(request)
            except (LeaseRefusedError, ValueError) as refusal:
                self._files.answer(path, ok=False, why=str(refusal))
            else:
                self._files.answer(path, ok=True, **told)
        self._tick()
        if self._stale or self._now_s() - self._published_s >= PUBLISH_S:
            self._publish()

    def _attend(self, request: DeskRequest | str) -> dict[str, Any]:
        if isinstance(request, str):
            raise ValueError(request)  # noqa: TRY004  (the words of a refusal)
        with self._changed:
            self._stale = True
            match request:
                case LeaseWanted():
                    return self._on_lease(request)
                case Said():
                    return self._on_answer(request)
                case Delegated():
                    return self._on_delegation(request)

    def _on_lease(self, request: LeaseWanted) -> dict[str, Any]:
        who, now_s = _person(request), self._now_s()
        lease = self._lease
        match request.what:
            case "ask":
                after = lease.ask(who, now_s)
            case "seize":
                after = lease.seize(who, request.reason, now_s)
            case "renew":
                after = lease.renew(who.session, request.epoch, now_s)
            case "refuse":
                after = lease.refuse(who.session, request.epoch)
            case "release":
                after = lease.release(who.session, request.epoch, now_s)
        self._hand_over(after)
        holds = after.holder is not None and after.holder.session == who.session
        return {"epoch": after.epoch, "holds": holds, "last": after.last}

    def _hand_over(self, after: OperatorLease) -> None:
        """What one person delegated does not go on under another."""
        if after.epoch != self._lease.epoch and self._delegation is not None:
            self._end_delegation("somebody else drives")
        self._lease = after

    def _on_answer(self, said: Said) -> dict[str, Any]:
        open_ = self._checked(said.who.session, said.epoch, said.proposal, said.state_revision)
        changes = dict(said.changes)
        if said.answer in ("approve", "edit"):
            self._check_armed(open_)
        if said.answer == "edit":
            refusal = edit_refusal(open_.proposal, changes, self._limits)
            if refusal:
                raise ValueError(refusal)
        self._answer = Answer(said.answer, by=said.who.name, reason=said.reason, changes=changes)
        self._changed.notify_all()
        return {}

    def _on_delegation(self, wanted: Delegated) -> dict[str, Any]:
        if wanted.proposal is None:
            self._lease.check(wanted.who.session, wanted.epoch)
            self._end_delegation(f"{wanted.who.name} ended it")
            return {}
        open_ = self._checked(
            wanted.who.session, wanted.epoch, wanted.proposal, wanted.state_revision
        )
        self._check_armed(open_)
        try:
            envelope = Envelope.model_validate(wanted.envelope)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"no such envelope: {wrong}; nothing was delegated") from error
        delegation = Delegation(envelope, wanted.who.name)
        why = delegation.breach(open_.proposal)
        if why is not None:
            raise ValueError(f"this proposal lies outside the envelope: {why}")
        self._delegation, self._delegation_ended = delegation.used(open_.proposal), ""
        self._answer = Answer(
            "approve", by=f"{wanted.who.name} (delegated)", reason=self._delegation.in_words()
        )
        self._changed.notify_all()
        return {}

    def _checked(self, session: str, epoch: int, proposal: str, revision: int) -> _Open:
        """The open proposal, if it is the one that was seen.

        Raises
        ------
        LeaseRefusedError, ValueError
            It is not, or somebody else drives; nothing is approved.
        """
        self._lease.check(session, epoch)
        if self._lease.is_orphaned(self._now_s()):
            raise LeaseRefusedError("this page was silent for too long; take the lease again")
        open_ = self._open
        if open_ is None or self._answer is not None:
            raise ValueError("nothing waits for an answer any more: the state has changed")
        if open_.proposal.id != proposal:
            raise ValueError(
                f"this is not the proposal that was seen: {action_name(open_.proposal.action)} "
                f"of step {open_.proposal.step} is open now; look at it first"
            )
        if open_.proposal.state_revision != revision:
            raise ValueError(
                f"the state has changed since (revision {open_.proposal.state_revision}, seen "
                f"{revision}); look again"
            )
        return open_

    def _check_armed(self, open_: _Open) -> None:
        """Saying no is always possible; a yes takes a look."""
        if self._now_s() - open_.since_s < ARMED_AFTER_S:
            raise ValueError("this proposal has only just appeared; look at it first")

    # --- time ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = self._now_s()
        with self._changed:
            after = self._lease.at(now_s)
            if after is not self._lease:
                self._hand_over(after)
                self._stale = True
            orphaned = self._lease.is_orphaned(now_s)
            fell_silent = orphaned and not self._was_orphaned
            self._was_orphaned = orphaned
            at_work = self._open is None
            if fell_silent:
                self._stale = True
                self._end_delegation("the driver's page is silent")
        if fell_silent and at_work:
            self._blank_and_pause()

    def _blank_and_pause(self) -> None:
        """A dead browser never leaves a supervised beam on."""
        holder = self._lease.holder
        who = "nobody" if holder is None else holder.name
        send(
            self._run_dir,
            QueueRequest(
                what="stop", by="desk", reason=f"the page of {who}, who drives, is silent"
            ),
        )
        self._stop(f"the page of {who}, who drives, has fallen silent")

    def _end_delegation(self, why: str) -> None:
        if self._delegation is not None:
            self._delegation, self._delegation_ended = None, why
            self._stale = True

    def _publish(self, *, closed: bool = False) -> None:
        with self._changed:
            now_s = self._now_s()
            self._published_s, self._stale = now_s, False
            self._files.publish(self._state(now_s, closed))

    def _state(self, now_s: float, closed: bool) -> dict[str, Any]:
        utc = datetime.now(UTC)
        lease, open_, delegation = self._lease, self._open, self._delegation
        return {
            "utc": utc.isoformat(),
            "closed": closed,
            "lease": {
                "epoch": lease.epoch,
                "holder": None if lease.holder is None else vars(lease.holder),
                "orphaned": lease.is_orphaned(now_s),
                "asked_by": None if lease.asked_by is None else vars(lease.asked_by),
                "asked_s": 0.0 if lease.asked_by is None else round(now_s - lease.asked_s, 1),
                "last": lease.last,
            },
            "proposal": None if open_ is None else _shown(open_, utc, now_s),
            "delegation": None
            if delegation is None
            else {
                "by": delegation.by,
                "moves": delegation.moves,
                "spent_e_per_A2": delegation.spent_e_per_A2,
                "envelope": delegation.envelope.model_dump(mode="json"),
                "words": delegation.in_words(),
            },
            "delegation_ended": self._delegation_ended,
        }


def edit_refusal(
    proposal: Proposal, changes: dict[str, float], limits: StageLimits | None
) -> str | None:
    """Why the edited action is not carried out, or None."""
    try:
        action = edited(proposal.action, changes)
    except ValueError as error:
        return str(error)
    if not changes:
        return "an edit without a change; approve it as it is, or change something"
    for name in ("fluence_e_per_A2", "beam_diameter_nm"):
        value = getattr(action, name, 1.0)
        if not value > 0:
            return f"{name} = {value:g} is not positive; give a positive number"
    alpha_deg, beta_deg = getattr(action, "alpha_deg", None), getattr(action, "beta_deg", None)
    if limits is None or alpha_deg is None:
        return None
    return limits.violation(PartialPose(alpha_deg=alpha_deg, beta_deg=beta_deg))


def _shown(open_: _Open, utc: datetime, now_s: float) -> dict[str, Any]:
    proposal = open_.proposal
    waited_s = now_s - open_.since_s
    return {
        "id": proposal.id,
        "step": proposal.step,
        "action": action_name(proposal.action),
        "target": action_target(proposal.action),
        "details": action_details(proposal.action),
        "reason": proposal.reason,
        "cost_e_per_A2": proposal.cost_e_per_A2,
        "state_revision": proposal.state_revision,
        "error_mrad": proposal.error_mrad,
        "confidence": proposal.confidence,
        "returned": open_.returned,
        "since_utc": (utc - timedelta(seconds=waited_s)).isoformat(),
        "until_utc": (utc + timedelta(seconds=open_.wait_s - waited_s)).isoformat(),
    }


def _person(request: LeaseWanted) -> Person:
    return Person(request.who.session, request.who.name, request.who.role)
