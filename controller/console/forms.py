"""Small forms, read once and kept with the request."""

from __future__ import annotations

from typing import cast
from urllib.parse import parse_qsl

from starlette.requests import Request

MOST_BYTES = 20_000
MOST_FIELDS = 60


class FormError(ValueError):
    """A form that is not read."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded body.

    Raises
    ------
    FormError
        Too long, too many fields, or no text.
    """
    state = request.scope.setdefault("state", {})
    if "form" in state:
        return cast(dict[str, str], state["form"])
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise FormError(f"more than {MOST_BYTES} bytes")
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise FormError(f"no form: {error}") from error
    state["form"] = dict(pairs)
    return dict(pairs)


def number(fields: dict[str, str], name: str, default: float = 0.0) -> float:
    """A number of a form; an empty field is the default.

    Raises
    ------
    FormError
        No number.
    """
    text = fields.get(name, "").strip().replace(",", ".")
    if not text:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise FormError(f"{name} = {text!r} is not a number") from error
