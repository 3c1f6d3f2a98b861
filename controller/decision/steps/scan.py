"""The 4D-STEM scan, the look at the result, the closing of the account."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from controller.decision.actions import AcquireScan, EndTarget, HandOver, Reconstruct
from controller.decision.belief import Belief
from controller.decision.illumination import (
    data_raster,
    detector_for,
    stem_optics,
)
from controller.decision.rig import Rig
from controller.decision.steps.align import beam_tilt_of
from controller.hardware.errors import ChecksumMismatchError, DiskFullError, DoseState
from controller.hardware.values import Mode, Purpose
from controller.perception.protocols import ReconstructionReading
from controller.record.events import Reconstructed, ScanHandedOver, ScanTaken, TargetEnded

BYTES_PER_ELECTRON = 4
"""Of a stored scan, generously: 2 for the event, the rest for counts, headers, pictures."""
SPARE_BYTES = 500_000_000
"""Left free on the disk whatever happens."""


def acquire_scan(action: AcquireScan, belief: Belief, rig: Rig) -> None:
    """The 4D-STEM scan at the crystal's centre."""
    plan = rig.plan.scan
    scope = rig.microscope
    detector = detector_for(scope.capabilities, Mode.STEM, scan=True)
    raster = data_raster(plan)
    need = int(raster.positions * action.fluence_e_per_A2 * plan.step_A**2 * BYTES_PER_ELECTRON)
    free = shutil.disk_usage(rig.run_dir).free
    if free < need + SPARE_BYTES:
        raise DiskFullError(
            f"the scan needs {need / 1e6:.0f} MB and {SPARE_BYTES / 1e6:.0f} MB stay spare, but "
            f"{free / 1e6:.0f} MB are free; nothing was exposed and the beam is blanked. "
            f"Free some space and resume"
        )
    scope.optics.apply(
        stem_optics(
            plan,
            raster,
            fluence=action.fluence_e_per_A2,
            defocus=action.defocus_nm,
            beam_tilt_mrad=beam_tilt_of(belief.target(action.target), rig),
        )
    )
    receipt = rig.take_scan(
        area=action.target, purpose=Purpose.DATA, detector=detector.name, raster=raster
    )
    rig.emit(
        ScanTaken(
            target=action.target,
            path=rig.relative(receipt.uri),
            frames_expected=receipt.frames_expected,
            frames_committed=receipt.frames_committed,
            complete=receipt.complete,
            checksum_sha256=receipt.checksum_sha256,
            fluence_e_per_A2=action.fluence_e_per_A2,
            charged_e_per_A2=receipt.charged_e_per_A2,
            pose=receipt.pose,
            optics=receipt.optics,
        )
    )


def hand_over(action: HandOver, belief: Belief, rig: Rig) -> None:
    """Leave the scan to the workers; the loop sees to it that they have it.

    Raises
    ------
    ChecksumMismatchError
        The file is not the one that was written.
    """
    _check_scan(action.target, belief, rig)
    rig.emit(ScanHandedOver(target=action.target, folder=folder_of(action.target)))


def folder_of(target: str) -> str:
    """Where the reconstruction of a crystal goes, relative to the run folder."""
    return f"reconstructions/{target}"


def reconstructed(target: str, reading: ReconstructionReading) -> Reconstructed:
    """What a reconstruction says, as an event."""
    return Reconstructed(
        target=target,
        folder=folder_of(target),
        resolution_A=reading.resolution_A,
        frc_half_A=reading.frc_half_A,
        lattice_limit_A=reading.lattice_limit_A,
        defocus_nm=reading.defocus_nm,
        thickness_nm=reading.thickness_nm,
        passes=reading.passes,
        stopped_because=reading.stopped_because,
        verdict=reading.verdict,
        ok=reading.ok,
        reason=reading.reason,
    )


def reconstruct(action: Reconstruct, belief: Belief, rig: Rig) -> None:
    """Reconstruct the scan; the run waits for it in virtual time as it would in real time.

    Raises
    ------
    ChecksumMismatchError
        The file is not the one that was written.
    """
    _check_scan(action.target, belief, rig)
    reading = rig.eyes.reconstructor.reconstruct(
        rig.run_dir / action.scan_path,
        rig.run_dir / folder_of(action.target),
        expected_defocus_nm=rig.plan.scan.defocus_nm,
    )
    rig.microscope.clock.sleep(
        rig.plan.reconstruction.modelled_time_s if rig.microscope.capabilities.simulated else 0.0
    )
    rig.emit(reconstructed(action.target, reading))


def _check_scan(target: str, belief: Belief, rig: Rig) -> None:
    """Refuse a file that is not the one that was written."""
    taken = belief.target(target).scan
    if taken is not None and taken.checksum_sha256:
        _check_file(rig.run_dir / taken.path, taken.checksum_sha256)


def _check_file(path: Path, written_sha256: str) -> None:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        found = f"unreadable ({problem})"
    if found != written_sha256:
        raise ChecksumMismatchError(
            f"{path.name} has the checksum {found[:16]}, it was written with "
            f"{written_sha256[:16]}; the beam is blanked and the dose is charged. Look at the "
            f"disk; what can be read of the scan: lodestem doctor --recover",
            dose_state=DoseState.CHARGED,
        )


def end_target(action: EndTarget, belief: Belief, rig: Rig) -> None:
    """Close the account of a crystal."""
    target = belief.target(action.target)
    dose = rig.microscope.dose(target.x_um, target.y_um)
    status = action.status if action.status in ("done", "skipped", "failed") else "failed"
    rig.emit(
        TargetEnded(
            target=action.target,
            status=status,
            reason=action.reason,
            dose_before_scan_e_per_A2=dose.before_scan_e_per_A2,
            dose_scan_e_per_A2=dose.total_e_per_A2 - dose.before_scan_e_per_A2,
        )
    )
