"""The allow-list: which key is whose, and in which role."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from controller.hardware.values import Frozen
from controller.server.roles import Role


class Client(Frozen):
    """One key that may connect."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@ -]{1,64}$")]
    role: Role
    key: Annotated[str, Field(min_length=40, max_length=40)]
    """Public CURVE key, z85: the line ``public-key`` of the client's ``NAME.key``."""


class AllowList(Frozen):
    """All keys that may connect."""

    clients: tuple[Client, ...] = ()

    @model_validator(mode="after")
    def _nobody_twice(self) -> AllowList:
        for what in ("name", "key"):
            values = [getattr(client, what) for client in self.clients]
            twice = {value for value in values if values.count(value) > 1}
            if twice:
                raise ValueError(f"the {what} {min(twice)!r} is listed twice")
        return self

    def find(self, key: str) -> Client | None:
        """Whose key it is."""
        return next((client for client in self.clients if client.key == key), None)


def load_allowed(path: Path) -> AllowList:
    """Read the YAML file that `lodestem keys allow` writes.

    Raises
    ------
    ValueError
        Not such a file; says where.
    OSError
        It cannot be read.
    """
    try:
        return AllowList.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no list of allowed keys: {error}") from error


def save_allowed(path: Path, allowed: AllowList) -> None:
    """Write the list, for its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(
        yaml.safe_dump(allowed.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )
    fresh.chmod(0o600)
    fresh.replace(path)
