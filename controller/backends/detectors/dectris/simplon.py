"""The SIMPLON interface: parameters and commands of a DECTRIS detector over HTTP.

``/<module>/api/<version>/<kind>/<key>``; values travel as ``{"value": ...}``.  Every request has a
connection of its own, so any thread may ask while another waits for a trigger to end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from controller.hardware.errors import (
    ArmFailedError,
    ProtocolError,
    ReplyTimeoutError,
    UnreachableError,
)

MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class Simplon:
    """One detector control unit."""

    host: str
    port: int
    version: str
    timeout_s: float

    def get(self, module: str, kind: str, key: str) -> Any:  # noqa: ANN401
        """Value of a parameter (``config``) or reading (``status``).

        Raises
        ------
        ArmFailedError
            The detector has no such key or refuses.
        UnreachableError, ReplyTimeoutError, ProtocolError
            No connection, no answer in time, or no JSON with a value.
        """
        reply = self._request("GET", f"/{module}/api/{self.version}/{kind}/{key}")
        if not isinstance(reply, dict) or "value" not in reply:
            raise ProtocolError(
                f"{module}/{kind}/{key} came without a value from {self.host}:{self.port}; nothing "
                f"was armed. Look what answers on `api_port`."
            )
        return reply["value"]

    def has(self, module: str, kind: str, key: str) -> bool:
        """Whether the detector knows a parameter."""
        try:
            self.get(module, kind, key)
        except ArmFailedError:
            return False
        return True

    def put(self, module: str, key: str, value: str | float | bool) -> None:
        """Set a parameter; raises like `get`."""
        self._request("PUT", f"/{module}/api/{self.version}/config/{key}", {"value": value})

    def command(self, name: str, *, timeout_s: float | None = None) -> Any:  # noqa: ANN401
        """Run a detector command (``initialize``, ``arm``, ``trigger``, ``disarm``, ``abort``).

        Returns when the detector says that it is done, which for ``trigger`` is the end of the
        exposure.  Returns the answer, e.g. ``{"sequence id": 7}``; raises like `get`.
        """
        path = f"/detector/api/{self.version}/command/{name}"
        return self._request("PUT", path, timeout_s=timeout_s)

    def _request(
        self, method: str, path: str, body: object = None, timeout_s: float | None = None
    ) -> Any:  # noqa: ANN401
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        connection = HTTPConnection(self.host, self.port, timeout=limit_s)
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            text = response.read(MAX_REPLY_BYTES + 1)
        except TimeoutError as problem:
            raise ReplyTimeoutError(
                f"{method} {path} was not answered by {self.host}:{self.port} within {limit_s:g} "
                f"s; whether it was carried out is unknown. Read the detector's state first."
            ) from problem
        except (OSError, HTTPException) as problem:
            raise UnreachableError(
                f"the detector at {self.host}:{self.port} failed on {method} {path}: {problem!r}. "
                f"Switch it on, or correct `host` and `api_port`."
            ) from problem
        finally:
            connection.close()
        return self._content(f"{method} {path}", response.status, text)

    def _content(self, request: str, status: int, text: bytes) -> Any:  # noqa: ANN401
        if len(text) > MAX_REPLY_BYTES:
            raise ProtocolError(
                f"the answer to {request} is longer than {MAX_REPLY_BYTES} bytes; it was not read. "
                f"Look what answers on {self.host}:{self.port}."
            )
        if status >= 400:
            said = text[:300].decode("utf-8", errors="replace")
            raise ArmFailedError(
                f"the detector refuses {request} (status {status}): {said}; it is not armed. "
                f"Look at the detector, then arm again.",
                vendor_code=status,
                vendor_text=said,
            )
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise ProtocolError(
                f"the answer to {request} is no JSON: {text[:80]!r}; the outcome is unknown. Look "
                f"what answers on {self.host}:{self.port}."
            ) from problem
