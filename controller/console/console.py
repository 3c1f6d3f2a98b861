"""One console: the run that it shows, whom it lets in, what it hears.

Nothing of it is needed to carry on: started anew, it shows the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.console.audit import AuditLog
from controller.console.delays import Delays
from controller.console.gate import Guard
from controller.console.hub import Hub
from controller.console.instrument import StopLine, Stopped, Telemetry
from controller.console.night import Follower, Night
from controller.console.pictures import STREAMS, key_of, live_message, message_of
from controller.console.rehearsal import Rehearsals
from controller.console.views.alarms import Alarm, alarms_of, unacknowledged
from controller.console.views.shell import SILENT_S, Surroundings, run_age_s, shell_view
from controller.hardware.values import Frame
from controller.hardware.wire.endpoints import Keys
from controller.record.inbox import QueueRequest, send

log = logging.getLogger("lodestem.console")

LOOK_S = 0.2
STOPPING_S = 3.0
"""How long a STOP that the run has not taken up yet is shown as such."""


@dataclass
class Console:
    """What the screens and the live view are made of.

    Parameters
    ----------
    run_dir
        The run that is shown; it may not have begun.
    hardware
        Address of the hardware server, with this console's keys.
    """

    run_dir: Path
    guard: Guard
    audit: AuditLog
    hardware: str | None = None
    keys: Keys | None = None
    replay: bool = False
    delays: Delays = field(default_factory=Delays)
    hub: Hub = field(default_factory=Hub)
    night: Night | None = None
    replay_s: float | None = None
    """Where the slider stands, on the journal's clock."""

    def __post_init__(self) -> None:
        self.follower = Follower(self.run_dir)
        self.rehearsals = Rehearsals(self.run_dir)
        self._stop_sent_s = float("-inf")
        self._shown: dict[str, str] = {}
        self._alarms: tuple[object, list[Alarm]] = (None, [])
        self._drawn: tuple[object, ...] = ()
        self._sequence = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._telemetry: Telemetry | None = None
        self._stop_line: StopLine | None = None
        if self.hardware is not None and not self.replay:
            self._telemetry = Telemetry(self.hardware, keys=self.keys, on_frame=self._on_frame)
            self._stop_line = StopLine(self.hardware, keys=self.keys)

    def close(self) -> None:
        """Stop listening; the run goes on."""
        self.rehearsals.close()
        if self._telemetry is not None:
            self._telemetry.close()
        if self._stop_line is not None:
            self._stop_line.close()

    # --- what is so ---------------------------------------------------------------------------

    def around(self) -> Surroundings:
        """Time, telemetry, mode."""
        now_s = time.monotonic()
        night = self.night
        waits = now_s - self._stop_sent_s < STOPPING_S
        taken_up = night is None or night.belief.stopped
        return Surroundings(
            now=datetime.now(UTC),
            now_s=now_s,
            heard=None if self._telemetry is None else self._telemetry.heard,
            replay=self.replay,
            simulated=self.guard.simulated,
            stop_sent=waits and not taken_up,
        )

    def look(self) -> Night | None:
        """Read what is new; the run as it is shown now."""
        self.follower.look()
        if self.replay:
            at = self.follower.span_s[1] if self.replay_s is None else self.replay_s
            self.night = self.follower.at(at)
        else:
            self.night = self.follower.night()
        return self.night

    def state(self) -> dict[str, Any]:
        """What every page is told, several times a second."""
        night, around = self.night, self.around()
        alarms = self.alarms(around)
        shell = shell_view(night, around, unacknowledged(alarms))
        desk = None if night is None else night.desk
        return {
            "kind": "state",
            "server_ms": 1e3 * time.time(),
            "shell": vars(shell),
            "proposal": None if night is None or night.proposal is None else night.proposal["id"],
            "lease": None if desk is None else desk["lease"],
            "delegation": None if desk is None else desk["delegation"],
            "alarms": [a.key for a in alarms if not a.acknowledged],
            "changed": "/".join(
                map(
                    str,
                    (
                        shell.revision,
                        shell.state,
                        "" if night is None or night.proposal is None else night.proposal["id"],
                        None if desk is None else desk["lease"]["epoch"],
                        None if desk is None else desk["lease"]["asked_by"],
                        None if desk is None else desk["delegation"],
                        len(alarms) - shell.alarms,
                    ),
                )
            ),
        }

    def alarms(self, around: Surroundings) -> list[Alarm]:
        """All alarms; looked through anew only where something has changed."""
        night = self.night
        if night is None:
            return []
        heard = around.heard
        key = (
            night.belief.revision,
            len(night.acks),
            heard is not None and heard.age_s(around.now_s) <= SILENT_S,
            run_age_s(night, around) > SILENT_S,
            int(around.now_s),  # silence grows by itself
        )
        if self._alarms[0] != key:
            self._alarms = (key, alarms_of(night, around))
        return self._alarms[1]

    # --- the pump -----------------------------------------------------------------------------

    async def pump(self) -> None:
        """Follow the run and tell every viewer, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                await asyncio.to_thread(self.look)
                self.hub.tell("state", json.dumps(self.state()))
                if self._drawn != (drawn := self._what_is_drawn()):
                    self._drawn = drawn
                    for stream in STREAMS:
                        await self._show(stream)
            except Exception:  # a journal line or a file that cannot be read must not end the pump
                log.exception("the console could not look at the run")
            await asyncio.sleep(LOOK_S)

    def _what_is_drawn(self) -> tuple[object, ...]:
        """Changes whenever a stored picture or what is drawn over it may have."""
        night = self.night
        if night is None:
            return ()
        proposal = night.proposal
        return night.belief.revision, None if proposal is None else proposal["id"]

    async def _show(self, stream: str) -> None:
        night = self.night
        if night is None:
            return
        key = key_of(night, stream)
        if self._shown.get(stream, "") == key:
            return
        self._shown[stream] = key
        if not key:  # a replay was wound back to before the first picture
            self.hub.tell(stream, json.dumps({"kind": "clear", "stream": stream}))
            return
        message = await asyncio.to_thread(message_of, night, stream)
        if message is not None:
            self.hub.tell(stream, message)

    def _on_frame(self, frame: Frame) -> None:
        """A picture came over the telemetry; in the thread that listens."""
        self._sequence += 1
        if self._loop is None or self._loop.is_closed():
            return
        stream, message = live_message(frame, self._sequence)
        self._loop.call_soon_threadsafe(self.hub.tell, stream, message)

    # --- STOP ---------------------------------------------------------------------------------

    def stop(self, who: str) -> Stopped:
        """STOP on its own socket, and in parallel to the run, which then waits for people."""
        if self.replay:
            return Stopped(True, 0.0, "this is a replay: nothing moves, no beam is on")
        self._stop_sent_s = time.monotonic()
        words = f"STOP by {who} in the console"
        if self._stop_line is not None:
            return self._stop_line.stop(words, meanwhile=lambda: self._tell_run(who))
        self._tell_run(who)
        return Stopped(
            False, 0.0, "no hardware server: the run was told; use the panel if in doubt"
        )

    def _tell_run(self, who: str) -> None:
        """So that the run knows why its step broke off, and waits for people."""
        night = self.night
        if night is not None and night.belief.ended is None:
            send(self.run_dir, QueueRequest(what="stop", by=who[:64], reason="STOP in the console"))
