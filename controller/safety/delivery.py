"""From what the detector delivers to what the caller gets: this exposure's frame, or a receipt."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from controller.hardware.contract import Adapter
from controller.hardware.errors import ArmFailedError, ProtocolError, StaleFrameError
from controller.hardware.values import (
    DetectorInfo,
    Exposure,
    Frame,
    RawFrame,
    Scan,
    ScanReceipt,
)
from controller.safety.assessment import Assessment
from controller.safety.scan_tally import ScanTally

COLLECT_TIMEOUT_S = 10.0
"""How long a finished frame may take to arrive; the beam is off meanwhile."""
MAX_STALE_FRAMES = 3
MAX_GAPS_LISTED = 1000


def frame_of(
    adapter: Adapter, exposure: Exposure, detector: DetectorInfo, now: Assessment, charged: float
) -> Frame:
    """Collect the frame of an exposure whose beam is already blanked.

    Raises
    ------
    ExposureTimeoutError, StaleFrameError
        It did not come.
    ProtocolError
        It has another shape than the detector.
    """
    raw = _collect(adapter, exposure)
    if raw.data.shape != detector.shape:
        raise ProtocolError(
            f"{detector.name} delivered a frame of {raw.data.shape}, it has {detector.shape} "
            f"pixels; the beam is blanked. Check binning and region of interest."
        )
    return Frame(
        exposure_id=exposure.exposure_id,
        sequence=raw.sequence,
        data=raw.data,
        gain=detector.gain,
        offset=detector.offset,
        exposure_s=exposure.duration_s,
        utc=adapter.clock.utc().isoformat(),
        pose=now.pose,
        optics=now.optics,
        charged_e_per_A2=charged,
        valid=_good_pixels(detector.shape, detector.bad_pixels),
    )


def receipt_of(
    exposure: Exposure,
    scan: Scan,
    now: Assessment,
    tally: ScanTally,
    left: tuple[str, int, str],
    charged: float,
) -> ScanReceipt:
    """The receipt of a scan whose file is closed; `left` is what the sink said."""
    uri, committed, checksum = left
    missing = tally.missing
    return ScanReceipt(
        exposure_id=exposure.exposure_id,
        uri=uri,
        frames_expected=tally.positions,
        frames_committed=committed,
        gaps=tuple(missing[:MAX_GAPS_LISTED]),
        checksum_sha256=checksum,
        complete=not missing,
        pose=now.pose,
        optics=now.optics,
        scan=scan,
        charged_e_per_A2=charged,
    )


def _collect(adapter: Adapter, exposure: Exposure) -> RawFrame:
    """The frame of this exposure; older ones that come late are thrown away."""
    for stale in range(MAX_STALE_FRAMES):
        try:
            raw = adapter.collect(COLLECT_TIMEOUT_S)
        except ArmFailedError as problem:
            if stale == 0:
                raise
            raise _only_stale(exposure, stale) from problem  # what it was armed for has come
        if raw.job_id == exposure.exposure_id:
            return raw
    raise _only_stale(exposure, MAX_STALE_FRAMES)


def _only_stale(exposure: Exposure, count: int) -> StaleFrameError:
    return StaleFrameError(
        f"{exposure.detector} delivered {count} frame{'s'[: count != 1]} of earlier exposures and "
        f"not its own; the beam is blanked. Drain the detector, then expose again."
    )


@cache
def _good_pixels(
    shape: tuple[int, int], bad: tuple[tuple[int, int], ...]
) -> NDArray[np.bool_] | None:
    if not bad:
        return None
    good = np.ones(shape, dtype=bool)
    good[tuple(np.transpose(bad))] = False
    good.flags.writeable = False
    return good
