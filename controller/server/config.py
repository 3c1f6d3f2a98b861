"""How a hardware server is set up: one YAML file that refuses nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from controller.backends.registry import OptionValue
from controller.hardware.values import Axis, Finite, Frozen, StageLimits
from controller.hardware.wire.endpoints import Endpoints
from controller.safety.limits import DoseLimits
from controller.server.lease import TTL_S
from controller.server.watchdog import SILENCE_S


class Driver(Frozen):
    """Which driver, and what it wants to know."""

    adapter: str
    options: dict[str, OptionValue] = Field(default_factory=dict)


class WatchdogConfig(Frozen):
    """The process that blanks when the server is gone."""

    driver: Driver | None = None
    """Its own connection; default: the server's driver, opened a second time."""
    silence_s: Annotated[float, Field(ge=0.2, le=5)] = SILENCE_S


class KeyFiles(Frozen):
    """CURVE keys; paths are relative to the configuration."""

    secret: Path
    """The server's ``NAME.key_secret``."""
    allowed: Path
    """The list that `lodestem keys allow` keeps."""


class ServerConfig(Frozen):
    """A hardware server."""

    schema_: Annotated[Literal["lodestem/server/1"], Field(alias="schema")]
    driver: Driver
    listen: str = "tcp://127.0.0.1:7464"
    """Commands; safety and telemetry use the next two ports."""
    run_dir: Path
    """Gets the dose ledger and the scans; relative to the configuration."""
    budgets: DoseLimits
    stage_limits: dict[Axis, tuple[Finite, Finite]] = Field(default_factory=dict)
    """Of the site, inside those of vendor and holder."""
    keys: KeyFiles | None = None
    """None: a simulator on loopback only."""
    lease_ttl_s: Annotated[float, Field(ge=0.5, le=TTL_S)] = TTL_S
    watchdog: WatchdogConfig | None = WatchdogConfig()
    """None: no second guard, and unattended runs are refused on a real instrument."""

    @model_validator(mode="after")
    def _address_can_be_read(self) -> Self:
        Endpoints.of(self.listen)
        return self

    @property
    def site_limits(self) -> StageLimits | None:
        """The site's box, if it sets one."""
        return StageLimits(ranges=self.stage_limits) if self.stage_limits else None


def load_server_config(path: Path) -> ServerConfig:
    """Read and check; relative paths become absolute.

    Raises
    ------
    ValueError
        With every key that is wrong.
    OSError
        The file cannot be read.
    """
    try:
        config = ServerConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        wrong = "\n  ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'file'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)
        )
        raise ValueError(f"{path} is no server configuration:\n  {wrong}") from None
    here = path.resolve().parent
    keys = config.keys
    return config.model_copy(
        update={
            "run_dir": here / config.run_dir,
            "keys": None
            if keys is None
            else KeyFiles(secret=here / keys.secret, allowed=here / keys.allowed),
        }
    )
