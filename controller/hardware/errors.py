"""What can go wrong, what state it leaves behind, and who may retry.

Callers react to the class, never to the text.  Every error carries the state of beam and dose,
so that a handler at 3 a.m. needs no guess.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Retry(StrEnum):
    """When trying again can make sense."""

    NEVER = "never"
    SAME = "same"
    AFTER_RECOVERY = "after_recovery"
    OPERATOR = "operator"


class BeamState(StrEnum):
    """Where the beam is when the error reaches the caller."""

    BLANKED = "blanked"
    OPEN = "open"
    UNKNOWN = "unknown"


class DoseState(StrEnum):
    """What the ledger holds for the failed operation."""

    NONE = "none"
    CHARGED = "charged"
    UNKNOWN = "unknown"


class MicroscopeError(Exception):
    """Anything that the instrument or its guard reports.

    Parameters
    ----------
    message
        What happened with numbers and units, the limit, the state now, what to do next.
    beam_state, dose_state
        State left behind.
    vendor_code, vendor_text
        What the vendor's interface said, verbatim.
    snapshot
        JSON-able readings at the time of the error.
    """

    retry: Retry = Retry.AFTER_RECOVERY

    def __init__(
        self,
        message: str,
        *,
        beam_state: BeamState = BeamState.BLANKED,
        dose_state: DoseState = DoseState.NONE,
        vendor_code: int | None = None,
        vendor_text: str | None = None,
        snapshot: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.beam_state = beam_state
        self.dose_state = dose_state
        self.vendor_code = vendor_code
        self.vendor_text = vendor_text
        self.snapshot = snapshot or {}

    @property
    def code(self) -> str:
        """Stable machine-readable name: the class without the suffix ``Error``."""
        return type(self).__name__.removesuffix("Error")


# --- refused: nothing moved, nothing was exposed -------------------------------------------


class RefusedError(MicroscopeError):
    """Refused before anything happened."""

    retry = Retry.NEVER


class LimitError(RefusedError):
    """A target or setting lies outside the limits."""


class UnsupportedError(RefusedError):
    """The instrument cannot do this at all (a missing capability)."""


class ModeError(RefusedError):
    """Not possible in the present mode."""


class DoseLimitError(RefusedError):
    """The exposure would exceed a dose budget."""


class AlreadyExposedError(RefusedError):
    """An exposure_id was used before; the beam is not opened again for it."""


class ApprovalRequiredError(RefusedError):
    """A person has to approve this first."""

    retry = Retry.OPERATOR


class LeaseLostError(RefusedError):
    """Another client drives, or the lease expired."""


class NotAuthorisedError(RefusedError):
    """The role may not do this."""


# --- interlocks: the column is not fit for a beam -------------------------------------------


class InterlockError(MicroscopeError):
    """A precondition of the exposure is bad, unknown or stale."""


class ValveClosedError(InterlockError):
    """The column valve is closed."""


class VacuumBadError(InterlockError):
    """The vacuum is not ready."""


class GunOffError(InterlockError):
    """The gun does not emit."""

    retry = Retry.OPERATOR


class HighTensionOffError(InterlockError):
    """The high tension is off."""

    retry = Retry.OPERATOR


class ScreenDownError(InterlockError):
    """The screen intercepts the beam."""


class HolderAbsentError(InterlockError):
    """No holder is inserted."""

    retry = Retry.OPERATOR


class HolderChangedError(InterlockError):
    """Another holder than the one the run started with."""

    retry = Retry.OPERATOR


class RefillingError(InterlockError):
    """A dewar is being refilled."""


class FlashingRequiredError(InterlockError):
    """The tip asks for a flash."""


class StaleHealthError(InterlockError):
    """A health reading is unknown or too old to trust."""

    retry = Retry.SAME


# --- motion -------------------------------------------------------------------------------


class MotionError(MicroscopeError):
    """A move did not end as asked."""


class NotReachedError(MotionError):
    """Settled, but further from the target than the tolerance."""

    def __init__(self, message: str, *, residual: dict[str, float], **state: Any) -> None:  # noqa: ANN401
        super().__init__(message, **state)
        self.residual = residual


class MoveTimeoutError(MotionError):
    """Not settled in time; the stage may still be moving."""


class StalledError(MotionError):
    """The read-back made no progress."""


class LimiterHitError(MotionError):
    """The goniometer reports a limiter."""

    retry = Retry.OPERATOR


class TouchAlarmError(MotionError):
    """The holder touches the pole piece."""

    retry = Retry.OPERATOR


class StoppedByOtherError(MotionError):
    """Somebody else stopped or moved the stage."""

    retry = Retry.OPERATOR


# --- detectors ----------------------------------------------------------------------------


class DetectorError(MicroscopeError):
    """A detector did not deliver what was asked."""

    retry = Retry.SAME


class ArmFailedError(DetectorError):
    """The detector did not arm."""


class ExposureTimeoutError(DetectorError):
    """No frame before the deadline."""


class ShortReadError(DetectorError):
    """Fewer frames than asked for."""


class SaturatedError(DetectorError):
    """The detector saturated."""


class BlankFrameError(DetectorError):
    """The frame holds no beam although the shutter was open."""


class StaleFrameError(DetectorError):
    """The frame belongs to an earlier exposure."""


class SequenceGapError(DetectorError):
    """Frames are missing, repeated or out of order."""


# --- beam ---------------------------------------------------------------------------------


class BeamError(MicroscopeError):
    """The beam is not as it should be."""


class BlankUnconfirmedError(BeamError):
    """The blanker did not confirm; the second guard was used."""

    retry = Retry.OPERATOR


class CurrentDriftError(BeamError):
    """The beam current left its tolerance."""


class CurrentLostError(BeamError):
    """No beam current."""


# --- specimen -----------------------------------------------------------------------------


class SpecimenError(MicroscopeError):
    """The specimen is not as expected; skip or find again."""


class LostError(SpecimenError):
    """The crystal is not where it was."""


class DriftTooFastError(SpecimenError):
    """Drift above the limit."""


class ChargingError(SpecimenError):
    """The image moves with the dose rate."""


class DamagedError(SpecimenError):
    """Reflections have faded."""


class NotCrystallineError(SpecimenError):
    """No Bragg spots."""


# --- link and storage ---------------------------------------------------------------------


class LinkError(MicroscopeError):
    """The instrument or its server did not answer properly."""


class UnreachableError(LinkError):
    """No connection."""


class ReplyTimeoutError(LinkError):
    """No reply: the outcome is UNKNOWN, read back before anything else."""


class ProtocolError(LinkError):
    """An answer that makes no sense."""


class StaleEpochError(LinkError):
    """A message from before the present lease."""


class StorageError(MicroscopeError):
    """Data could not be stored."""


class DiskFullError(StorageError):
    """Not enough space for the next exposure."""


class WriteFailedError(StorageError):
    """The disk refused a write."""


class ChecksumMismatchError(StorageError):
    """Stored data do not match their checksum."""
