"""The agent loop: observe, decide, ask, act, record.  The only place where decisions act.

Each turn asks the policy, asks a person where the mode wants it, carries the action out and
folds what happened into the belief.  Errors of the instrument become faults with a recovery;
whatever else goes wrong, the beam is blanked and the journal says how the run ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from controller.decision.actions import (
    AcquireScan,
    Action,
    Decision,
    EndRun,
    EndTarget,
    WaitFor,
    WaitForResults,
    action_details,
    action_name,
    action_target,
    edited,
)
from controller.decision.approval import Answer, Approver, Proposal, must_ask
from controller.decision.belief import Belief, update
from controller.decision.forecast import cost_e_per_A2
from controller.decision.knowledge import confidence, error_mrad
from controller.decision.pipeline import Order, Workshop
from controller.decision.policy import decide
from controller.decision.queue import attend
from controller.decision.recovery import Answer as RecoveryAnswer
from controller.decision.recovery import Recovery, fitting_fluence, recover, with_less
from controller.decision.rig import Rig
from controller.decision.steps import perform
from controller.decision.steps.scan import folder_of, reconstructed
from controller.hardware.errors import MicroscopeError, StorageError
from controller.plan.run import RunMode
from controller.record.events import (
    STOPPED_BY_PERSON,
    Answered,
    Event,
    Fault,
    Proposed,
    RunEnded,
    StepEnded,
    StepStarted,
)
from controller.record.inbox import Inbox
from controller.record.journal import Entry, Journal

log = logging.getLogger("lodestem")

MAX_STEPS = 100_000
"""A run that takes more steps than this does not converge; it is held."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    ended: RunEnded
    belief: Belief


