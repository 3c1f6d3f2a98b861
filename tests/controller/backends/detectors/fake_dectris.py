"""A DECTRIS detector on loopback: SIMPLON over HTTP and a PUSH socket, with faults on demand.

Written from DECTRIS's public description; it is ours, so it proves the client's logic and not
the protocol (for that, ``tests/peers``).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import zmq
from numpy.typing import NDArray

from tests.controller.backends.detectors import v1_messages, v2_messages


@dataclass
class FakeDectris:
    """Keeps parameters, and pushes a series when it is armed and triggered."""

    counts: NDArray[np.generic]
    version: str = "v2"
    packing: str = "bslz4"
    series: int = 7
    config: dict[str, object] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    """Answer a path that ends so with this status."""
    alter: dict[str, object] = field(default_factory=dict)
    """Take another value than was set."""
    says_start: bool = True
    says_end: bool = True
    images_in_start: int | None = None
    reply: Callable[[int], object] = lambda series: {"sequence id": series}
    numbers: Callable[[int], list[int]] = lambda n: list(range(n))
    strangers: tuple[list[bytes], ...] = ()
    """Messages of somebody else's series, sent first."""
    trigger_at_once: bool = False
    """As a scan engine that runs already."""
    hang: dict[str, float] = field(default_factory=dict)
    """Wait so many seconds before answering a path that ends so."""
    garbage: bytes = b""
    requests: list[str] = field(default_factory=list)
    _push: zmq.Socket[bytes] | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    # --- what a test may do ------------------------------------------------------------------

    def push(self, parts: list[bytes]) -> None:
        with self._turn:
            if self._push is not None:
                self._push.send_multipart(parts)

    def send_series(self) -> None:
        """A pulse of the scan engine."""
        for parts in self.strangers:
            self.push(parts)
        for number in self.numbers(len(self.counts)):
            self.push(self._image(number))
        if self.garbage:
            self.push([self.garbage])
        if self.says_end:
            self.push(self._end())

    # --- inside ------------------------------------------------------------------------------

    def _image(self, number: int) -> list[bytes]:
        data = self.counts[number % len(self.counts)]
        if self.version == "v1":
            return v1_messages.image(self.series, number, data, self.packing)
        return [v2_messages.image(self.series, number, data, self.packing)]

    def _end(self) -> list[bytes]:
        if self.version == "v1":
            return v1_messages.end(self.series)
        return [v2_messages.end(self.series)]

    def _start(self) -> list[list[bytes]]:
        n = self.images_in_start or len(self.counts)
        shape = self.counts.shape[1:]
        if self.version == "v1":
            settings = json.dumps({"nimages": n, "ntrigger": 1}).encode()
            return [v1_messages.start(self.series), [settings]]
        return [[v2_messages.start(self.series, (shape[0], shape[1]), n)]]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        time.sleep(max([s for end, s in self.hang.items() if path.endswith(end)], default=0.0))
        self.requests.append(f"{method} {path}")
        for end, status in self.refuse.items():
            if path.endswith(end):
                return status, f"no {end}"
        key = "/".join(part for part in path.split("/") if part not in ("api", "1.8.0", ""))
        if "/command/" in path:
            return 200, self._command(path.rsplit("/", 1)[1])
        if method == "PUT":
            self.config[key] = self.alter.get(key, json.loads(body)["value"])
            return 200, [key]
        return (200, {"value": self.config[key]}) if key in self.config else (404, "unknown")

    def _command(self, name: str) -> object:
        if name == "arm":
            self.series += 1
            if self.says_start:
                for parts in self._start():
                    self.push(parts)
            if self.trigger_at_once:
                self.send_series()
            return self.reply(self.series)
        if name == "trigger":
            self.send_series()
        return {}


@contextmanager
def serving(dectris: FakeDectris) -> Iterator[tuple[int, int]]:
    """Serve until the end of the block; gives (port of the interface, port of the stream)."""
    rows, columns = dectris.counts.shape[1:]
    dectris.config |= {
        "detector/config/y_pixels_in_detector": rows,
        "detector/config/x_pixels_in_detector": columns,
        "detector/config/bit_depth_image": 8 * dectris.counts.dtype.itemsize,
        "stream/config/format": "legacy",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._reply("PUT")

        def do_GET(self) -> None:
            self._reply("GET")

        def _reply(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = dectris.answer(method, self.path, body)
            text = json.dumps(content).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except ConnectionError:  # whoever asked has given up
                pass

        def log_message(self, *_: object) -> None:
            pass

    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.setsockopt(zmq.LINGER, 0)
    push.setsockopt(zmq.SNDTIMEO, 500)
    stream_port = push.bind_to_random_port("tcp://127.0.0.1")
    dectris._push = push
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_address[1], stream_port
    finally:
        server.shutdown()
        server.server_close()
        with dectris._turn:
            dectris._push = None
            push.close()
        context.term()
