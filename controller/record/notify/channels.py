"""The ways to reach somebody: mail, a webhook inside the LAN, a command.  Each has a deadline."""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from controller.plan.notifications import EmailPlan, NotificationPlan, WebhookPlan
from controller.record.notify.rules import Notice

Send = Callable[[Notice, str, bool], None]
"""(notice, name of the run, to the second address): raises whatever goes wrong."""


class ChannelError(Exception):
    """A channel did not take a notice."""


@dataclass(frozen=True)
class Channel:
    """One way, by name."""

    name: str
    send: Send


def channels_of(plan: NotificationPlan) -> tuple[Channel, ...]:
    """The channels that a plan names."""
    found = []
    if plan.email is not None:
        found.append(Channel("email", _mailer(plan.email, plan.timeout_s)))
    if plan.webhook is not None:
        found.append(Channel("webhook", _poster(plan.webhook, plan.timeout_s)))
    if plan.command:
        found.append(Channel("command", _runner(plan.command, plan.timeout_s)))
    return tuple(found)


def _mailer(plan: EmailPlan, timeout_s: float) -> Send:
    def send(notice: Notice, run: str, escalated: bool) -> None:
        to = plan.escalate_to if escalated else plan.to
        if not to:
            return
        message = EmailMessage()
        message["From"] = plan.sender
        message["To"] = ", ".join(to)
        message["Subject"] = _one_line(f"[lodestem {run}] {notice.severity.name} {notice.subject}")
        message.set_content(notice.body)
        kind = smtplib.SMTP_SSL if plan.security == "tls" else smtplib.SMTP
        with kind(plan.host, plan.port, timeout=timeout_s) as relay:
            if plan.security == "starttls":
                relay.starttls()
            if plan.user:
                relay.login(plan.user, _password(plan))
            relay.send_message(message)

    return send


def _password(plan: EmailPlan) -> str:
    password = os.environ.get(plan.password_env)
    if password is None:
        raise ChannelError(
            f"the environment variable {plan.password_env!r} with the password of {plan.user} is "
            f"not set"
        )
    return password


def _poster(plan: WebhookPlan, timeout_s: float) -> Send:
    def send(notice: Notice, run: str, escalated: bool) -> None:
        if not plan.is_local():
            raise ChannelError(
                f"{plan.url} lies outside the local network; notices are not sent there"
            )
        document = {
            "schema": "lodestem/notice/1",
            "run": run,
            "severity": notice.severity.name,
            "cause": notice.cause,
            "subject": notice.subject,
            "body": notice.body,
            "escalated": escalated,
        }
        request = urllib.request.Request(
            plan.url,
            data=json.dumps(document).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StayHere())
        with opener.open(request, timeout=timeout_s) as answer:
            answer.read(1024)

    return send


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A redirection could lead outside: none is followed."""

    def redirect_request(self, *_: object) -> None:
        return None


def _runner(command: Sequence[str], timeout_s: float) -> Send:
    def send(notice: Notice, run: str, escalated: bool) -> None:
        subprocess.run(
            [*command, notice.severity.name, _one_line(notice.subject)],
            timeout=timeout_s,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LODESTEM_RUN": run, "LODESTEM_BODY": notice.body},
        )

    return send


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
