"""The library of experiments: every run and every crystal, searchable by material and outcome.

SQLite beside the run folders by default, any SQLAlchemy URL for a facility.  What is kept are the
numbers of ``report.json`` and where the files lie; adding a run again replaces what was there, so
the library can be rebuilt from the run folders at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from controller.record.journal import read_journal

FILE = "library.sqlite"
SCHEMA = "lodestem/report/1"

_META = MetaData()
RUNS = Table(
    "runs",
    _META,
    Column("folder", String(500), primary_key=True),
    Column("run_id", String(80), index=True),
    Column("name", String(80)),
    Column("material", String(80), index=True),
    Column("instrument", String(200)),
    Column("simulated", Boolean),
    Column("started_utc", String(40), index=True),
    Column("ended_utc", String(40)),
    Column("outcome", String(20)),
    Column("reason", Text),
    Column("seed", Integer),
    Column("plan_fingerprint", String(64)),
    Column("program_version", String(20)),
    Column("model_hash", String(64)),
    Column("calibration_date", String(40)),
    Column("hours", Float),
    Column("crystals", Integer),
    Column("done", Integer),
)
CRYSTALS = Table(
    "crystals",
    _META,
    Column("folder", String(500), ForeignKey("runs.folder"), primary_key=True),
    Column("crystal", String(64), primary_key=True),
    Column("material", String(80), index=True),
    Column("zone_uvw", String(20)),
    Column("status", String(12), index=True),
    Column("reason", Text),
    Column("misorientation_before_deg", Float),
    Column("misorientation_after_deg", Float),
    Column("patterns", Integer),
    Column("tilt_moves", Integer),
    Column("alignment_dose_e_per_A2", Float),
    Column("scan_fluence_e_per_A2", Float),
    Column("scan_dose_e_per_A2", Float),
    Column("scan_step_A", Float),
    Column("semiangle_mrad", Float),
    Column("planned_defocus_nm", Float),
    Column("defocus_nm", Float),
    Column("thickness_nm", Float),
    Column("resolution_A", Float, index=True),
    Column("frc_half_A", Float),
    Column("lattice_limit_A", Float),
    Column("pick_score", Float),
    Column("verdict", Text),
    Column("scan_file", String(500)),
    Column("reconstruction", String(500)),
)


class LibraryError(Exception):
    """The library cannot be read or written, or a folder holds no run for it."""


@dataclass(frozen=True)
class Wanted:
    """What to look for; None is anything."""

    material: str | None = None
    status: str | None = None
    at_best_A: float | None = None
    """Resolution of at most this."""
    since_utc: str | None = None
    instrument: str | None = None
    """Part of its name."""
    simulated: bool | None = None


class Library:
    """The catalogue behind one SQLAlchemy URL.

    Parameters
    ----------
    url
        ``sqlite:///PATH``, or any other that SQLAlchemy knows and whose driver is installed.

    Raises
    ------
    LibraryError
        It cannot be opened.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine: Engine = create_engine(url)
            _META.create_all(self._engine)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise LibraryError(f"the library {url} cannot be opened: {error}") from error

    def add(self, run_dir: Path) -> int:
        """Add a run, or what it has become; returns the number of its crystals.

        Raises
        ------
        LibraryError
            No report of a run there, or the library refuses.
        """
        run, crystals = rows_of(run_dir)
        try:
            with self._engine.begin() as db:
                db.execute(delete(CRYSTALS).where(CRYSTALS.c.folder == run["folder"]))
                db.execute(delete(RUNS).where(RUNS.c.folder == run["folder"]))
                db.execute(insert(RUNS), run)
                if crystals:
                    db.execute(insert(CRYSTALS), crystals)
        except SQLAlchemyError as error:
            raise LibraryError(f"{run_dir} could not be added: {error}") from error
        return len(crystals)

    def find(self, wanted: Wanted) -> list[dict[str, Any]]:
        """Crystals with their runs, best resolution first."""
        query = select(CRYSTALS, *(c for c in RUNS.c if c.name not in CRYSTALS.c)).join(
            RUNS, CRYSTALS.c.folder == RUNS.c.folder
        )
        if wanted.material is not None:
            query = query.where(func.lower(CRYSTALS.c.material) == wanted.material.lower())
        if wanted.status is not None:
            query = query.where(CRYSTALS.c.status == wanted.status)
        if wanted.at_best_A is not None:
            query = query.where(CRYSTALS.c.resolution_A <= wanted.at_best_A)
        if wanted.since_utc is not None:
            query = query.where(RUNS.c.started_utc >= wanted.since_utc)
        if wanted.instrument is not None:
            query = query.where(RUNS.c.instrument.contains(wanted.instrument, autoescape=True))
        if wanted.simulated is not None:
            query = query.where(RUNS.c.simulated == wanted.simulated)
        query = query.order_by(CRYSTALS.c.resolution_A.is_(None), CRYSTALS.c.resolution_A)
        return self._rows(query)

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        return self._rows(select(RUNS).order_by(RUNS.c.started_utc.desc()))

    def experience(self, material: str) -> list[dict[str, Any]]:
        """How crystals of a material fared under each condition of the scan.

        Returns
        -------
        One row per (semiangle, step, planned defocus, fluence): crystals scanned and accepted,
        mean and best resolution in Å.
        """
        conditions = (
            CRYSTALS.c.semiangle_mrad,
            CRYSTALS.c.scan_step_A,
            CRYSTALS.c.planned_defocus_nm,
            CRYSTALS.c.scan_fluence_e_per_A2,
        )
        accepted = func.sum(func.iif(CRYSTALS.c.status == "done", 1, 0))
        query = (
            select(
                *conditions,
                func.count().label("scanned"),
                accepted.label("accepted"),
                func.avg(CRYSTALS.c.resolution_A).label("mean_resolution_A"),
                func.min(CRYSTALS.c.resolution_A).label("best_resolution_A"),
            )
            .where(func.lower(CRYSTALS.c.material) == material.lower())
            .where(CRYSTALS.c.scan_file.is_not(None))
            .group_by(*conditions)
            .order_by(accepted.desc())
        )
        return self._rows(query)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _rows(self, query: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (a SQLAlchemy select)
        try:
            with self._engine.connect() as db:
                return [dict(row) for row in db.execute(query).mappings()]
        except SQLAlchemyError as error:
            raise LibraryError(f"the library could not be read: {error}") from error


def default_url(run_dir: Path) -> str:
    """The library beside a run folder."""
    return f"sqlite:///{run_dir.resolve().parent / FILE}"


def rows_of(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run and its crystals as rows of the library.

    Raises
    ------
    LibraryError
        No ``report.json`` of a run, or one of another kind.
    """
    path = run_dir / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LibraryError(
            f"{path} cannot be read ({error}); build it with `lodestem report {run_dir}`"
        ) from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise LibraryError(f"{path} is no report of a run ({SCHEMA})")
    run, plan = report["run"], _plan(run_dir)
    material = str(plan.get("sample", {}).get("material", ""))
    scan = plan.get("scan", {})
    folder = str(run_dir.resolve())
    targets: Sequence[dict[str, Any]] = report["targets"]
    crystals = [_crystal(folder, material, scan, target) for target in targets]
    return (
        {
            "folder": folder,
            "run_id": run.get("run_id"),
            "name": run.get("name"),
            "material": material,
            "instrument": run.get("instrument"),
            "simulated": report.get("simulated"),
            "started_utc": run.get("first_utc"),
            "ended_utc": run.get("last_utc"),
            "outcome": run.get("outcome"),
            "reason": run.get("reason"),
            "seed": run.get("seed"),
            "plan_fingerprint": run.get("plan_fingerprint"),
            "program_version": run.get("program_version"),
            "model_hash": run.get("model_hash"),
            "calibration_date": (run.get("calibration") or {}).get("date"),
            "hours": (run.get("duration_s") or 0.0) / 3600,
            "crystals": len(targets),
            "done": sum(target.get("status") == "done" for target in targets),
        },
        crystals,
    )


def _crystal(
    folder: str, material: str, scan: dict[str, Any], target: dict[str, Any]
) -> dict[str, Any]:
    files = target.get("files") or {}
    zone = target.get("zone_uvw")
    same = (
        "status", "reason", "misorientation_before_deg", "misorientation_after_deg", "patterns",
        "tilt_moves", "alignment_dose_e_per_A2", "scan_fluence_e_per_A2", "scan_dose_e_per_A2",
        "defocus_nm", "thickness_nm", "resolution_A", "frc_half_A", "lattice_limit_A",
        "pick_score", "verdict",
    )  # fmt: skip
    return {
        "folder": folder,
        "crystal": target["id"],
        "material": target.get("structure") or material,
        "zone_uvw": None if zone is None else " ".join(str(index) for index in zone),
        "scan_step_A": scan.get("step_A"),
        "semiangle_mrad": scan.get("convergence_semiangle_mrad"),
        "planned_defocus_nm": scan.get("defocus_nm"),
        "scan_file": files.get("scan"),
        "reconstruction": files.get("reconstruction"),
        **{name: target.get(name) for name in same},
    }


def _plan(run_dir: Path) -> dict[str, Any]:
    """The plan of a run, from the first line of its journal."""
    for entry in _first(read_journal(run_dir / "journal.jsonl")):
        plan = getattr(entry.event, "plan", None)
        if isinstance(plan, dict):
            return plan
    return {}


def _first(entries: Iterable[Any]) -> Iterable[Any]:
    try:
        for entry in entries:
            yield entry
            return
    except (OSError, ValueError):
        return
