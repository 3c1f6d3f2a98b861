"""Whether this instrument, in its present mode, can do what an exposure asks."""

from __future__ import annotations

from controller.hardware.errors import LimitError, ModeError, UnsupportedError
from controller.hardware.values import Capabilities, DetectorInfo, Exposure, OpticsState, Scan

STATE = "nothing was exposed and the beam is blanked"


def check_request(
    exposure: Exposure, optics: OpticsState, capabilities: Capabilities
) -> DetectorInfo:
    """The detector of `exposure`, if all of it is possible.

    Raises
    ------
    UnsupportedError
        No such detector, or it (or the instrument) cannot scan.
    ModeError
        Not in the present mode.
    LimitError
        Exposure time or raster outside what the detector allows.
    """
    try:
        detector = capabilities.detector(exposure.detector)
    except KeyError as problem:
        raise UnsupportedError(f"{problem.args[0]}; {STATE}. Choose one of these.") from None
    if optics.mode not in detector.modes:
        raise ModeError(
            f"{detector.name} works in {sorted(m.value for m in detector.modes)}, the instrument "
            f"is in {optics.mode.value}; {STATE}. Apply the mode first."
        )
    if exposure.scan is not None:
        _check_scan(exposure.scan, detector, capabilities)
    frame_s = exposure.duration_s if exposure.scan is None else exposure.scan.dwell_s
    low, high = detector.min_exposure_s, detector.max_exposure_s
    if not low <= frame_s <= high:
        raise LimitError(
            f"{detector.name} integrates {low:g} .. {high:g} s per frame, {frame_s:g} s was asked; "
            f"{STATE}. Choose a time in this range."
        )
    return detector


def _check_scan(scan: Scan, detector: DetectorInfo, capabilities: Capabilities) -> None:
    engine = capabilities.scan
    if engine is None or not detector.can_scan:
        raise UnsupportedError(
            f"{detector.name} cannot record a scan on this instrument; {STATE}. "
            f"Choose a detector with can_scan."
        )
    if scan.shape[0] > engine.max_shape[0] or scan.shape[1] > engine.max_shape[1]:
        raise LimitError(
            f"a scan of {scan.shape[0]} x {scan.shape[1]} positions is above the "
            f"{engine.max_shape[0]} x {engine.max_shape[1]} of the scan engine; {STATE}. "
            f"Scan a smaller field."
        )
    if not scan.dwell_s >= engine.min_dwell_s:
        raise LimitError(
            f"dwell_s = {scan.dwell_s:g} is below the {engine.min_dwell_s:g} s of the scan engine; "
            f"{STATE}. Dwell longer with less current."
        )
