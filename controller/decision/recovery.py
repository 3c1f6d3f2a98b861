"""What to do about a fault: a table from error class and belief to an answer.  Pure.

The most specific class in the table wins.  Every retry is bounded: after `limit` faults of the
same class on one crystal (or in a row, without one) the fallback applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from controller.decision.belief import Belief
from controller.hardware.errors import DoseLimitError, MicroscopeError
from controller.plan.recovery import RecoveryRule

ROUNDING = 0.97
"""Share of what a budget leaves that is asked for: the current moves between two readings."""


class Answer(StrEnum):
    """What the loop does next."""

    RETRY = "retry"
    """Let policy decide again; it will come to the same step."""
    WAIT = "wait"
    """Wait with the beam blanked, then let policy decide again."""
    SKIP_TARGET = "skip target"
    HOLD = "hold"
    """Blank, stop deciding, wait for a person."""


@dataclass(frozen=True)
class Rule:
    """First `answer`, `limit` times at most, then `then`."""

    answer: Answer
    limit: int
    then: Answer
    wait_s: float = 0.0


TABLE: dict[str, Rule] = {
    "DoseLimit": Rule(Answer.SKIP_TARGET, 99, Answer.SKIP_TARGET),
    "Limit": Rule(Answer.SKIP_TARGET, 99, Answer.SKIP_TARGET),
    "Unsupported": Rule(Answer.HOLD, 1, Answer.HOLD),
    "ApprovalRequired": Rule(Answer.HOLD, 1, Answer.HOLD),
    # who does not drive any more gets the same answer for every crystal: none is to blame
    "LeaseLost": Rule(Answer.HOLD, 1, Answer.HOLD),
    "Refused": Rule(Answer.SKIP_TARGET, 3, Answer.HOLD),
    "ValveClosed": Rule(Answer.WAIT, 20, Answer.HOLD, wait_s=60.0),
    "VacuumBad": Rule(Answer.WAIT, 30, Answer.HOLD, wait_s=60.0),
    "Refilling": Rule(Answer.WAIT, 30, Answer.HOLD, wait_s=120.0),
    "FlashingRequired": Rule(Answer.WAIT, 3, Answer.HOLD, wait_s=60.0),
    "StaleHealth": Rule(Answer.WAIT, 10, Answer.HOLD, wait_s=10.0),
    "ScreenDown": Rule(Answer.WAIT, 10, Answer.HOLD, wait_s=60.0),
    "Interlock": Rule(Answer.HOLD, 1, Answer.HOLD),
    "NotReached": Rule(Answer.RETRY, 2, Answer.SKIP_TARGET),
    "MoveTimeout": Rule(Answer.RETRY, 1, Answer.SKIP_TARGET),
    "Stalled": Rule(Answer.RETRY, 1, Answer.SKIP_TARGET),
    "Motion": Rule(Answer.HOLD, 1, Answer.HOLD),
    "Detector": Rule(Answer.RETRY, 2, Answer.SKIP_TARGET),
    "BlankUnconfirmed": Rule(Answer.HOLD, 1, Answer.HOLD),
    "Beam": Rule(Answer.WAIT, 3, Answer.HOLD, wait_s=60.0),
    "Specimen": Rule(Answer.SKIP_TARGET, 99, Answer.SKIP_TARGET),
    "Link": Rule(Answer.HOLD, 1, Answer.HOLD),
    "DiskFull": Rule(Answer.HOLD, 1, Answer.HOLD),
    "ChecksumMismatch": Rule(Answer.SKIP_TARGET, 1, Answer.HOLD),
    "Storage": Rule(Answer.HOLD, 1, Answer.HOLD),
    "Microscope": Rule(Answer.HOLD, 1, Answer.HOLD),
}
"""By error class, without the suffix ``Error``."""


@dataclass(frozen=True)
class Recovery:
    """What is done about one fault, and why."""

    answer: Answer
    wait_s: float
    reason: str


def recover(
    error: MicroscopeError,
    belief: Belief,
    target: str | None,
    wanted: Mapping[str, RecoveryRule] = MappingProxyType({}),
) -> Recovery:
    """The answer to `error`, which has not been folded into `belief` yet.

    Parameters
    ----------
    wanted
        The plan's own rules; of two that fit, the one of the more specific class wins, and of the
        same class the plan's.
    """
    name, rule = _rule(error, table(wanted))
    if target is not None and target in belief.targets:
        seen = sum(fault.error == error.code for fault in belief.target(target).faults)
    else:
        seen = belief.faults_in_a_row
    answer = rule.answer if seen < rule.limit else rule.then
    if answer is Answer.SKIP_TARGET and target is None:
        answer = Answer.HOLD if seen else Answer.RETRY
    whose = " of the plan" if name in wanted else ""
    reason = f"{answer.value} (rule {name}{whose}, occurrence {seen + 1} of {rule.limit})"
    return Recovery(answer, rule.wait_s if answer is Answer.WAIT else 0.0, reason)


def fitting_fluence(error: MicroscopeError, asked_e_per_A2: float) -> float | None:
    """Fluence of a scan that the budgets would have allowed, e/A2; None where nobody said.

    Parameters
    ----------
    asked_e_per_A2
        Planned fluence of the scan that was refused; what was booked for it is its upper bound.
    """
    said = error.snapshot
    if not isinstance(error, DoseLimitError) or not said.get("asked_e_per_A2"):
        return None
    left = float(said["limit_e_per_A2"]) - float(said["charged_e_per_A2"])
    return max(0.0, ROUNDING * asked_e_per_A2 * left / float(said["asked_e_per_A2"]))


def with_less(
    error: MicroscopeError, fits_e_per_A2: float | None, least_e_per_A2: float
) -> Recovery | None:
    """A scan with the fluence that is left, if that is worth one."""
    if fits_e_per_A2 is None or not fits_e_per_A2 >= least_e_per_A2:
        return None
    reason = (
        f"{Answer.RETRY.value} with {fits_e_per_A2:.3g} e/A2, which is what the dose budget "
        f"leaves here (at least {least_e_per_A2:.3g} are worth a scan)"
    )
    return Recovery(Answer.RETRY, 0.0, reason)


def table(wanted: Mapping[str, RecoveryRule]) -> dict[str, Rule]:
    """The table with the plan's rules in it."""
    return TABLE | {
        name: Rule(Answer(rule.answer), rule.limit, Answer(rule.then), rule.wait_s)
        for name, rule in wanted.items()
    }


def _rule(error: MicroscopeError, rules: Mapping[str, Rule]) -> tuple[str, Rule]:
    for kind in type(error).__mro__:
        name = kind.__name__.removesuffix("Error")
        if name in rules:
            return name, rules[name]
    return "Microscope", TABLE["Microscope"]
