"""From a session in the console to a request on the run's desk."""

from __future__ import annotations

from typing import Any, Literal

from controller.console.sessions import Session
from controller.record.desk import DeskError, Who


def who_of(session: Session) -> Who:
    """Who asks, as the desk knows people.

    Raises
    ------
    DeskError
        A viewer asks for nothing.
    """
    if session.role == "viewer":
        raise DeskError("needs operator; you are viewer")
    role: Literal["operator", "scientist", "admin"] = session.role
    return Who(session=session.id, name=session.name, role=role)


def held_epoch(desk: dict[str, Any] | None, session: Session) -> int | None:
    """Epoch of the operator lease if this session holds it."""
    lease = (desk or {}).get("lease") or {}
    holder = lease.get("holder")
    if holder is None or holder.get("session") != session.id:
        return None
    return int(lease["epoch"])
