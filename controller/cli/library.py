"""``lodestem library``: find past runs and crystals by material, conditions and outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller.cli.output import InputError, command
from controller.record.library import FILE, Library, LibraryError, Wanted


def url_of(library: str) -> str:
    """A path or an SQLAlchemy URL as a URL."""
    if "://" in library:
        return library
    path = Path(library)
    return f"sqlite:///{(path / FILE if path.is_dir() else path).resolve()}"


def find_command(library: str, wanted: Wanted, *, as_json: bool) -> None:
    """Print the crystals that match."""
    with command("library", as_json=as_json) as output:
        try:
            found = Library(url_of(library)).find(wanted)
        except LibraryError as error:
            raise InputError(str(error)) from error
        output.result({"crystals": found}, "\n".join(map(_line, found)) or "nothing like that")


def add_command(run_dirs: list[Path], library: str, *, as_json: bool) -> None:
    """Add runs, or bring them up to date."""
    with command("library", as_json=as_json) as output:
        try:
            shelf = Library(url_of(library))
            added = {str(run): shelf.add(run) for run in run_dirs}
        except LibraryError as error:
            raise InputError(str(error), "runs added before it stay added") from error
        lines = [f"{run}: {crystals} crystals" for run, crystals in added.items()]
        output.result({"added": added}, "\n".join(lines))


def experience_command(material: str, library: str, *, as_json: bool) -> None:
    """Print how a material fared under each condition."""
    with command("library", as_json=as_json) as output:
        try:
            rows = Library(url_of(library)).experience(material)
        except LibraryError as error:
            raise InputError(str(error)) from error
        lines = [
            f"{_n(r['semiangle_mrad'])} mrad, step {_n(r['scan_step_A'])} A, defocus "
            f"{_n(r['planned_defocus_nm'])} nm, {_n(r['scan_fluence_e_per_A2'])} e/A2: "
            f"{r['accepted']} of {r['scanned']} accepted, best {_n(r['best_resolution_A'])} A"
            for r in rows
        ]
        output.result({"conditions": rows}, "\n".join(lines) or f"no scans of {material}")


def _line(row: dict[str, Any]) -> str:
    return (
        f"{(row['started_utc'] or '')[:10]}  {row['name']} {row['crystal']}  {row['material']} "
        f"[{row['zone_uvw'] or '?'}]  {row['status']}  {_n(row['resolution_A'])} A  "
        f"{row['folder']}"
    )


def _n(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
