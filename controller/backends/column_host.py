"""A driver in a process of its own: the column that outlives whoever drives it.

The simulated microscope lives here when it is served, so that killing the server neither heals the
specimen nor blanks the beam; so may a real driver that must not share a process with anything.
The host guards nothing and forgets nothing: it is what a vendor's server is.  It listens on this
machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import zmq

from controller.backends.registry import OptionValue, load_adapter_factory
from controller.hardware.contract import Adapter
from controller.hardware.errors import MicroscopeError, ProtocolError, RefusedError
from controller.hardware.faults import Injectable, faults_of
from controller.hardware.values import (
    Axis,
    DetectorJob,
    Frozen,
    LongOperation,
    OpticsChange,
    Scan,
    ScanBatch,
)
from controller.hardware.wire.clocks import clock_facts
from controller.hardware.wire.endpoints import Endpoints
from controller.hardware.wire.message import Array
from controller.hardware.wire.responder import Asked, Responder

log = logging.getLogger("lodestem.column")

EXTRAS = frozenset({"witness", "inject_fault", "clear_fault", "release_alarms"})
"""What a simulated column offers besides: for tests, rehearsals and reports."""

Answer = tuple[Any, Sequence[Array]]


class Job(Frozen):
    """`values.DetectorJob` on the wire."""

    exposure_id: UUID
    detector: str
    frame_s: float
    frames: int
    scan: Scan | None = None

    def real(self) -> DetectorJob:
        """The job itself."""
        return DetectorJob(
            exposure_id=self.exposure_id,
            detector=self.detector,
            frame_s=self.frame_s,
            frames=self.frames,
            scan=self.scan,
        )


class ColumnHost:
    """Serves one adapter, unguarded, to whoever is on this machine."""

    def __init__(self, adapter: Adapter, endpoint: str) -> None:
        if not Endpoints.of(endpoint).is_loopback:
            raise RefusedError(
                f"{endpoint} can be reached from other machines; a column without a guard listens "
                f"on this one only. Use ipc://PATH or tcp://127.0.0.1:PORT"
            )
        self._adapter = adapter
        self._streams: dict[int, Iterator[ScanBatch]] = {}
        self._numbers = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ended = threading.Event()
        self._verbs = self._table()
        self._lane = Responder(endpoint, self._handle, context=self._context, name="column")

    def _handle(self, asked: Asked) -> None:
        def work() -> None:
            try:
                run = self._verbs.get(asked.request.verb)
                if run is None:
                    raise ProtocolError(f"a column has no {asked.request.verb!r}")  # noqa: TRY301
                asked.answer(*run(asked.request.args))
            except Exception as problem:  # noqa: BLE001  (it travels to whoever asked)
                asked.fail(problem)

        threading.Thread(target=work, name=f"column {asked.request.verb}", daemon=True).start()

    def _table(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        adapter = self._adapter
        return {
            "hello": lambda args: (self._hello(), ()),
            "clock.now": lambda args: (adapter.clock.now_s(), ()),
            "clock.utc": lambda args: (adapter.clock.utc().isoformat(), ()),
            "clock.sleep": lambda args: _done(adapter.clock.sleep, float(args["duration_s"])),
            "read_pose": lambda args: _json(adapter.read_pose()),
            "start_move": lambda args: _done(
                adapter.start_move, Axis(args["axis"]), float(args["target"])
            ),
            "axis_state": lambda args: (vars(adapter.axis_state(Axis(args["axis"]))), ()),
            "halt": lambda args: _done(adapter.halt),
            "holder_limits": lambda args: _json(adapter.holder_limits()),
            "read_optics": lambda args: _json(adapter.read_optics()),
            "write_optics": lambda args: _done(
                adapter.write_optics, OpticsChange.model_validate(args)
            ),
            "read_health": lambda args: _json(adapter.read_health()),
            "run_operation": lambda args: _json(
                adapter.run_operation(LongOperation(args["operation"]))
            ),
            "arm": lambda args: _done(adapter.arm, Job.model_validate(args).real()),
            "open_beam": lambda args: _done(adapter.open_beam),
            "blank_beam": lambda args: _done(adapter.blank_beam),
            "read_blanked": lambda args: (adapter.read_blanked(), ()),
            "collect": self._collect,
            "stream.begin": self._begin_stream,
            "stream.next": self._next_batch,
            "abort": lambda args: _done(adapter.abort),
            "fault": self._fault,
            "extra": self._extra,
            "end": lambda args: _done(self.ended.set),
        }

    def _hello(self) -> dict[str, Any]:
        return {
            "capabilities": self._adapter.capabilities.model_dump(mode="json"),
            "calibration": self._adapter.calibration.model_dump(mode="json"),
            "injectable": isinstance(self._adapter, Injectable),
            "extras": sorted(name for name in EXTRAS if hasattr(self._adapter, name)),
            **clock_facts(self._adapter.clock),
        }

    def _collect(self, args: Mapping[str, Any]) -> Answer:
        raw = self._adapter.collect(float(args["timeout_s"]))
        return {"job_id": str(raw.job_id), "sequence": raw.sequence}, [raw.data]

    def _begin_stream(self, args: Mapping[str, Any]) -> Answer:
        number = next(self._numbers)
        self._streams = {number: iter(self._adapter.stream(float(args["timeout_s"])))}
        return number, ()

    def _next_batch(self, args: Mapping[str, Any]) -> Answer:
        stream = self._streams.get(int(args["stream"]))
        batch = None if stream is None else next(stream, None)
        if batch is None:
            return None, ()
        return {"job_id": str(batch.job_id), "first_sequence": batch.first_sequence}, [batch.data]

    def _extra(self, args: Mapping[str, Any]) -> Answer:
        name = str(args["name"])
        if name not in EXTRAS or not hasattr(self._adapter, name):
            raise ProtocolError(f"this column offers no {name!r}")
        return getattr(self._adapter, name)(*args.get("args", ())), ()

    def _fault(self, args: Mapping[str, Any]) -> Answer:
        """What is due, for whoever plays the faults outside the column."""
        source, what = faults_of(self._adapter), str(args["what"])
        match args["how"]:
            case "strikes":
                return source.strikes(what), ()
            case "is_on":
                return source.is_on(what), ()
            case "count":
                return _done(source.count, what)
            case other:
                raise ProtocolError(f"a column cannot be asked {other!r} about its faults")

    def close(self) -> None:
        """Stop listening and close the adapter, which blanks. Idempotent."""
        self._lane.close()
        self._adapter.close()
        self._context.term()


def _done(action: Callable[..., None], *args: Any) -> Answer:  # noqa: ANN401
    action(*args)
    return None, ()


def _json(value: Frozen) -> Answer:
    return value.model_dump(mode="json"), ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Host a column until it is told to end: ``python -m controller.backends.column_host``."""
    parser = argparse.ArgumentParser(description=__doc__, prog="column_host")
    parser.add_argument("--backend", required=True, help="name of an installed driver")
    parser.add_argument("--options", default="{}", help="options of the driver, JSON")
    parser.add_argument("--listen", required=True, help="ipc://PATH or tcp://127.0.0.1:PORT")
    parser.add_argument("--run-dir", type=Path, default=None, help="where truth.h5 is written")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    adapter = load_adapter_factory(given.backend)(_options(given.options), run_dir=given.run_dir)
    host = ColumnHost(adapter, given.listen)

    def end(number: int, frame: FrameType | None) -> None:
        host.ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever drives
    try:
        while not host.ended.wait(0.2):
            continue
    finally:
        with contextlib.suppress(MicroscopeError):
            host.close()
    return 0


def _options(text: str) -> dict[str, OptionValue]:
    read = json.loads(text)
    if not isinstance(read, dict):
        raise SystemExit(f"--options must be a JSON object, got {text}")
    return {str(k): tuple(v) if isinstance(v, list) else v for k, v in read.items()}


if __name__ == "__main__":
    raise SystemExit(main())
