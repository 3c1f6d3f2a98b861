"""Is the blanker to be believed?  A frame taken with the beam blanked must be dark.

A read-back says what the blanker was told; only a detector knows whether electrons arrive.  The
check is booked like an exposure, because it is one if the blanker lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import NAMESPACE_OID, UUID, uuid5

import numpy as np

from controller.hardware.contract import Adapter
from controller.hardware.errors import BeamState, BlankUnconfirmedError, DoseState
from controller.hardware.values import DetectorInfo, DetectorJob, Exposure, Mode, Purpose, RawFrame
from controller.safety.assessment import Assessment, Assessor
from controller.safety.blanking import BeamGuard
from controller.safety.dose import DoseLedger
from controller.safety.fluence import ELECTRONS_PER_PA_S
from controller.safety.request import check_request

COLLECT_TIMEOUT_S = 10.0
LEAK_FRACTION = 0.05
"""A frame that is brighter than this fraction of an open one is not dark."""
MIN_OPEN_ELECTRONS = 0.1
"""Per pixel: an open frame must be at least this bright for a dark one to prove anything."""


@dataclass(frozen=True)
class BlankerCheck:
    """Outcome of a dark frame."""

    verified: bool
    """Dark, and an open beam would have been seen."""
    electrons_per_pixel: float
    open_electrons_per_pixel: float
    """What the open beam would have given, spread over the detector."""


def check_darkness(
    adapter: Adapter,
    beam: BeamGuard,
    ledger: DoseLedger,
    assessor: Assessor,
    *,
    detector: str,
    duration_s: float,
) -> BlankerCheck:
    """Expose a detector for `duration_s` with the beam blanked; the caller holds the drive lane.

    Raises
    ------
    BlankUnconfirmedError
        The frame is not dark. The second guard was used, the dose of an open beam is charged, and
        the gate stays shut.
    DoseLimitError
        The present place may not take the dose that a lying blanker would let through.
    """
    clock = adapter.clock
    exposure = Exposure(
        exposure_id=_fresh_id(ledger, f"blanker {clock.utc().isoformat()} {clock.now_s()!r}"),
        area="blanker-check",
        purpose=Purpose.FOCUS,
        detector=detector,
        duration_s=duration_s,
    )
    beam.check_trusted()
    assessor.check_column()
    now = assessor.assess(exposure)
    info = check_request(exposure, now.optics, adapter.capabilities)
    expected = _open_electrons_per_pixel(now, info, duration_s)
    ledger.reserve(
        exposure.exposure_id,
        area=exposure.area,
        purpose=exposure.purpose,
        footprint=now.footprint,
        fluence_e_per_A2=now.bound.fluence_e_per_A2,
        unseen_e_per_A2=now.bound.unseen_e_per_A2,
        request=exposure.model_dump_json(),
    )
    try:
        beam.blank()
        adapter.arm(DetectorJob(exposure.exposure_id, detector, duration_s))
        clock.sleep(duration_s)
        raw = adapter.collect(COLLECT_TIMEOUT_S)
    except BaseException:
        adapter.abort()
        ledger.opening(exposure.exposure_id)
        ledger.unknown(exposure.exposure_id, 0.0, "the check of the blanker did not end")
        raise
    bright = _electrons_per_pixel(raw, info)
    if not bright <= LEAK_FRACTION * max(expected, MIN_OPEN_ELECTRONS):
        ledger.opening(exposure.exposure_id)
        ledger.unknown(exposure.exposure_id, 0.0, "the frame of a blanked beam was not dark")
        _shut(beam, bright, expected)
    ledger.release(exposure.exposure_id, "dark")
    return BlankerCheck(expected >= MIN_OPEN_ELECTRONS, bright, expected)


def _shut(beam: BeamGuard, bright: float, expected: float) -> None:
    closed = beam.close_valve()
    beam.suspect = (
        f"the blanker reads blanked, but a frame shows {bright:.3g} electrons per pixel "
        f"(an open beam gives {expected:.3g})"
    )
    raise BlankUnconfirmedError(
        f"{beam.suspect}; the column valve {'was closed' if closed else 'could not be closed'} and "
        f"the dose of an open beam is charged. A person has to check the blanker.",
        beam_state=BeamState.BLANKED if closed else BeamState.OPEN,
        dose_state=DoseState.UNKNOWN,
    )


def _electrons_per_pixel(raw: RawFrame, info: DetectorInfo) -> float:
    electrons = (raw.data.astype(np.float64) - info.offset) / info.gain
    for row, col in info.bad_pixels:
        electrons[row, col] = np.nan
    return float(np.nanmean(electrons))


def _open_electrons_per_pixel(now: Assessment, info: DetectorInfo, duration_s: float) -> float:
    """Electrons per pixel of an open beam without a specimen, on average over the detector."""
    electrons = now.optics.probe_current_pA * ELECTRONS_PER_PA_S * duration_s
    evenly = electrons / (info.shape[0] * info.shape[1])
    if now.optics.mode is not Mode.IMAGE or now.optics.pixel_size_nm is None:
        return evenly
    disc_nm2 = np.pi / 4 * now.optics.beam_diameter_nm**2
    return min(evenly, electrons * now.optics.pixel_size_nm**2 / float(disc_nm2))


def _fresh_id(ledger: DoseLedger, moment: str) -> UUID:
    """An id of that moment that the ledger does not know: virtual nights begin at the same one."""
    number = 0
    while ledger.record(found := uuid5(NAMESPACE_OID, f"{moment} {number}")) is not None:
        number += 1
    return found
