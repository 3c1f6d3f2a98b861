"""Library of materials: structure, critical dose with its source, and zones worth a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from controller.hardware.values import Frozen, Positive

_FOLDER = Path(__file__).parent


class MaterialError(ValueError):
    """A material that is not known, or not known well enough."""


class Material(Frozen):
    """One entry of the library."""

    name: str
    structure: Path
    target_zones: Annotated[tuple[tuple[int, int, int], ...], Field(min_length=1)]
    critical_dose_e_per_A2: Positive
    source: str
    """Where the critical dose comes from, and for which conditions."""


def material_names() -> list[str]:
    """Names in the library."""
    return sorted(_entries())


def load_material(name: str) -> Material:
    """The entry called `name`, case aside.

    Raises
    ------
    MaterialError
        Not in the library; lists what is.
    """
    entries = _entries()
    by_lower = {key.lower(): key for key in entries}
    key = by_lower.get(name.lower())
    if key is None:
        raise MaterialError(
            f"material = {name!r} is not in the library ({', '.join(sorted(entries))}); "
            f"give structure, target_zones and critical_dose_e_per_A2 for your own"
        )
    entry = entries[key]
    structure = _FOLDER / str(entry["structure"])
    return Material.model_validate({**entry, "name": key, "structure": structure})


def _entries() -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = yaml.safe_load(
        (_FOLDER / "materials.yaml").read_text(encoding="utf-8")
    )
    return entries
