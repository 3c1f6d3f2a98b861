"""The Acquire screen: scans and their reconstructions as far as they have come.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.console.night import Night, last
from controller.record.events import Reconstructed, ScanTaken, StepStarted


@dataclass(frozen=True)
class ScanRow:
    """One scan."""

    target: str
    frames: str
    complete: bool
    fluence: str
    resolution: str
    verdict: str
    picture: str
    """Path of the phase picture within the report's folder; empty where there is none."""


@dataclass(frozen=True)
class AcquireView:
    """The screen."""

    scanning: str
    """Crystal that is being scanned now; empty: none."""
    rows: tuple[ScanRow, ...]
    waiting: tuple[str, ...]
    accept_A: float


def acquire_view(night: Night) -> AcquireView | None:
    """What the Acquire screen shows; None before a run has begun."""
    plan = night.plan
    if plan is None:
        return None
    step = last(night.entries, StepStarted)
    scanning = ""
    if (
        step is not None
        and isinstance(step.event, StepStarted)
        and step.event.action == "AcquireScan"
        and step.event.step == night.belief.steps - 1
    ):
        scanning = step.event.target or ""
    rows = [
        _row(night, entry.event) for entry in night.entries if isinstance(entry.event, ScanTaken)
    ]
    if any(row.target == scanning for row in rows):
        scanning = ""
    return AcquireView(
        scanning=scanning,
        rows=tuple(reversed(rows)),
        waiting=tuple(t.name for t in night.belief.waiting),
        accept_A=plan.reconstruction.accept_resolution_A,
    )


def _row(night: Night, scan: ScanTaken) -> ScanRow:
    found = last(night.entries, Reconstructed, target=scan.target)
    result = found.event if found is not None else None
    resolution, verdict = "", "waits for its reconstruction"
    if isinstance(result, Reconstructed):
        verdict = result.verdict or result.reason
        if result.resolution_A is not None:
            resolution = f"{result.resolution_A:.2f} Å"
    picture = next(
        (
            path.name
            for path in sorted((night.folder / "report_files").glob(f"*{scan.target}*phase*.png"))
        ),
        "",
    )
    return ScanRow(
        target=scan.target,
        frames=f"{scan.frames_committed} / {scan.frames_expected}",
        complete=scan.complete,
        fluence=f"{scan.fluence_e_per_A2:.0f} e/Å² planned, {scan.charged_e_per_A2:.0f} charged",
        resolution=resolution,
        verdict=verdict,
        picture=picture,
    )