class AgentLoop:
    """Drives one run.

    Parameters
    ----------
    rig
        What steps may touch; its ``emit`` must be this loop's journal (see :func:`make_loop`).
    belief
        Folded from the journal so far; holds at least ``run_started``.
    used_s
        Time that earlier sessions of this run took.
    inbox
        Where people ask for changes of the queue; looked at before every step.
    workshop
        Where scans are reconstructed beside the night, where the plan wants that.
    """

    def __init__(
        self,
        rig: Rig,
        journal: Journal,
        belief: Belief,
        *,
        mode: RunMode,
        approver: Approver,
        used_s: float = 0.0,
        inbox: Inbox | None = None,
        workshop: Workshop | None = None,
    ) -> None:
        self._rig = rig
        self._journal = journal
        self._belief = belief
        self._mode = mode
        self._approver = approver
        self._inbox = inbox
        self._workshop = workshop
        self._start_s = rig.microscope.clock.now_s() - used_s
        journal.listen(self._fold)

    @property
    def belief(self) -> Belief:
        """What is known now."""
        return self._belief

    def run(self, *, keep_going: Callable[[], bool] = lambda: True) -> RunResult:
        """Decide and act until the run ends.

        Parameters
        ----------
        keep_going
            Asked before every step; False ends the run after the present step, as a person's
            "finish and stop" does.

        Raises
        ------
        KeyboardInterrupt
            After blanking, halting and recording it.
        """
        try:
            ended = self._turns(keep_going)
        except KeyboardInterrupt:
            self._finish(EndRun("stopped", "stopped by a person (interrupt)"))
            raise
        except StorageError as error:  # not even the journal can be written
            ended = self._finish(EndRun("held", str(error)))
        except BaseException as error:
            self._finish(EndRun("fault", f"{type(error).__name__}: {error}"))
            raise
        return RunResult(ended, self._belief)

    def _turns(self, keep_going: Callable[[], bool]) -> RunEnded:
        while True:
            if not keep_going():
                return self._finish(EndRun("stopped", "asked to finish"))
            if self._inbox is not None and attend(self._inbox, self._belief, self._rig):
                continue
            self._look_after_workshop()
            if self._belief.steps >= MAX_STEPS:
                return self._finish(EndRun("held", f"no end after {MAX_STEPS} steps"))
            clock_s = self._rig.microscope.clock.now_s() - self._start_s
            decision = decide(self._rig.plan, self._belief, clock_s)
            if isinstance(decision.action, EndRun):
                return self._finish(decision.action)
            self._turn(decision)

    def _look_after_workshop(self) -> None:
        """Journal what has come; see that every scan that was handed over is worked on."""
        if self._workshop is None:
            return
        for order, reading in self._workshop.collect():
            self._emit(reconstructed(order.target, reading))
        for target in self._belief.waiting:
            if target.scan is not None and target.reconstruction is None:
                self._workshop.order(
                    Order(
                        target.name,
                        self._rig.run_dir / target.scan.path,
                        self._rig.run_dir / folder_of(target.name),
                        self._rig.plan.scan.defocus_nm,
                    )
                )

    def _turn(self, decision: Decision) -> None:
        step = self._belief.steps
        action: Action | None = decision.action
        if self._mode is RunMode.SUPERVISED and must_ask(decision.action):
            action = self._ask(step, decision)
        if action is None:
            return
        if isinstance(action, WaitFor | WaitForResults):  # hours of waiting are no steps
            if self._workshop is not None and isinstance(action, WaitForResults):
                self._workshop.wait(action.duration_s)
            self._rig.microscope.clock.sleep(action.duration_s)
            return
        self._carry_out(step, action, decision.reason)

    def _ask(self, step: int, decision: Decision) -> Action | None:
        """The action as approved or edited, or None when it was not approved."""
        action = decision.action
        revision = self._belief.revision
        cost = cost_e_per_A2(self._rig.plan, action)
        entry = self._journal.append(
            Proposed(
                step=step,
                action=action_name(action),
                target=action_target(action),
                details=action_details(action),
                reason=decision.reason,
                cost_e_per_A2=cost,
                state_revision=revision,
            )
        )
        target = self._belief.find(action_target(action))
        proposal = Proposal(
            step=step,
            action=action,
            reason=decision.reason,
            cost_e_per_A2=cost,
            state_revision=revision,
            id=entry.hash,
            error_mrad=error_mrad(target),
            confidence=confidence(target),
        )
        answer = self._approver.ask(proposal, self._rig.plan.approval.wait_s)
        changed = action
        if answer.answer == "edit":
            try:
                changed = edited(action, dict(answer.changes))
            except ValueError as error:
                answer = Answer("reject", by=answer.by, reason=f"the edit was refused: {error}")
        silent = self._rig.plan.approval.on_silence
        self._emit(
            Answered(
                step=step,
                action=action_name(action),
                target=action_target(action),
                details=action_details(action),
                answer=silent if answer.answer == "silence" else answer.answer,
                by=answer.by,
                reason=answer.reason,
                edited=dict(answer.changes),
            )
        )
        return changed if answer.answer in ("approve", "edit") else None

    def _carry_out(self, step: int, action: Action, reason: str) -> None:
        self._emit(
            StepStarted(
                step=step,
                action=action_name(action),
                target=action_target(action),
                details=action_details(action),
                reason=reason,
                at_s=round(self._rig.microscope.clock.now_s() - self._start_s, 3),
            )
        )
        try:
            perform(action, self._belief, self._rig)
        except MicroscopeError as error:
            self._handle(action, error)
            self._emit(StepEnded(step=step, ok=False))
        else:
            self._emit(StepEnded(step=step, ok=True))

    def _handle(self, action: Action, error: MicroscopeError) -> None:
        target = action_target(action)
        plan = self._rig.plan
        recovery = recover(error, self._belief, target, plan.recovery)
        fits = None
        if isinstance(action, AcquireScan) and "DoseLimit" not in plan.recovery:
            fits = fitting_fluence(error, action.fluence_e_per_A2)
            least = plan.scan.least_share * plan.scan.fluence_e_per_A2
            already = self._belief.target(action.target).fits_e_per_A2 is not None
            recovery = (None if already else with_less(error, fits, least)) or recovery
        if self._inbox is not None and self._inbox.is_stopped():
            # whatever broke off, a person broke it off: the run waits, the crystal is kept
            recovery = Recovery(RecoveryAnswer.RETRY, 0.0, f"{STOPPED_BY_PERSON}: wait for them")
        self._emit(
            Fault(
                error=error.code,
                message=str(error),
                action=action_name(action),
                target=target,
                beam_state=error.beam_state.value,
                dose_state=error.dose_state.value,
                handled=recovery.reason,
                fits_e_per_A2=fits,
            )
        )
        if recovery.answer is RecoveryAnswer.SKIP_TARGET and target is not None:
            reason = f"{error.code}: {error}"
            ending = EndTarget(target, "skipped" if _is_refusal(error) else "failed", reason)
            perform(ending, self._belief, self._rig)
        elif recovery.answer is RecoveryAnswer.WAIT:
            perform(WaitFor(recovery.wait_s, error.code), self._belief, self._rig)

    def _finish(self, end: EndRun) -> RunEnded:
        blanked, reason = False, end.reason
        try:
            self._rig.microscope.stop(f"end of run: {end.reason}")
            blanked = self._rig.microscope.blank("end of run").blanked
        except MicroscopeError as problem:
            reason = f"{reason}; the instrument did not answer: {problem}"
        ended = RunEnded.model_validate(
            {"outcome": end.outcome, "reason": reason, "beam_blanked": blanked}
        )
        try:
            self._emit(ended)
        except StorageError:
            log.exception("the end of the run could not be journaled; %s", reason)
        return ended

    def _emit(self, event: Event) -> None:
        self._journal.append(event)

    def _fold(self, entry: Entry) -> None:
        self._belief = update(self._belief, entry.event)


def _is_refusal(error: MicroscopeError) -> bool:
    return error.dose_state.value == "none"
