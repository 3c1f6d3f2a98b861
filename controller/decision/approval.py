"""Who may say yes: the interface between the loop and the person who supervises it.

The loop proposes, an :class:`Approver` answers.  A terminal, a web console and a test are
approvers; unattended runs use :class:`Unattended`, which the plan's limits and the guard bind.
Silence is never a yes: the plan says whether the run then holds or skips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from controller.decision.actions import (
    NEEDS_APPROVAL,
    Action,
    action_details,
    action_name,
    action_target,
)


@dataclass(frozen=True)
class Proposal:
    """What is proposed, why, and what it will cost; bound to the state that was seen."""

    step: int
    action: Action
    reason: str
    cost_e_per_A2: float
    """Upper bound of the fluence on the specimen that this step implies: of a move, that of the
    picture in which the crystal is found again."""
    state_revision: int
    id: str = ""
    """Hash of the journal's line: by the chain it names pictures, fits and state as they were."""
    error_mrad: float | None = None
    """Angle between zone axis and beam in the newest pattern of this crystal."""
    confidence: float | None = None
    """Probability of its fit against the alternatives; None where there is none."""

    def sentence(self) -> str:
        """One line for a person."""
        fields = ", ".join(f"{k}={_shown(v)}" for k, v in action_details(self.action).items())
        target = action_target(self.action)
        where = f" {target}" if target else ""
        return (
            f"{action_name(self.action)}{where}({fields}): {self.reason}; "
            f"cost {self.cost_e_per_A2:.3g} e/A2"
        )


@dataclass(frozen=True)
class Answer:
    """What was said."""

    answer: Literal["approve", "edit", "reject", "undo", "silence", "withdrawn"]
    """``withdrawn``: the state has changed, the proposal died unanswered and may come again."""
    by: str
    reason: str = ""
    changes: Mapping[str, float] = field(default_factory=dict)


class Approver(Protocol):
    """Somebody who can be asked."""

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        """Wait at most `wait_s` for an answer; ``silence`` when nobody gave one."""


class Unattended:
    """Approves whatever the plan allows; the guard still refuses what the limits forbid."""

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        """Approve."""
        return Answer("approve", by="plan")


def must_ask(action: Action) -> bool:
    """Whether supervised mode proposes this action to a person first."""
    return isinstance(action, NEEDS_APPROVAL)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
