"""A DECTRIS detector as a `Detector4D`.

Armed means: the answer to ``arm`` names a series, and the start message of that very series came
by the stream.  Only then may the scan begin: a detector that is triggered earlier loses frames.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from functools import partial

from controller.backends.detectors.arrivals import (
    SLICE_S,
    Arrival,
    FrameArrived,
    Gathering,
    NothingArrived,
    SeriesEnded,
    StaleArrived,
    batches,
)
from controller.backends.detectors.config import DectrisConfig
from controller.backends.detectors.contract import StreamReport
from controller.backends.detectors.dectris.messages import (
    DetectorSettingsSaid,
    Message,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
)
from controller.backends.detectors.dectris.receiver import StreamReceiver
from controller.backends.detectors.dectris.settings import configure
from controller.backends.detectors.dectris.simplon import Simplon
from controller.backends.detectors.dectris.stream_v1 import parse_v1
from controller.backends.detectors.dectris.stream_v2 import parse_v2
from controller.backends.detectors.series_tally import SeriesTally
from controller.backends.detectors.software_trigger import SoftwareTrigger
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import (
    ArmFailedError,
    DetectorError,
    LinkError,
    MicroscopeError,
    ModeError,
)
from controller.hardware.values import DetectorInfo, DetectorJob, Mode, ScanBatch

logger = logging.getLogger(__name__)

ABORT_TIMEOUT_S = 2.0
TRIGGER_SLACK_S = 10.0
LARGEST_HEADER_BYTES = 1 << 22
BYTES_PER_PIXEL = 4


class DectrisDetector:
    """Implements `contract.Detector4D`; see the module."""

    def __init__(self, config: DectrisConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or WallClock()
        self._api = Simplon(
            config.host, config.api_port, config.api_version, config.reply_timeout_s
        )
        self._bits = self._look()
        rows, columns = config.shape
        longest = max(2 * BYTES_PER_PIXEL * rows * columns, LARGEST_HEADER_BYTES)
        self._stream: StreamReceiver | None = StreamReceiver(config.host, config.zmq_port, longest)
        self._tally = SeriesTally(0)
        self._job: DetectorJob | None = None
        self._series = -1
        self._by_software = False
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._trigger = SoftwareTrigger(config.name)

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
            saturation=float(2**self._bits - 2),
            min_exposure_s=config.min_exposure_s,
            max_exposure_s=config.max_exposure_s,
            can_scan=True,
            bad_pixels=config.bad_pixels,
        )

    def arm(self, job: DetectorJob) -> None:
        """See `contract.Detector4D.arm`."""
        stream = self._held()
        self._stop.clear()
        self._trigger.forget()
        self._job = None
        self._by_software = job.scan is None or self._config.trigger == "software"
        self._tally = SeriesTally(job.frames)
        old = stream.drain()
        if old:
            logger.info("%s: %d old messages thrown away", self._config.name, old)
        configure(self._api, self._config, job, by_software=self._by_software)
        self._job = job
        try:
            reply = self._api.command("arm", timeout_s=self._config.arm_timeout_s)
            self._confirm(stream, job, self._series_of(reply))
        except MicroscopeError:
            self.abort()  # also where no answer came: it may be armed all the same
            raise

    def start(self) -> None:
        """See `contract.Detector4D.start`; the answer comes when the exposure is over."""
        job = self._job
        if not self._by_software or job is None:
            return
        limit_s = job.frames * job.frame_s + self._config.reply_timeout_s + TRIGGER_SLACK_S
        self._trigger.fire(partial(self._api.command, "trigger", timeout_s=limit_s))

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
            top_is_void=True,
            stopped=self._stop.is_set,
            clock=self._clock,
            counted=job.scan is not None,
        )
        try:
            yield from batches(self._arrivals(self._held()), self._tally, how, timeout_s)
        finally:
            if self._tally.ended:
                self._job = None  # the detector disarms itself after the last trigger

    def report(self) -> StreamReport:
        """See `contract.Detector4D.report`."""
        return self._tally.report()

    def headers(self) -> Mapping[str, str]:
        """The start message, key by key."""
        return {f"dectris {key}": value for key, value in self._said.items()}

    def abort(self) -> None:
        """See `contract.Detector4D.abort`."""
        self._stop.set()
        if self._job is None:
            return
        self._job = None
        try:
            self._api.command("abort", timeout_s=ABORT_TIMEOUT_S)
        except (LinkError, DetectorError) as problem:
            logger.warning("%s could not be stopped: %s", self._config.name, problem)

    def close(self) -> None:
        """See `contract.Detector4D.close`."""
        self.abort()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # --- arming ------------------------------------------------------------------------------

    def _look(self) -> int:
        """Compare the shape with the detector's own; returns the bits of a stored pixel."""
        said = tuple(
            self._api.get("detector", "config", f"{axis}_pixels_in_detector") for axis in "yx"
        )
        if said != self._config.shape:
            raise ModeError(
                f"{self._config.name} has {said[0]} x {said[1]} pixels, the configuration says "
                f"{self._config.shape[0]} x {self._config.shape[1]}; nothing was armed. Correct "
                f"`shape`, or the detector's region of interest."
            )
        bits = self._api.get("detector", "config", "bit_depth_image")
        return bits if bits in (8, 16, 32) else 32

    def _series_of(self, reply: object) -> int | None:
        if self._config.series_from == "start-message":
            return None
        series = reply.get("sequence id") if isinstance(reply, dict) else None
        if not isinstance(series, int):
            raise ArmFailedError(
                f"{self._config.name} armed without naming its series ({reply!r}); it was stopped, "
                f"since old frames could not be told from new ones."
            )
        return series

    def _confirm(self, stream: StreamReceiver, job: DetectorJob, series: int | None) -> None:
        """Wait for the start message of `series` (None: of any)."""
        deadline_s = self._clock.now_s() + self._config.arm_timeout_s
        others = 0
        while self._clock.now_s() < deadline_s:
            parts = stream.receive(SLICE_S)
            message = None if parts is None else self._parse(parts)
            if isinstance(message, SeriesStart) and series in (None, message.series):
                self._series = message.series
                self._check_start(message, job)
                return
            others += message is not None
        raise ArmFailedError(
            f"{self._config.name} sent no start of series {series} within "
            f"{self._config.arm_timeout_s:g} s ({others} other messages came); it is "
            f"not taken for armed and was stopped. Look for a second client of its stream, which "
            f"takes messages in turn."
        )

    def _check_start(self, start: SeriesStart, job: DetectorJob) -> None:
        self._said = dict(start.said)
        for what, said, wanted in (
            ("frames", start.n_images, job.frames),
            ("pixels", start.frame_shape, self._config.shape),
        ):
            if said is not None and said != wanted:
                raise ArmFailedError(
                    f"{self._config.name} armed for {said} {what}, {wanted} were asked for; it was "
                    f"stopped. Look for another program that sets it."
                )
        channel = self._config.channel
        if channel is not None and start.channels and channel not in start.channels:
            raise ArmFailedError(
                f"{self._config.name} sends the channels {start.channels}, not {channel!r}; it was "
                f"stopped. Correct `channel` in the configuration."
            )

    # --- receiving -----------------------------------------------------------------------------

    def _held(self) -> StreamReceiver:
        if self._stream is None:
            raise ArmFailedError(f"{self._config.name} was closed; nothing was armed. Open again.")
        return self._stream

    def _parse(self, parts: list[memoryview]) -> Message:
        if self._config.stream == "v1":
            return parse_v1(parts)
        return parse_v2(parts[0], self._config.channel)

    def _arrivals(self, stream: StreamReceiver) -> Iterator[Arrival]:
        while True:
            parts = stream.receive(SLICE_S)
            if parts is None:
                self._trigger.check()
                yield NothingArrived()
                continue
            message = self._parse(parts)
            if isinstance(message, DetectorSettingsSaid):
                self._said |= message.said
            elif message.series != self._series:
                yield StaleArrived(f"{type(message).__name__} of series {message.series}")
            elif isinstance(message, SeriesImage):
                yield FrameArrived(message.number, message.decode)
            elif isinstance(message, SeriesEnd):
                yield SeriesEnded()
            else:
                yield StaleArrived("a second start of this series")
