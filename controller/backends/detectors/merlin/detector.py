"""A Merlin detector as a `Detector4D`.

Merlin answers ``STARTACQUISITION`` with an acquisition header on the data connection: that, and
not the answer on the command connection, is its word that it is armed.  Frames that were still
under way from before come ahead of it and are thrown away.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from functools import partial

from controller.backends.detectors.arrivals import (
    SLICE_S,
    Arrival,
    Gathering,
    NothingArrived,
    StaleArrived,
    batches,
)
from controller.backends.detectors.config import MerlinConfig
from controller.backends.detectors.contract import StreamReport
from controller.backends.detectors.merlin.control import MerlinControl
from controller.backends.detectors.merlin.frames import MAX_HEADER_BYTES, FrameReader
from controller.backends.detectors.merlin.framing import MpxReader
from controller.backends.detectors.series_tally import SeriesTally
from controller.backends.detectors.software_trigger import SoftwareTrigger
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import (
    ArmFailedError,
    DetectorError,
    LinkError,
    MicroscopeError,
    ModeError,
    UnreachableError,
)
from controller.hardware.values import DetectorInfo, DetectorJob, Mode, ScanBatch

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
QUIET_S = 0.1
"""A data connection that is silent for so long holds nothing old."""
MAX_ACQUISITION_HEADER_BYTES = 1 << 16
TRIGGER_START = {"frame": 1, "line": 1, "software": 5}
"""TRIGGERSTART: 1 is a rising edge, 5 is SOFTTRIGGER."""


class MerlinDetector:
    """Implements `contract.Detector4D`; see the module."""

    def __init__(self, config: MerlinConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or WallClock()
        self._control = MerlinControl(
            config.host, config.control_port, config.reply_timeout_s, self._clock
        )
        rows, columns = config.shape
        longest = max(rows * columns * 8 + MAX_HEADER_BYTES, MAX_ACQUISITION_HEADER_BYTES)
        self._reader = MpxReader(longest)
        self._data: socket.socket | None = None
        self._tally = SeriesTally(0)
        self._job: DetectorJob | None = None
        self._by_software = False
        self._acquisition = ""
        self._stop = threading.Event()
        self._trigger = SoftwareTrigger(config.name)
        try:
            self._check_shape()
            self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> DetectorInfo:
        """As the capabilities will show it."""
        config = self._config
        return DetectorInfo(
            name=config.name,
            shape=config.shape,
            kind="counting",
            modes=frozenset({Mode.STEM, Mode.DIFFRACTION}),
            gain=config.counts_per_electron,
            saturation=float(2**config.counter_depth - 1),
            min_exposure_s=config.min_exposure_s,
            max_exposure_s=config.max_exposure_s,
            can_scan=True,
            bad_pixels=config.bad_pixels,
        )

    def arm(self, job: DetectorJob) -> None:
        """See `contract.Detector4D.arm`."""
        self._stop.clear()
        self._trigger.forget()
        self._job = None
        self._by_software = job.scan is None or self._config.trigger == "software"
        self._tally = SeriesTally(job.frames)
        self._drain()
        try:
            self._configure(job)
            self._job = job
            self._control.command("STARTACQUISITION")
            self._confirm(job)
        except MicroscopeError:
            self.abort()
            raise

    def start(self) -> None:
        """See `contract.Detector4D.start`."""
        if self._by_software and self._job is not None:
            self._trigger.fire(partial(self._control.command, "SOFTTRIGGER"))

    def frames(self, timeout_s: float) -> Iterator[ScanBatch]:
        """See `contract.Detector4D.frames`."""
        job = self._job
        if job is None:
            raise ArmFailedError(f"{self._config.name} is not armed; nothing came. Arm it first.")
        how = Gathering(
            job_id=job.exposure_id,
            detector=self._config.name,
            frame_shape=self._config.shape,
            batch_frames=self._config.batch_frames,
            top_is_void=False,
            stopped=self._stop.is_set,
            clock=self._clock,
            counted=job.scan is not None,
        )
        try:
            yield from batches(self._arrivals(), self._tally, how, timeout_s)
        finally:
            if self._tally.ended:
                self._job = None  # nothing is left to be stopped

    def report(self) -> StreamReport:
        """See `contract.Detector4D.report`."""
        return self._tally.report()

    def headers(self) -> Mapping[str, str]:
        """The acquisition header."""
        return {"merlin acquisition": self._acquisition} if self._acquisition else {}

    def abort(self) -> None:
        """See `contract.Detector4D.abort`."""
        self._stop.set()
        if self._job is None:
            return
        self._job = None
        try:
            self._control.command("STOPACQUISITION")
        except (LinkError, DetectorError) as problem:
            logger.warning("%s could not be stopped: %s", self._config.name, problem)

    def close(self) -> None:
        """See `contract.Detector4D.close`."""
        self.abort()
        self._control.close()
        self._hang_up()

    # --- arming ------------------------------------------------------------------------------

    def _check_shape(self) -> None:
        said = []
        for name in ("IMAGEY", "IMAGEX"):
            value = self._control.get(name)
            said.append(int(value) if value.isdigit() else None)
        if None not in said and tuple(said) != self._config.shape:
            raise ModeError(
                f"{self._config.name} has {said[0]} x {said[1]} pixels, the configuration says "
                f"{self._config.shape[0]} x {self._config.shape[1]}; nothing was armed. Correct "
                f"`shape`."
            )

    def _configure(self, job: DetectorJob) -> None:
        """Set everything this job depends on, and believe only what is read back."""
        config = self._config
        per_trigger = {"frame": 1, "software": job.frames}
        if job.scan is not None:
            per_trigger["line"] = job.scan.shape[1]
        trigger = "software" if self._by_software else config.trigger
        wanted: dict[str, float] = {
            "COUNTERDEPTH": config.counter_depth,
            "CONTINUOUSRW": 0 if config.counter_depth == 24 else 1,
            "FILEFORMAT": 2 if config.raw else 0,
            "FILEENABLE": 0,
            "RUNHEADLESS": 1,
            "ACQUISITIONTIME": 1e3 * job.frame_s,
            "ACQUISITIONPERIOD": 1e3 * job.frame_s,
            "NUMFRAMESTOACQUIRE": job.frames,
            "NUMFRAMESPERTRIGGER": per_trigger[trigger],
            "TRIGGERSTART": TRIGGER_START[trigger],
            "TRIGGERSTOP": 0,
        }
        for name, value in wanted.items():
            self._control.set(name, f"{value:.10g}")
        for name, value in wanted.items():
            got = self._control.get(name)
            if not _agrees(got, value):
                raise ArmFailedError(
                    f"{config.name} was set to {name} = {value:g} and reads back {got!r}; it is "
                    f"not armed. Choose a value that the detector takes.",
                    vendor_text=got,
                )

    def _confirm(self, job: DetectorJob) -> None:
        """Wait for the acquisition header; everything before it is old."""
        deadline_s = self._clock.now_s() + self._config.arm_timeout_s
        while not self._reader.skip_to_acquisition() or (body := self._reader.take()) is None:
            if not self._clock.now_s() < deadline_s:
                raise ArmFailedError(
                    f"{self._config.name} sent no acquisition header within "
                    f"{self._config.arm_timeout_s:g} s after STARTACQUISITION; it is not taken "
                    f"for armed and was stopped. Look at its own screen."
                )
            self._receive()
        self._acquisition = body.decode("latin-1")
        found = re.search(r"Frames in Acquisition \(Number\):\t(\d+)", self._acquisition)
        if found and int(found[1]) != job.frames:
            raise ArmFailedError(
                f"{self._config.name} armed for {found[1]} frames, {job.frames} were asked for; "
                f"it was stopped. Look for another program that sets it."
            )

    # --- the data connection ---------------------------------------------------------------

    def _connect(self) -> socket.socket:
        """The one data connection; Merlin sends its frames to whoever holds it."""
        if self._data is None:
            address = (self._config.host, self._config.data_port)
            try:
                self._data = socket.create_connection(address, self._config.reply_timeout_s)
            except OSError as problem:
                raise UnreachableError(
                    f"Merlin's data port {address[0]}:{address[1]} failed: {problem}; nothing was "
                    f"armed. Start the Merlin software, or correct `host` and `data_port`."
                ) from problem
        return self._data

    def _hang_up(self) -> None:
        connection, self._data = self._data, None
        if connection is not None:
            connection.close()
        self._reader.clear()

    def _drain(self) -> None:
        """Throw away what is left of earlier acquisitions."""
        self._reader.clear()
        deadline_s = self._clock.now_s() + self._config.arm_timeout_s
        old_bytes = 0
        while self._receive(QUIET_S):
            old_bytes += self._reader.clear()
            if not self._clock.now_s() < deadline_s:
                raise ArmFailedError(
                    f"{self._config.name} keeps sending frames that nobody asked for; it is not "
                    f"armed. Stop the acquisition that runs there."
                )
        if old_bytes:
            logger.info("%s: %d bytes of earlier frames thrown away", self._config.name, old_bytes)

    def _receive(self, wait_s: float = SLICE_S) -> bool:
        """Take in what comes within `wait_s`; whether anything did.

        Raises
        ------
        UnreachableError
            The connection is gone; the next `arm` makes a new one.
        """
        connection = self._connect()
        connection.settimeout(wait_s)
        try:
            chunk = connection.recv(CHUNK_BYTES)
        except TimeoutError:
            return False
        except OSError as problem:
            self._hang_up()
            raise UnreachableError(
                f"the data connection of {self._config.name} broke: {problem}; what came is kept. "
                f"Arm again."
            ) from problem
        if not chunk:
            self._hang_up()
            raise UnreachableError(
                f"{self._config.name} closed the data connection; what came is kept. Look whether "
                f"another client took it, then arm again."
            )
        self._reader.feed(chunk)
        return True

    def _arrivals(self) -> Iterator[Arrival]:
        reader = FrameReader()
        others = False
        while True:
            for body in self._reader.bodies():
                if body.startswith(b"HDR,"):
                    others = True  # a new acquisition that is not ours: its frames are not either
                    yield StaleArrived("a second acquisition header")
                elif others:
                    yield StaleArrived("a frame of another acquisition")
                else:
                    yield reader.read(body)
            if not self._receive():
                self._trigger.check()
                yield NothingArrived()


def _agrees(said: str, wanted: float) -> bool:
    """Whether a read-back is the value that was set, to the digits a detector keeps."""
    try:
        return abs(float(said) - wanted) <= 1e-3 * abs(wanted)
    except ValueError:
        return False
