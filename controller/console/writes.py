"""Everything that changes something: sign-in, STOP, lease, answers, queue, acknowledgements.

Nothing is carried out here.  A write becomes a request on the run's desk or in its inbox, with who
asked, and what came of it goes into the audit log.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from controller.console.console import Console
from controller.console.desk_calls import held_epoch, who_of
from controller.console.forms import FormError, number, read_form
from controller.console.gate import cookie_line
from controller.console.listening import is_loopback
from controller.console.rendering import address_of, render, session_in
from controller.console.rights import Right, needs
from controller.console.sessions import Session
from controller.console.views.align import quote, tilt_of_drag
from controller.console.views.shell import SILENT_S
from controller.record.desk import Delegated, DeskError, DeskRequest, LeaseWanted, Said
from controller.record.desk import ask as ask_desk
from controller.record.inbox import QueueRequest, send
from controller.record.notify.post import acknowledge

EDITS = ("alpha_deg", "beta_deg", "fluence_e_per_A2", "beam_diameter_nm", "defocus_nm")
ENVELOPE = (
    "moves",
    "until_error_mrad",
    "at_most_e_per_A2",
    "least_confidence",
    "largest_move_deg",
)
LABELS_FILE = "labels.jsonl"
NOTES_FILE = "notes.jsonl"


class _Refused(Exception):  # noqa: N818  (a turn of the conversation, not an error)
    """Not carried out: status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


Act = Callable[[Request, Session, dict[str, str]], Awaitable[dict[str, Any]]]


def write_routes(console: Console) -> APIRouter:
    """POST routes."""
    router = APIRouter()

    @router.post("/login")
    @needs(Right.PUBLIC)
    async def login(request: Request) -> Response:
        return await _login(console, request)

    @router.post("/logout")
    @needs(Right.LOOK)
    async def logout(request: Request) -> Response:
        session = session_in(request)
        if session is not None:
            console.guard.book.end(session.id)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/login", status_code=303)

    @router.post("/api/stop")
    @needs(Right.STOP)
    async def stop(request: Request) -> Response:
        session = session_in(request)
        name = "nobody" if session is None else session.name
        role = "" if session is None else session.role
        told = await run_in_threadpool(console.stop, name)
        console.audit.write(
            "stop", who=name, role=role, address=address_of(request), result=told.words
        )
        if "text/html" in request.headers.get("accept", "") and "x-csrf-token" not in (
            request.headers
        ):
            return render(request, "stopped.html", told=told, screen="stopped")
        return JSONResponse(asdict(told))

    acts: dict[str, tuple[Right, Act]] = {
        "/api/lease/{what}": (Right.DRIVE, _lease),
        "/api/answer": (Right.DRIVE, _answer),
        "/api/delegate": (Right.DRIVE, _delegate),
        "/api/quote": (Right.DRIVE, _quote),
        "/api/queue": (Right.DRIVE, _queue),
        "/api/acknowledge": (Right.DRIVE, _acknowledge),
        "/api/label": (Right.DRIVE, _label),
        "/api/note": (Right.DRIVE, _note),
        "/api/replay": (Right.LOOK, _replay),
        "/api/rehearse": (Right.DRIVE, _rehearse),
        "/api/lockout": (Right.CONFIGURE, _lockout),
        "/api/remote": (Right.CONFIGURE, _remote),
        "/api/revoke": (Right.ADMIN, _revoke),
    }
    for path, (right, act) in acts.items():
        router.add_api_route(path, needs(right)(_endpoint(console, act)), methods=["POST"])
    return router


def _endpoint(console: Console, act: Act) -> Callable[[Request], Awaitable[Response]]:
    """Read the form, act, put it into the audit log, answer."""

    async def endpoint(request: Request) -> Response:
        session = session_in(request)
        if session is None:
            return JSONResponse({"why": "not signed in"}, status_code=401)
        fields: dict[str, str] = {}
        status, told = 200, {}
        try:
            fields = {k: v for k, v in (await read_form(request)).items() if k != "csrf"}
            told = await act(request, session, fields)
        except _Refused as refusal:
            status, told = refusal.status, {"why": str(refusal)}
        except (FormError, ValidationError) as error:
            status, told = 422, {"why": _in_words(error)}
        except DeskError as error:
            status, told = 409 if error.answered else 503, {"why": str(error)}
        if act not in (_quote, _replay) and request.path_params.get("what") != "renew":
            console.audit.write(
                request.url.path,
                who=session.name,
                role=session.role,
                address=address_of(request),
                asked=fields,
                result=told.get("why") or "done",
            )
        return JSONResponse(told, status_code=status)

    return endpoint


