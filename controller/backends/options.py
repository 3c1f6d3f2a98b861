"""Options of a driver from the command line or a configuration: read once, refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from controller.backends.registry import OptionValue
from controller.hardware.values import Frozen

Options = TypeVar("Options", bound="DriverOptions")


class DriverOptions(Frozen):
    """What every driver that needs a site file is told; drivers add their own."""

    site: Path
    """YAML file with what the vendor's interface does not tell; see ``docs/drivers.md``."""


def read_options(kind: type[Options], driver: str, options: Mapping[str, OptionValue]) -> Options:
    """Check and convert.

    Raises
    ------
    ValueError
        An unknown key or a bad value, named, with what there is.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as problems:
        listed = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in problems.errors()
        )
        raise ValueError(
            f"the driver {driver} cannot be opened: {listed}. "
            f"It takes {', '.join(kind.model_fields)}"
        ) from problems


def import_vendor(module: str, remedy: str) -> Any:  # noqa: ANN401  (a vendor's module)
    """Import a vendor's package, which is nobody's dependency.

    Raises
    ------
    ValueError
        It is not there; says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as problem:
        raise ValueError(
            f"the package {module!r} cannot be imported ({problem}): {remedy}"
        ) from problem
