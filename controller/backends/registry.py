"""Find drivers by name through entry points, so that nobody imports them by hand.

A laboratory adds its own driver in a package of its own that declares, in the group
``lodestem.adapters``, a callable with the signature of :class:`AdapterFactory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter

GROUP = "lodestem.adapters"

OptionValue = str | int | float | bool | tuple[str, ...] | None


class AdapterFactory(Protocol):
    """Opens an instrument; the beam is blanked when it returns."""

    def __call__(
        self,
        options: Mapping[str, OptionValue],
        *,
        clock: Clock | None = None,
        run_dir: Path | None = None,
    ) -> Adapter:
        """Open with driver-specific `options`.

        Raises
        ------
        ValueError
            An unknown key or a bad value, named, with the remedy.
        """


class UnknownAdapterError(LookupError):
    """No driver of that name is installed."""


def available_adapters() -> dict[str, EntryPoint]:
    """Installed drivers by name, without importing any."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load_adapter_factory(name: str) -> AdapterFactory:
    """Import the driver called `name`.

    Raises
    ------
    UnknownAdapterError
        Not installed; lists what is.
    """
    found = available_adapters()
    if name not in found:
        raise UnknownAdapterError(
            f"no instrument driver called {name!r}; "
            f"installed: {', '.join(sorted(found)) or 'none'}. "
            f"Install the package that provides it (entry-point group {GROUP!r})"
        )
    factory: AdapterFactory = found[name].load()
    return factory