def _in_words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return str(error)


async def _login(console: Console, request: Request) -> Response:
    guard = console.guard
    fields = await read_form(request)
    name, address = fields.get("name", "")[:64], address_of(request)
    keys = (f"name {name}", f"address {address}")
    wait_s = console.delays.wait_s(keys, guard.now_s())
    if wait_s > 0:
        words = f"too many wrong passwords: wait {wait_s:.0f} s"
        return render(request, "login.html", 429, trouble=words, wait_s=wait_s)
    account = await run_in_threadpool(guard.accounts.check, name, fields.get("password", ""))
    if account is None:
        console.delays.failed(keys, guard.now_s())
        console.audit.write("login", who=name, role="", address=address, result="refused")
        return render(request, "login.html", 401, trouble="name and password do not fit", wait_s=0)
    console.delays.succeeded(keys)
    cookie, _ = guard.book.begin(account.name, account.role, address, guard.now_s())
    console.audit.write("login", who=name, role=account.role, address=address, result="done")
    answer = RedirectResponse(f"{request.scope.get('root_path', '')}/overview", status_code=303)
    answer.headers["set-cookie"] = cookie_line(cookie, secure=request.url.scheme == "https")
    return answer


def _console(request: Request) -> Console:
    console: Console = request.app.state.console
    return console


async def _at_desk(request: Request, wanted: DeskRequest) -> dict[str, Any]:
    console = _console(request)
    if console.replay:
        raise _Refused(409, "this is a replay: nothing can be changed")
    return await run_in_threadpool(ask_desk, console.run_dir, wanted)


