"""What a plan wants done about a fault, where it differs from the table that lodestem ships."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from controller.hardware import errors
from controller.hardware.errors import MicroscopeError
from controller.hardware.values import Frozen, NonNegative

AnswerName = Literal["retry", "wait", "skip target", "hold"]
ALWAYS_HOLD = frozenset({"BlankUnconfirmed"})
"""A beam that may be on is nobody's to decide about but a person's at the column."""


class RecoveryRule(Frozen):
    """First `answer`, `limit` times at most, then `then`."""

    answer: AnswerName
    limit: Annotated[int, Field(ge=1, le=1000)] = 1
    then: AnswerName = "hold"
    wait_s: Annotated[NonNegative, Field(le=36_000)] = 60.0
    """Where the answer is to wait: so long, beam blanked."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.then in ("retry", "wait"):
            raise ValueError(
                f"then = {self.then!r} would go on for ever; end with skip target or hold"
            )
        return self


def fault_classes() -> tuple[str, ...]:
    """Names of all faults, as in the journal and in the table."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return tuple(
        sorted(
            kind.__name__.removesuffix("Error")
            for kind in kinds
            if issubclass(kind, MicroscopeError)
        )
    )


def check_rules(rules: dict[str, RecoveryRule]) -> dict[str, RecoveryRule]:
    """Refuse faults that do not exist, and what no plan may decide.

    Raises
    ------
    ValueError
        With what there is.
    """
    known = fault_classes()
    for name, rule in rules.items():
        if name not in known:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(known)}")
        if name in ALWAYS_HOLD and (rule.answer, rule.then) != ("hold", "hold"):
            raise ValueError(f"{name} always holds the run: the beam may be on")
    return rules
