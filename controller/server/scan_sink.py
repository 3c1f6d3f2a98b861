"""Write the frames of a scan as they come into a native scan file of the run.

The process that receives the detector stream counts and writes; nobody sends frames on.  What was
committed before a crash, a full disk or a Ctrl-C stays readable.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import ValidationError

from controller.hardware.clock import Clock
from controller.hardware.errors import DiskFullError, StorageError, WriteFailedError
from controller.hardware.values import (
    Calibration,
    Capabilities,
    CountedBatch,
    Exposure,
    OpticsState,
    ScanBatch,
    StagePose,
)
from controller.safety.fluence import ELECTRONS_PER_PA_S

if TYPE_CHECKING:
    from recon.dataset import ScanFileWriter, ScanHeader

BYTES_PER_FRAME = 1024
"""Forecast of the disk space of a counted frame, before anything is known about it."""


class ScanSource(Protocol):
    """Where frames come from, if it has more to say than the frames: an external detector."""

    def scan_headers(self) -> Mapping[str, str]:
        """What it said when it was armed, verbatim; kept under ``/entry/raw_headers``."""

    def scan_report(self) -> str | None:
        """What became of every frame, one line of JSON for ``/entry/log``."""


class NativeScanSink:
    """A `contract.ScanSink` that writes ``<folder>/<exposure_id>.h5``.

    Parameters
    ----------
    folder
        Created when missing.
    capabilities
        Of the instrument, for the shape of its detectors.
    calibration
        Of the instrument, for the rotation of the raster against the detector.
    clock
        For the start time in the file.
    run_uuid
        Goes into every file of the run.
    source
        Asked for its headers when a scan begins and for its report when it ends.
    """

    def __init__(
        self,
        folder: Path,
        capabilities: Capabilities,
        calibration: Calibration,
        clock: Clock,
        *,
        run_uuid: str,
        source: ScanSource | None = None,
    ) -> None:
        self._folder = folder
        self._calibration = calibration
        self._capabilities = capabilities
        self._clock = clock
        self._run_uuid = run_uuid
        self._source = source
        self._writer: ScanFileWriter | None = None

    def begin(
        self, exposure: Exposure, optics: OpticsState, pose: StagePose, detector: str
    ) -> None:
        """Create the file of this scan.

        Raises
        ------
        DiskFullError
            Not even the expected size is free. No file was made.
        WriteFailedError
            The file cannot be created, or the optics do not say what a scan file needs.
        """
        from recon.dataset import ScanFileWriter  # h5py loads when the first scan starts

        header = self._header(exposure, optics, detector)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{exposure.exposure_id}.h5"
        self._check_space(header.n_positions * BYTES_PER_FRAME)
        self._writer = ScanFileWriter(path, header)
        self._writer.log(_opening_line(exposure, pose))

    def append(self, batch: ScanBatch) -> None:
        """Count where needed, commit; frames missing before them are marked as such."""
        writer = self._open_writer()
        from recon.errors import ReconError

        try:
            missing = batch.first_sequence - writer.committed_frames
            if missing > 0:
                writer.append_missing(missing)
            if isinstance(batch, CountedBatch):
                writer.append_events(batch.pixel, batch.count)
            else:
                writer.append_dense(batch.data)
        except ReconError as problem:
            raise WriteFailedError(str(problem)) from problem

    def finish(self) -> tuple[str, int, str]:
        """Close the file; return (path, committed frames, sha256)."""
        from recon.dataset import sha256_of

        writer = self._open_writer()
        self._writer = None
        try:
            committed = writer.committed_frames
            report = None if self._source is None else self._source.scan_report()
            if report is not None:
                writer.log(report)
            writer.sync()
        finally:
            writer.close()
        return str(writer.path), committed, sha256_of(writer.path)

    @property
    def _counting(self) -> Literal["simulated", "electron"]:
        return "simulated" if self._capabilities.simulated else "electron"

    def _open_writer(self) -> ScanFileWriter:
        if self._writer is None:
            raise StorageError("no scan file is open; nothing was written. Begin the scan first.")
        return self._writer

    def _check_space(self, needed_bytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if not free > needed_bytes:
            raise DiskFullError(
                f"the scan may need {needed_bytes / 1e6:.0f} MB and {self._folder} has "
                f"{free / 1e6:.0f} MB; nothing was exposed. Free some space.",
                vendor_code=errno.ENOSPC,
            )

    def _header(self, exposure: Exposure, optics: OpticsState, detector: str) -> ScanHeader:
        from recon.dataset import ScanHeader

        scan = exposure.scan
        if scan is None or optics.detector_sampling_mrad is None:
            raise WriteFailedError(
                f"a scan file needs a raster and the sampling of {detector} in mrad per pixel, "
                f"which the optics do not report; nothing was exposed. Calibrate the camera length."
            )
        electrons_per_s = optics.probe_current_pA * ELECTRONS_PER_PA_S
        info = self._capabilities.detector(detector)
        headers = {} if self._source is None else dict(self._source.scan_headers())
        try:
            return ScanHeader(
                energy_keV=optics.energy_keV,
                convergence_semiangle_mrad=optics.convergence_semiangle_mrad,
                defocus_A=10 * optics.defocus_nm,
                scan_step_A=scan.step_A,
                scan_rotation_deg=self._calibration.scan_to_detector_rotation_deg
                + optics.scan_rotation_deg,
                detector_sampling_mrad=optics.detector_sampling_mrad,
                probe_current_pA=optics.probe_current_pA,
                dwell_s=scan.dwell_s,
                fluence_e_per_A2=electrons_per_s * scan.dwell_s / scan.step_A**2,
                scan_shape=scan.shape,
                frame_shape=info.shape,
                start_time=self._clock.utc().isoformat(),
                run_uuid=self._run_uuid,
                sample=exposure.area,
                counting="thresholded" if headers else self._counting,
                raw_headers=headers,
            )
        except ValidationError as problem:
            said = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}" for e in problem.errors()
            )
            raise WriteFailedError(
                f"the instrument reports what no scan file can hold ({said}); nothing was "
                f"exposed. Read the optics and correct them."
            ) from problem


def _opening_line(exposure: Exposure, pose: StagePose) -> str:
    return json.dumps(
        {
            "exposure_id": str(exposure.exposure_id),
            "area": exposure.area,
            "purpose": exposure.purpose.value,
            "pose": pose.model_dump(mode="json"),
        }
    )
