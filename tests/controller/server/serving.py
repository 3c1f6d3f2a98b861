"""A served microscope for tests: server and clients in one process, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import zmq
from zmq.auth import create_certificates

from controller.hardware.wire.endpoints import Endpoints, Keys, load_keys, public_text
from controller.safety.gate import GuardedMicroscope
from controller.server.allowed import AllowList, Client
from controller.server.client import RemoteMicroscope, connect
from controller.server.door import Door, authenticated
from controller.server.publisher import Publisher
from controller.server.roles import Role
from controller.server.security_log import SecurityLog
from controller.server.service import Service


@dataclass(frozen=True)
class Keyring:
    """Keys of a server, of one client in each role, and of a stranger."""

    folder: Path
    door: Door = field(default_factory=Door)

    def of(self, name: str) -> Keys | None:
        if self.door.keys is None:
            return None
        return load_keys(self.folder / f"{name}.key_secret", self.folder / "server.key")


def keyed(folder: Path) -> Keyring:
    """A keyring with a key for every role, named after it."""
    keys = folder / "keys"
    if not keys.exists():
        keys.mkdir(parents=True)
        for name in ("server", "stranger", *(role.value for role in Role)):
            create_certificates(str(keys), name)
    clients = tuple(
        Client(name=role.value, role=role, key=public_text(keys / f"{role.value}.key"))
        for role in Role
    )
    return Keyring(keys, Door(load_keys(keys / "server.key_secret"), AllowList(clients=clients)))


@dataclass
class Served:
    """A running server and how to reach it."""

    url: str
    service: Service
    security: SecurityLog
    ring: Keyring

    def client(self, role: str = "agent") -> AbstractContextManager[RemoteMicroscope]:
        return connect(self.url, keys=self.ring.of(role), name=role, role=role)


@contextmanager
def served(
    guarded: GuardedMicroscope, ring: Keyring, *, lease_ttl_s: float = 2.0
) -> Iterator[Served]:
    """Serve `guarded` over sockets in a folder of its own: their paths must be short."""
    with TemporaryDirectory(prefix="lds") as sockets:
        yield from _serve(guarded, ring, f"ipc://{sockets}/s", lease_ttl_s)


def _serve(
    guarded: GuardedMicroscope, ring: Keyring, url: str, lease_ttl_s: float
) -> Iterator[Served]:
    endpoints = Endpoints.of(url)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    security = SecurityLog(ring.folder / "security.jsonl")
    try:
        with authenticated(context, ring.door, security):
            publisher = Publisher(endpoints.telemetry, context=context, keys=ring.door.keys)
            service = Service(
                guarded,
                endpoints,
                context=context,
                publisher=publisher,
                door=ring.door,
                security=security,
                lease_ttl_s=lease_ttl_s,
            )
            try:
                yield Served(url, service, security, ring)
            finally:
                service.close()
                publisher.close()
    finally:
        context.term()
