"""Approval in the terminal: the same interface that a console uses."""

from __future__ import annotations

import sys

import typer

from controller.cli.output import InputError
from controller.decision.actions import EDITABLE
from controller.decision.approval import Answer, Proposal

CHOICES = ("  a: approve", "  r REASON: reject  u REASON: undo the last tilt")


class TerminalApprover:
    """Asks on the terminal; an empty line approves nothing."""

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise InputError(
                "--supervised needs a terminal to ask on; nothing was moved or exposed",
                "run it in a terminal, or leave out --supervised",
            )

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        """Show the proposal and read approve, edit, reject or undo.

        The beam stays blanked while this waits.  End of input is silence.
        """
        typer.echo(f"\nPROPOSAL {proposal.step}: {proposal.sentence()}", err=True)
        allowed = sorted(EDITABLE.get(type(proposal.action), frozenset()))
        edit = f"  e {allowed[0]}=VALUE: edit" if allowed else ""
        while True:
            try:
                line = input(f"{CHOICES[0]}{edit}{CHOICES[1]} > ").strip()
            except EOFError:
                return Answer("silence", by="terminal")
            answer = parse_answer(line)
            if answer is not None:
                return answer
            typer.echo("  not understood; nothing was approved", err=True)


def parse_answer(line: str) -> Answer | None:
    """``a``, ``e key=value ...``, ``r reason`` or ``u reason``; None for anything else."""
    word, _, rest = line.partition(" ")
    if word in ("a", "approve") and not rest:
        return Answer("approve", by="terminal")
    if word in ("r", "reject"):
        return Answer("reject", by="terminal", reason=rest)
    if word in ("u", "undo"):
        return Answer("undo", by="terminal", reason=rest)
    if word in ("e", "edit") and rest:
        changes: dict[str, float] = {}
        for part in rest.split():
            key, equals, value = part.partition("=")
            try:
                changes[key] = float(value)
            except ValueError:
                return None
            if not equals:
                return None
        return Answer("edit", by="terminal", changes=changes)
    return None
