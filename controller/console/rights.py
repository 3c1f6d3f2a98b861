"""What a route asks of whoever calls it, and who has it.  A route that names nothing is refused."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from controller.console.passwords import UserRole


class Right(StrEnum):
    """What may be done in the console."""

    PUBLIC = "public"
    """Without signing in: the sign-in page and its looks."""
    LOOK = "look"
    STOP = "stop"
    DRIVE = "drive"
    """Take the lease, answer, edit the queue, acknowledge."""
    CONFIGURE = "configure"
    """Calibration, limits, lockout, seizing."""
    ADMIN = "admin"


_VIEWER = frozenset({Right.PUBLIC, Right.LOOK, Right.STOP})
_OPERATOR = _VIEWER | {Right.DRIVE}
_SCIENTIST = _OPERATOR | {Right.CONFIGURE}
RIGHTS: dict[UserRole | None, frozenset[Right]] = {
    None: frozenset({Right.PUBLIC}),
    "viewer": _VIEWER,
    "operator": _OPERATOR,
    "scientist": _SCIENTIST,
    "admin": _SCIENTIST | {Right.ADMIN},
}
NEEDED = {
    Right.LOOK: "viewer",
    Right.STOP: "viewer",
    Right.DRIVE: "operator",
    Right.CONFIGURE: "scientist",
    Right.ADMIN: "admin",
}
"""The least role that has a right, for the words of a refusal."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def may(role: UserRole | None, right: Right) -> bool:
    """Whether somebody of `role` (None: not signed in) has `right`."""
    return right in RIGHTS[role]


def needs(right: Right) -> Callable[[Endpoint], Endpoint]:
    """Name what an endpoint asks for."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.right = right  # type: ignore[attr-defined]
        return endpoint

    return mark


def right_of(endpoint: object) -> Right | None:
    """What `endpoint` asks for; None: it was forgotten, and nobody gets in."""
    found = getattr(endpoint, "right", None)
    return found if isinstance(found, Right) else None
