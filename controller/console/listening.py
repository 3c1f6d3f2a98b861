"""Where the console listens, and under which conditions it does so at all."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path


class ListenRefusedError(Exception):
    """It does not start; the message says what is missing."""


@dataclass(frozen=True)
class Listening:
    """An address, and the certificate that it speaks with."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    """Without TLS off loopback; for simulators only."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens on all addresses of this machine."""
        return self.host in ("0.0.0.0", "::")

    @property
    def url(self) -> str:
        """What a browser opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}/"

    def check(self, *, has_account: bool, simulated: bool) -> None:
        """Refuse to be reachable without TLS and an account.

        Raises
        ------
        ListenRefusedError
            With the remedy; nothing listens.
        """
        if (self.certificate is None) != (self.key is None):
            raise ListenRefusedError(
                "a certificate comes with its key: give --tls-cert and --tls-key"
            )
        if self.insecure and not simulated:
            raise ListenRefusedError(
                "--insecure is for simulators only; at an instrument give --tls-cert and --tls-key"
            )
        if self.certificate is not None and self.key is not None:
            try:
                ssl.create_default_context().load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise ListenRefusedError(
                    f"{self.certificate} and {self.key} are no certificate with its key: {error}"
                ) from error
        if self.is_loopback:
            return
        if self.certificate is None and not self.insecure:
            raise ListenRefusedError(
                f"{self.host} can be reached from other machines: that needs TLS (--tls-cert and "
                f"--tls-key); nothing listens"
            )
        if not has_account:
            raise ListenRefusedError(
                f"{self.host} can be reached from other machines and there is no account; make one "
                f"with `lodestem users add NAME --role operator`; nothing listens"
            )


def is_address(host: str) -> bool:
    """Whether it is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
