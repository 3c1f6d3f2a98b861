"""What a person may change, and what a line on the terminal means."""

import pytest

from controller.cli.approve import parse_answer
from controller.decision.actions import AcquireScan, Tilt, edited
from controller.decision.approval import Proposal, must_ask

TILT = Tilt("T01", 1.0, 2.0, 0.0, 0.0, 0.02, 0.0, 0.0)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("a", "approve"),
        ("approve", "approve"),
        ("r bent crystal", "reject"),
        ("e alpha_deg=1.5", "edit"),
    ],
)
def test_lines_are_understood(line: str, answer: str) -> None:
    parsed = parse_answer(line)
    assert parsed is not None
    assert parsed.answer == answer


@pytest.mark.parametrize("line", ["", "y", "yes", "e", "e alpha_deg", "e alpha_deg=x", "a now"])
def test_nothing_else_approves(line: str) -> None:
    assert parse_answer(line) is None


def test_an_edit_changes_only_what_may_be_edited() -> None:
    assert edited(TILT, {"alpha_deg": 1.5}) == Tilt("T01", 1.5, 2.0, 0.0, 0.0, 0.02, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"predicted_deg of Tilt cannot be edited.*alpha_deg"):
        edited(TILT, {"predicted_deg": 0.0})
    with pytest.raises(ValueError, match="not a finite number"):
        edited(TILT, {"alpha_deg": float("nan")})


def test_a_proposal_reads_as_a_sentence_with_its_cost() -> None:
    assert must_ask(TILT)
    words = Proposal(3, AcquireScan("T02", 120.0, 12.0), "on axis", 156.0, 9).sentence()
    assert words == ("AcquireScan T02(fluence_e_per_A2=120, defocus_nm=12): on axis; cost 156 e/A2")
