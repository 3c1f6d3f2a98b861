"""Where a server listens: one address, three lanes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import zmq
import zmq.utils.z85
from zmq.auth import create_certificates, load_certificate

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Endpoints:
    """Addresses of the lanes: commands, safety (never queues), telemetry."""

    command: str
    safety: str
    telemetry: str

    @classmethod
    def of(cls, url: str) -> Self:
        """``tcp://host:port`` uses port, port + 1 and port + 2; ``ipc://path`` two more sockets.

        Raises
        ------
        ValueError
            Not such an address.
        """
        if found := re.fullmatch(r"tcp://([^/\s]+):(\d{1,5})", url):
            host, port = found[1], int(found[2])
            if 1 <= port <= 65533:
                return cls(*(f"tcp://{host}:{port + i}" for i in range(3)))
        if re.fullmatch(r"ipc://\S+", url):
            return cls(url, f"{url}.safety", f"{url}.telemetry")
        raise ValueError(
            f"{url!r} is no address of a server; write tcp://HOST:PORT with a port up to 65533 "
            f"(it and the next two are used), or ipc://PATH"
        )

    @property
    def is_loopback(self) -> bool:
        """Whether nobody outside this machine can reach it."""
        host = re.fullmatch(r"tcp://([^/\s]+):\d+", self.command)
        return host is None or host[1] in LOOPBACK


@dataclass(frozen=True)
class Keys:
    """A CURVE key pair, and for a client the public key of its server; z85 text as bytes."""

    public: bytes
    secret: bytes
    server: bytes = b""

    def on_client(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` speak to that server only."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_serverkey = self.server

    def on_server(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` accept only clients with an allowed key."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_server = True


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new key pair ``NAME.key`` and ``NAME.key_secret``; the latter for its owner only.

    Raises
    ------
    FileExistsError
        Keys of that name are there; they are never overwritten.
    ValueError
        A name that is no plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("."):
        raise ValueError(f"{name!r} is no name for a key; use letters, digits, _ . - (at most 64)")
    public = folder / f"{name}.key"
    if public.exists() or (folder / f"{name}.key_secret").exists():
        raise FileExistsError(f"{public} exists; keys are never overwritten. Take another name")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made_public, made_secret = create_certificates(str(folder), name)
    Path(made_secret).chmod(0o600)
    return Path(made_public), Path(made_secret)


def load_keys(secret_file: Path, server_file: Path | None = None) -> Keys:
    """Read a pair from its secret file, and the server's public key.

    Raises
    ------
    ValueError
        A file that holds no such key.
    OSError
        A file that cannot be read.
    """
    public, secret = load_certificate(str(secret_file))
    if secret is None:
        raise ValueError(f"{secret_file} holds no secret key; give the file NAME.key_secret")
    server = b"" if server_file is None else load_certificate(str(server_file))[0]
    return Keys(public, secret, server)


def public_text(key_file: Path) -> str:
    """The public key of a file as text, for an allow-list."""
    return load_certificate(str(key_file))[0].decode("ascii")
