"""Delegation: a person approves in advance, within an envelope.  Pure.

Whatever lies outside it, and whatever cannot be told, goes back to the person.  A scan is never
delegated: it spends what the crystal was kept for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from controller.decision.actions import (
    AcquireScan,
    Action,
    FindHeight,
    Tilt,
    UndoTilt,
)
from controller.decision.approval import Proposal
from controller.hardware.values import Frozen, Positive


class Envelope(Frozen):
    """What a person lets the machine do without asking."""

    moves: Annotated[int, Field(ge=1, le=100)]
    """At most so many approvals."""
    until_error_mrad: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Done once the zone axis is nearer to the beam than this."""
    at_most_e_per_A2: Positive
    least_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the fit that a move rests on."""
    largest_move_deg: Positive = 90.0
    """No single move tilts further than this."""


@dataclass(frozen=True)
class Delegation:
    """An envelope with what has been used of it."""

    envelope: Envelope
    by: str
    moves: int = 0
    spent_e_per_A2: float = 0.0

    def breach(self, proposal: Proposal) -> str | None:
        """Why `proposal` goes back to the person, or None."""
        envelope = self.envelope
        if isinstance(proposal.action, AcquireScan):
            return "a scan is never delegated"
        if self.moves >= envelope.moves:
            return f"the {envelope.moves} moves are used up"
        spent = self.spent_e_per_A2 + proposal.cost_e_per_A2
        if not spent <= envelope.at_most_e_per_A2:
            return (
                f"this step would bring the dose to {spent:.3g} e/Å², "
                f"{envelope.at_most_e_per_A2:.3g} were given"
            )
        size_deg = move_size_deg(proposal.action)
        if not size_deg <= envelope.largest_move_deg:
            return f"a move of {size_deg:.2f}°, at most {envelope.largest_move_deg:.2f}° were given"
        return self._of_the_fit(proposal)

    def _of_the_fit(self, proposal: Proposal) -> str | None:
        """What the newest pattern says against going on."""
        confidence, error = proposal.confidence, proposal.error_mrad
        if confidence is not None and not confidence >= self.envelope.least_confidence:
            return (
                f"the fit has confidence {confidence:.2f}, "
                f"at least {self.envelope.least_confidence:.2f} was wanted"
            )
        if error is not None and error < self.envelope.until_error_mrad:
            return f"done: {error:.2f} mrad, wanted < {self.envelope.until_error_mrad:.2f} mrad"
        return None

    def used(self, proposal: Proposal) -> Delegation:
        """After `proposal` was approved by it."""
        return Delegation(
            self.envelope,
            self.by,
            moves=self.moves + 1,
            spent_e_per_A2=self.spent_e_per_A2 + proposal.cost_e_per_A2,
        )

    def in_words(self) -> str:
        """What is left, for the card and the journal."""
        left = self.envelope.moves - self.moves
        dose = self.envelope.at_most_e_per_A2 - self.spent_e_per_A2
        return f"{left} of {self.envelope.moves} moves and {dose:.3g} e/Å² left"


def move_size_deg(action: Action) -> float:
    """Largest single tilt that `action` asks of the goniometer; 0 where it tilts nothing."""
    match action:
        case Tilt() | UndoTilt():
            return max(
                abs(action.alpha_deg - action.from_alpha_deg),
                abs(action.beta_deg - action.from_beta_deg),
            )
        case FindHeight():
            return abs(action.high_alpha_deg - action.low_alpha_deg)
        case _:
            return 0.0
