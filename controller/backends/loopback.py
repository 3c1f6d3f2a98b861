"""Vendors' own servers have no authentication: they are reached over loopback, or not at all."""

from __future__ import annotations

import ipaddress
import socket


def check_host(host: str, *, allow_remote: bool, what: str) -> None:
    """Refuse a host that is not this machine.

    Raises
    ------
    ValueError
        Not loopback and not allowed, or the name is not known.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as problem:
        raise ValueError(f"host = {host!r} is not known ({problem}); give a name or address") from (
            problem
        )
    if allow_remote or all(ipaddress.ip_address(address).is_loopback for address in found):
        return
    raise ValueError(
        f"host = {host!r} is another machine, and {what} asks nobody who he is: whoever reaches "
        f"its port drives the column. Run lodestem serve on that machine and connect with keys; "
        f"on a dedicated link between two machines alone say allow_remote = true."
    )
