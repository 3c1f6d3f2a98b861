"""Who may what; the same roles on the wire, in the console and in the log."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What somebody is to the instrument."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    SCIENTIST = "scientist"
    ADMIN = "admin"
    AGENT = "agent"
    """The program that runs a night by itself."""


class Right(StrEnum):
    """What may be done."""

    WATCH = "watch"
    STOP = "stop"
    DRIVE = "drive"
    TAKE_OVER = "take_over"
    """Take the lease from a program that holds it."""
    APPROVE = "approve"
    BUDGETS = "budgets"
    """Change limits and budgets."""


_EVERYBODY = frozenset({Right.WATCH, Right.STOP})
_OPERATOR = _EVERYBODY | {Right.DRIVE, Right.TAKE_OVER, Right.APPROVE}
RIGHTS: dict[Role, frozenset[Right]] = {
    Role.VIEWER: _EVERYBODY,
    Role.OPERATOR: _OPERATOR,
    Role.SCIENTIST: _OPERATOR | {Right.BUDGETS},
    Role.ADMIN: _OPERATOR | {Right.BUDGETS},
    Role.AGENT: _EVERYBODY | {Right.DRIVE},
}
"""STOP is everybody's.  An agent drives, but neither approves nor changes what limits it."""


def may(role: Role, right: Right) -> bool:
    """Whether `role` has `right`."""
    return right in RIGHTS[role]
