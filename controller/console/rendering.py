"""What every page and fragment is rendered with."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from controller.console.console import Console
from controller.console.desk_calls import held_epoch
from controller.console.rights import Right, may
from controller.console.sessions import Session
from controller.console.views.alarms import unacknowledged
from controller.console.views.shell import shell_view

SCREENS = (
    ("overview", "Overview"),
    ("map", "Map"),
    ("align", "Align"),
    ("acquire", "Acquire"),
    ("report", "Report"),
    ("log", "Log"),
    ("settings", "Settings"),
)


def session_in(request: Request) -> Session | None:
    """Who asks; the gate has looked."""
    found = request.scope["state"].get("session")
    return found if isinstance(found, Session) else None


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return "" if request.client is None else request.client.host


def render(request: Request, template: str, status: int = 200, **more: Any) -> HTMLResponse:  # noqa: ANN401
    """A page with the shell's facts in it."""
    console: Console = request.app.state.console
    session, night, around = session_in(request), console.night, console.around()
    alarms = console.alarms(around)
    role = None if session is None else session.role
    facts = {
        "base": request.scope.get("root_path", ""),
        "session": session,
        "csrf": "" if session is None else session.csrf,
        "screens": SCREENS,
        "shell": shell_view(night, around, unacknowledged(alarms)),
        "alarms": alarms,
        "night": night,
        "console": console,
        "guard": console.guard,
        "epoch": None if session is None or night is None else held_epoch(night.desk, session),
        "may_drive": may(role, Right.DRIVE),
        "may_configure": may(role, Right.CONFIGURE),
        "may_admin": may(role, Right.ADMIN),
        "replay": console.replay,
        "screen": "",
    }
    page = request.app.state.templates.get_template(template)
    return HTMLResponse(page.render(facts | more), status_code=status)
