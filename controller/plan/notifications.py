"""Who is told what, and how: channels inside the laboratory's network, no outside service."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from controller.hardware.values import Frozen, Positive

Address = Annotated[str, Field(pattern=r"^[^\s@<>]+@[^\s@<>]+$", max_length=254)]
Hours = Annotated[float, Field(gt=0, le=240)]


class EmailPlan(Frozen):
    """Mail through the site's relay."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 25
    security: Literal["none", "starttls", "tls"] = "none"
    sender: Address
    to: Annotated[tuple[Address, ...], Field(min_length=1)]
    escalate_to: tuple[Address, ...] = ()
    """Told if nobody acknowledges what is urgent within `escalate_after_min`."""
    user: str = ""
    password_env: str = ""
    """Name of the environment variable that holds the password; never the password itself."""


class WebhookPlan(Frozen):
    """A JSON document by POST, inside the LAN."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]

    def is_local(self) -> bool:
        """Whether every address of its host is private, link-local or this machine's.

        Raises
        ------
        OSError
            The name cannot be resolved.
        """
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        return bool(addresses) and all(a.is_private or a.is_loopback for a in addresses)


class NotificationPlan(Frozen):
    """What a run tells people who are not there."""

    email: EmailPlan | None = None
    webhook: WebhookPlan | None = None
    command: tuple[str, ...] = ()
    """Run for every notice, with its severity and its subject as two further arguments: a lamp,
    a relay, a text message."""
    still_well_h: tuple[Hours, ...] = ()
    """Hours after the start at which a note says that all is well."""
    approval_waits_min: Positive = 10.0
    """A proposal that waits longer is told."""
    escalate_after_min: Positive = 15.0
    most_per_hour: Annotated[int, Field(ge=1, le=60)] = 6
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """A channel that has not taken a notice by then is given up for it."""

    @property
    def is_silent(self) -> bool:
        """Whether nobody is told anything."""
        return self.email is None and self.webhook is None and not self.command

    @model_validator(mode="after")
    def _notes_need_a_channel(self) -> Self:
        if self.still_well_h and self.is_silent:
            raise ValueError(
                f"still_well_h = {list(self.still_well_h)} and no channel to send the notes by; "
                f"give email, webhook or command"
            )
        return self
