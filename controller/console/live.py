"""The live line, a WebSocket per page.  Out: state and pictures; in: STOP and the lease's beat."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from controller.console.console import Console
from controller.console.desk_calls import held_epoch, who_of
from controller.console.hub import Viewer
from controller.console.rights import Right, may, needs
from controller.console.sessions import Session
from controller.record.desk import DeskError, LeaseWanted, ask

MOST_BYTES = 2000


def live_route(console: Console) -> APIRouter:
    """The WebSocket."""
    router = APIRouter()

    @router.websocket("/live")
    @needs(Right.LOOK)
    async def live(socket: WebSocket) -> None:
        session: Session = socket.scope["state"]["session"]
        await socket.accept()
        with console.hub.viewing() as viewer:
            sender = asyncio.create_task(_send(socket, viewer))
            try:
                await _receive(console, socket, session, viewer)
            except (WebSocketDisconnect, WebSocketDisconnected):
                pass  # the page is gone, or the sender has noticed that first
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                    await sender

    return router


async def _send(socket: WebSocket, viewer: Viewer) -> None:
    while True:
        message = await viewer.take()
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_text(message)


async def _receive(console: Console, socket: WebSocket, session: Session, viewer: Viewer) -> None:
    while True:
        text = await socket.receive_text()
        if len(text) > MOST_BYTES:
            continue
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            if isinstance(said, dict):
                await _on_message(console, socket, session, viewer, said)


async def _on_message(
    console: Console, socket: WebSocket, session: Session, viewer: Viewer, said: dict[str, Any]
) -> None:
    kind = said.get("kind")
    if kind == "stop" and may(session.role, Right.STOP):
        told = await run_in_threadpool(console.stop, session.name)
        viewer.put("stopped", json.dumps({"kind": "stopped", **asdict(told)}))
        address = "" if socket.client is None else socket.client.host
        console.audit.write(
            "stop", who=session.name, role=session.role, address=address, result=told.words
        )
    elif kind == "got":
        viewer.arrived()
    elif kind == "beat":
        viewer.put("beat", json.dumps({"kind": "beat", "echo": said.get("ms")}))
        await _renew(console, session)


async def _renew(console: Console, session: Session) -> None:
    """The driver's page is still there."""
    night = console.night
    epoch = held_epoch(None if night is None else night.desk, session)
    if epoch is None or console.replay:
        return
    beat = LeaseWanted(what="renew", who=who_of(session), epoch=epoch)
    with contextlib.suppress(DeskError):
        await run_in_threadpool(ask, console.run_dir, beat)
