"""``lodestem calibrate``: measure tilt axes, camera or beam tilt, store it, and complain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import typer

from controller.cli.holder import numbers
from controller.cli.output import Exit, InputError, Output, command

if TYPE_CHECKING:
    from controller.calibration.acquire import Bench
    from controller.calibration.entries import Entry, StoredCalibration
    from controller.calibration.recorded import Recording
    from controller.hardware.clock import Clock

Kind = Literal["tilt-axes", "camera", "beam-tilt"]
_MICROSCOPE_DOSE_E_PER_A2 = 1e5
"""Limit of the ledger on a standard; what is used is stored with the result."""


@dataclass(frozen=True)
class Source:
    """Where the patterns come from: files, or an instrument."""

    files: tuple[Path, ...] = ()
    energy_keV: float | None = None
    inv_A_per_px: float | None = None
    backend: str | None = None
    scenario: str | None = None
    seed: int | None = None
    plan: Path | None = None
    at: str | None = None
    """Specimen point x,y in um."""
    run: Path | None = None
    """Folder of the ledger."""
    save: Path | None = None
    """Where the patterns are kept."""
    picture: Path | None = None
    """Where rings are drawn with their fit."""


@dataclass(frozen=True)
class Lighting:
    """How a standard is lit on the instrument."""

    beam_diameter_nm: float = 400.0
    electrons: float = 2e5
    detector_sampling_mrad: float = 0.25
    step: float = 1.0
    """Degrees or mrad."""


@dataclass(frozen=True)
class Specimen:
    """What is under the beam."""

    structure: Path | None = None
    """CIF of the crystal, or of the polycrystalline standard."""
    zone: str | None = None
    reading_sigma_deg: float = 0.01


def calibrate_command(
    kind: Kind,
    *,
    source: Source,
    lighting: Lighting,
    specimen: Specimen,
    out: Path,
    as_json: bool,
    quiet: bool = False,
) -> None:
    """Measure, store and report one calibration."""
    with command(f"calibrate-{kind}", as_json=as_json, quiet=quiet) as output:
        from controller.calibration.entries import StoredCalibration
        from controller.calibration.store import (
            CalibrationFileError,
            append_entry,
            load_calibration,
        )

        try:
            before = load_calibration(out) if out.exists() else StoredCalibration()
        except CalibrationFileError as error:
            raise InputError(str(error)) from error
        measure = _measurer(kind, specimen, before)
        recording, now = _recording(kind, source, lighting, specimen.structure, output)
        try:
            entry = measure(recording, now)
        except ValueError as error:
            raise InputError(str(error), "nothing was stored") from error
        for text in _against_before(before, entry):
            output.warn(text)
        append_entry(out, entry)
        if source.picture is not None:
            _draw(recording, specimen, source.picture)
        result = entry.model_dump(mode="json") | {"file": str(out)}
        output.result(result, _in_words(entry) + f"\nstored in {out}")


def show_command(path: Path, *, as_json: bool) -> None:
    """List the current results and what is wrong with them. Exits 5 with alarms."""
    with command("calibrate-show", as_json=as_json) as output:
        from controller.calibration.alarms import calibration_alarms
        from controller.calibration.entries import KINDS
        from controller.calibration.store import CalibrationFileError, load_calibration

        try:
            stored = load_calibration(path)
        except CalibrationFileError as error:
            raise InputError(str(error)) from error
        alarms = calibration_alarms(stored, datetime.now(UTC))
        current = [e for kind in KINDS if (e := stored.latest(kind)) is not None]
        lines = [_in_words(entry) for entry in current]
        lines += [f"{alarm.severity.upper()}: {alarm.text()}" for alarm in alarms]
        output.result(
            {
                "entries": len(stored.entries),
                "current": [entry.model_dump(mode="json") for entry in current],
                "alarms": [vars(alarm) for alarm in alarms],
            },
            "\n".join(lines),
            ok=not alarms,
        )
        if alarms:
            raise typer.Exit(Exit.FINDINGS)


def _measurer(
    kind: Kind, specimen: Specimen, before: StoredCalibration
) -> Callable[[Recording, datetime], Entry]:
    """The estimator of a kind, its inputs checked before anything moves."""
    from controller.calibration import procedures
    from controller.calibration.entries import CameraEntry
    from controller.calibration.standards import standard_from
    from controller.cli.files import parse_zone
    from controller.perception.alignment import StructureError, structure_from_cif

    try:
        if kind == "camera":
            standard = standard_from(specimen.structure)
            return lambda recording, now: procedures.calibrate_camera(recording, standard, now)
        if specimen.structure is None:
            raise InputError(
                f"calibrate {kind} needs the structure of the crystal",
                "give --structure SrTiO3.cif --zone 0,0,1",
            )
        known = structure_from_cif(specimen.structure)
    except StructureError as error:
        raise InputError(str(error)) from error
    uvw = parse_zone(specimen.zone) or (0, 0, 1)

    def measure(recording: Recording, now: datetime) -> Entry:
        camera = before.latest("camera", recording.patterns[0].conditions)
        crystal = procedures.Crystal(known, uvw)
        if isinstance(camera, CameraEntry):
            crystal = procedures.Crystal(
                known,
                uvw,
                camera.centre_px,
                camera.factor,
                camera.ellipticity,
                camera.ellipse_azimuth_deg,
            )
        if kind == "beam-tilt":
            return procedures.calibrate_beam_tilt(recording, crystal, now)
        return procedures.calibrate_tilt_axes(
            recording, crystal, now, reading_sigma_deg=specimen.reading_sigma_deg
        )

    return measure


def _recording(
    kind: Kind, source: Source, lighting: Lighting, structure: Path | None, output: Output
) -> tuple[Recording, datetime]:
    from dataclasses import replace

    from controller.calibration.recorded import read_recording, write_recording
    from controller.perception.alignment import AlignmentInputError, Calibration

    if source.files:
        given = Calibration(energy_keV=source.energy_keV, inv_A_per_px=source.inv_A_per_px)
        try:
            return read_recording(source.files, given), datetime.now(UTC)
        except AlignmentInputError as error:
            raise InputError(str(error), "see `lodestem calibrate --help`") from error
    with _bench(source, lighting, output) as bench:
        recording = _acquire(kind, bench, source, lighting)
        now = bench.microscope.clock.utc()
    if source.save is not None:
        write_recording(source.save, recording, cif=None if kind == "camera" else structure)
        recording = replace(recording, source=str(source.save))
    return recording, now


def _acquire(kind: Kind, bench: Bench, source: Source, lighting: Lighting) -> Recording:
    from controller.calibration import acquire

    if source.at is not None:
        acquire.go_to(bench.microscope, numbers("--at", source.at, 2))
    if kind == "camera":
        return acquire.acquire_rings(bench)
    if kind == "beam-tilt":
        return acquire.acquire_beam_tilts(bench, step_mrad=lighting.step)
    return acquire.acquire_tilt_axes(bench, step_deg=lighting.step)


@contextmanager
def _bench(source: Source, lighting: Lighting, output: Output) -> Iterator[Bench]:
    """The instrument of the plan, or the one named, under guard."""
    from controller.backends.registry import UnknownAdapterError
    from controller.calibration.acquire import Bench
    from controller.hardware.clock import VirtualClock, WallClock
    from controller.hardware.errors import LimitError
    from controller.plan.run import PlanError, RunPlan
    from controller.safety.limits import DoseLimits
    from controller.server.session import open_session

    backend, options = source.backend or "sim", {}
    limits = None
    if source.plan is not None:
        try:
            plan = RunPlan.from_yaml(source.plan)
        except PlanError as error:
            raise InputError(str(error)) from error
        backend, options = plan.instrument.backend, dict(plan.instrument.options)
        limits = plan.limits.stage_limits()
    for name, value in (("scenario", source.scenario), ("seed", source.seed)):
        if value is not None:
            options[name] = value
    budget = _MICROSCOPE_DOSE_E_PER_A2
    clock: Clock = VirtualClock() if backend == "sim" else WallClock()
    folder = source.run or Path("runs") / f"calibration-{clock.utc():%Y%m%dT%H%M%S}"
    try:
        session = open_session(
            backend,
            options,
            run_dir=folder,
            dose_limits=DoseLimits(
                specimen_e_per_A2=budget,
                before_scan_e_per_A2=budget,
                data_e_per_A2=budget,
                area_e_per_A2={},
            ),
            plan_limits=limits,
            clock=clock,
        )
    except (ValueError, UnknownAdapterError, LimitError) as error:
        raise InputError(str(error), "see `lodestem doctor` for what is installed") from error
    with session:
        yield Bench(
            session.microscope,
            uuid4,
            detector_sampling_mrad=lighting.detector_sampling_mrad,
            beam_diameter_nm=lighting.beam_diameter_nm,
            electrons=lighting.electrons,
            say=output.say,
        )


def _draw(recording: Recording, specimen: Specimen, path: Path) -> None:
    """The first ring pattern with its own fit."""
    from controller.calibration.ring_picture import save_rings
    from controller.calibration.rings import fit_rings
    from controller.calibration.standards import standard_from

    first, standard = recording.patterns[0], standard_from(specimen.structure)
    fit = fit_rings(first.counts, standard, inv_A_per_px=first.inv_A_per_px)
    save_rings(path, first.counts, fit, standard)


def _against_before(before: StoredCalibration, entry: Entry) -> list[str]:
    """Where a new result is more than three sigma from the one before it."""
    from controller.calibration.alarms import calibration_alarms
    from controller.calibration.observed import observed_of

    alarms = calibration_alarms(
        before, entry.origin.date, observed_of(entry), conditions=entry.origin.conditions
    )
    return [
        f"changed since the last time: {alarm.message}"
        for alarm in alarms
        if alarm.code == "inconsistent"
    ]


def _in_words(entry: Entry) -> str:
    from controller.calibration.entries import CameraEntry, TiltAxesEntry

    about = (
        f"({entry.origin.date:%Y-%m-%d %H:%M} UTC, {entry.origin.method}, "
        f"{entry.origin.conditions.energy_keV:g} keV)"
    )
    if isinstance(entry, TiltAxesEntry):
        return (
            f"tilt-axes: azimuth {entry.azimuth_deg:.2f} ± {entry.azimuth_sigma_deg:.2f} deg, "
            f"{'mirrored' if entry.mirrored else 'not mirrored'}, gains alpha "
            f"{entry.alpha_gain:.3f} ± {entry.alpha_gain_sigma:.3f}, beta {entry.beta_gain:.3f} ± "
            f"{entry.beta_gain_sigma:.3f}, axes {entry.non_orthogonality_deg:+.1f} ± "
            f"{entry.non_orthogonality_sigma_deg:.1f} deg off square {about}"
        )
    if isinstance(entry, CameraEntry):
        return (
            f"camera: {entry.inv_A_per_px:.6f} ± {entry.inv_A_per_px_sigma:.6f} 1/A per px "
            f"({entry.factor:.4f} of nominal), elliptical by {100 * entry.ellipticity:.2f} ± "
            f"{100 * entry.ellipticity_sigma:.2f} % along "
            f"{entry.ellipse_azimuth_deg:.0f} deg {about}"
        )
    (a, b), (c, d) = entry.true_tilt
    gain = math.sqrt(abs(a * d - b * c))
    (p, q), (r, s) = entry.shift_px_per_mrad
    walk = max(math.hypot(p, r), math.hypot(q, s))
    return (
        f"beam-tilt: gain {gain:.3f} ± {entry.true_tilt_sigma:.3f}, direct beam walks up to "
        f"{walk:.2f} ± {entry.shift_sigma_px_per_mrad:.2f} px per mrad {about}"
    )
