"""What a driver refuses before anything is sent to the vendor: targets, settings, detector jobs."""

from __future__ import annotations

from controller.hardware.errors import LimitError, ModeError, UnsupportedError
from controller.hardware.values import (
    Axis,
    Capabilities,
    DetectorJob,
    Mode,
    OpticsChange,
    StageLimits,
)


def check_target(
    axis: Axis, target: float, capabilities: Capabilities, holder: StageLimits
) -> None:
    """Refuse a target outside what vendor and holder allow, or for an axis that is not there.

    Raises
    ------
    UnsupportedError, LimitError
        Nothing has moved.
    """
    info = capabilities.axes.get(axis)
    if info is None:
        raise UnsupportedError(
            f"this stage has no axis {axis.value}; nothing has moved. "
            f"A person has to move it by hand."
        )
    low, high = holder.ranges.get(axis, (info.low, info.high))
    low, high = max(low, info.low), min(high, info.high)
    if not low <= target <= high:
        raise LimitError(
            f"{axis.value} = {target:g} is outside {low:g} .. {high:g} of vendor and holder; "
            f"nothing has moved. Choose a target inside."
        )


def check_settings(change: OpticsChange, capabilities: Capabilities) -> None:
    """Refuse a mode or setting that the instrument has not.

    Raises
    ------
    UnsupportedError
        Nothing was sent.
    """
    missing = {*(change.model_dump(exclude_none=True).keys() - capabilities.settings)}
    if change.mode is not None and change.mode not in capabilities.modes:
        missing.add(f"mode {change.mode.value}")
    if missing:
        raise UnsupportedError(
            f"this instrument cannot set {', '.join(sorted(missing))}; nothing was changed. "
            f"A person has to set it by hand."
        )


def check_job(job: DetectorJob, mode: Mode, capabilities: Capabilities) -> None:
    """Refuse what the detector cannot do in the present `mode`.

    Raises
    ------
    UnsupportedError, ModeError, LimitError
        Nothing was armed.
    """
    known = {info.name: info for info in capabilities.detectors}
    info = known.get(job.detector)
    if info is None:
        raise UnsupportedError(
            f"no detector {job.detector!r}; there are {', '.join(known)}. Nothing was armed"
        )
    if job.scan is not None and (capabilities.scan is None or not info.can_scan):
        raise UnsupportedError(f"{job.detector} cannot record a scan; nothing was armed")
    if mode not in info.modes:
        raise ModeError(
            f"{job.detector} works in {', '.join(sorted(m.value for m in info.modes))}, the "
            f"optics are in {mode.value}; nothing was armed. Change the mode first"
        )
    if not info.min_exposure_s <= job.frame_s <= info.max_exposure_s:
        raise LimitError(
            f"a frame of {job.frame_s:g} s is outside {info.min_exposure_s:g} .. "
            f"{info.max_exposure_s:g} s of {job.detector}; nothing was armed"
        )