async def _lease(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    return await _at_desk(
        request,
        LeaseWanted.model_validate(
            {
                "what": request.path_params["what"],
                "who": who_of(session),
                "epoch": int(number(fields, "epoch")),
                "reason": fields.get("reason", ""),
            }
        ),
    )


def _epoch(request: Request, session: Session, fields: dict[str, str]) -> int:
    """The lease that the page names; it must be the one that this session holds now."""
    console = _console(request)
    held = held_epoch(None if console.night is None else console.night.desk, session)
    named = int(number(fields, "epoch", -1))
    if held is None or named != held:
        lease = ((console.night and console.night.desk) or {}).get("lease") or {}
        raise _Refused(409, f"you do not drive: {lease.get('last', 'no run asks here')}")
    return held


def _refuse_stale(request: Request) -> None:
    """Nobody approves what may not be so any more."""
    console = _console(request)
    heard = console.around().heard
    if heard is not None and not heard.age_s(console.around().now_s) <= SILENT_S:
        raise _Refused(
            409,
            "the instrument has not been heard of for more than "
            f"{SILENT_S:g} s: what is shown may not be so any more; nothing was approved",
        )


def _changes(fields: dict[str, str]) -> dict[str, float]:
    return {name: number(fields, name) for name in EDITS if fields.get(name, "").strip()}


async def _answer(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    console = _console(request)
    epoch = _epoch(request, session, fields)
    what = fields.get("answer", "")
    if what in ("approve", "edit"):
        _refuse_stale(request)
    said = Said.model_validate(
        {
            "who": who_of(session),
            "epoch": epoch,
            "proposal": fields.get("proposal", ""),
            "state_revision": int(number(fields, "revision", -1)),
            "answer": what,
            "reason": _reason(fields),
            "changes": _changes(fields) if what == "edit" else {},
        }
    )
    told = await _at_desk(request, said)
    if what in ("reject", "edit"):
        _keep_label(console.run_dir, session, what, fields)
    return told


def _reason(fields: dict[str, str]) -> str:
    words = (fields.get("category", ""), fields.get("reason", "").strip())
    return ": ".join(word for word in words if word)[:300]


async def _delegate(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    epoch = _epoch(request, session, fields)
    ends = fields.get("end") == "1"
    if not ends:
        _refuse_stale(request)
    return await _at_desk(
        request,
        Delegated.model_validate(
            {
                "who": who_of(session),
                "epoch": epoch,
                "proposal": None if ends else fields.get("proposal", ""),
                "state_revision": int(number(fields, "revision", -1)),
                "envelope": {}
                if ends
                else {n: number(fields, n) for n in ENVELOPE if fields.get(n, "").strip()},
            }
        ),
    )


async def _quote(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    night = _console(request).night
    if night is None:
        raise _Refused(409, "no run")
    changes = _changes(fields)
    if fields.get("x_px"):
        aimed = tilt_of_drag(night, number(fields, "x_px"), number(fields, "y_px"))
        if aimed is None:
            raise _Refused(409, "there is no circle to drag")
        changes |= {"alpha_deg": round(aimed[0], 3), "beta_deg": round(aimed[1], 3)}
    return asdict(quote(night, changes))


async def _queue(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    console = _console(request)
    night = console.night
    if console.replay or night is None or night.started is None:
        raise _Refused(409, "no run is under way here")
    if night.belief.ended is not None:
        raise _Refused(409, f"the run is over ({night.belief.ended.outcome})")
    wanted = {k: v for k, v in fields.items() if k in ("what", "target", "reason") and v}
    if fields.get("x_um"):
        wanted |= {"x_um": str(number(fields, "x_um")), "y_um": str(number(fields, "y_um"))}
    if wanted.get("what") == "go_on":
        if night.belief.stopped and fields.get("sure") != "1":
            raise _Refused(409, "the run was stopped: say that you are sure")
        _epoch(request, session, fields)
    request_ = QueueRequest.model_validate(wanted | {"by": session.name[:64]})
    await run_in_threadpool(send, console.run_dir, request_)
    return {}


async def _acknowledge(
    request: Request, session: Session, fields: dict[str, str]
) -> dict[str, Any]:
    console = _console(request)
    night = console.night
    sequence = night.entries[-1].sequence if night is not None and night.entries else 0
    _append(
        console.run_dir / "acknowledged.jsonl",
        {"key": fields.get("key", "")[:100], "sequence": sequence, "by": session.name},
    )
    await run_in_threadpool(acknowledge, console.run_dir, session.name)
    return {}


async def _label(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    _keep_label(_console(request).run_dir, session, "mask", fields)
    return {}


async def _note(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    text = fields.get("text", "").strip()[:2000]
    if not text:
        raise _Refused(422, "an empty note")
    _append(_console(request).run_dir / NOTES_FILE, {"by": session.name, "text": text})
    return {}


async def _replay(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    console = _console(request)
    if not console.replay:
        raise _Refused(409, "this is no replay")
    first, final = console.follower.span_s
    console.replay_s = first + (final - first) * min(1.0, max(0.0, number(fields, "share", 1.0)))
    return {}


async def _rehearse(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    console = _console(request)
    if console.replay or console.night is None:
        raise _Refused(409, "there is no plan to rehearse here")
    why = await run_in_threadpool(console.rehearsals.start, console.night)
    if why:
        raise _Refused(409, why)
    return {}


async def _lockout(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    reason = fields.get("reason", "").strip()[:200]
    if fields.get("end") == "1":
        _console(request).guard.locked_by = ""
        return {}
    if not reason:
        raise _Refused(422, "a lockout needs a reason")
    _console(request).guard.locked_by = f"{session.name}: {reason}"
    return {}


async def _remote(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    if not is_loopback(address_of(request)):
        raise _Refused(403, "remote driving is switched at the instrument's own console only")
    _console(request).guard.remote_driving = fields.get("on") == "1"
    return {}


async def _revoke(request: Request, session: Session, fields: dict[str, str]) -> dict[str, Any]:
    if not _console(request).guard.book.end(fields.get("session", "")):
        raise _Refused(404, "no such session")
    return {}


def _keep_label(run_dir: Path, session: Session, what: str, fields: dict[str, str]) -> None:
    """A person's correction, beside the picture that it is about: something to learn from."""
    kept = {k: v[:500] for k, v in fields.items() if k not in ("csrf", "epoch")}
    _append(run_dir / LABELS_FILE, {"by": session.name, "what": what, **kept})


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"utc": datetime.now(UTC).isoformat(), **line}) + "\n")
