"""Which SIMPLON parameters a job needs: set in this order, since some change others."""

from __future__ import annotations

from controller.backends.detectors.config import DectrisConfig
from controller.backends.detectors.dectris.simplon import Simplon
from controller.hardware.errors import ArmFailedError
from controller.hardware.values import DetectorJob

READ_BACK_TOLERANCE = 0.01
"""Relative; the detector rounds times to its clock."""


def trigger_settings(
    config: DectrisConfig, job: DetectorJob, *, by_software: bool
) -> dict[str, str | int]:
    """How `job` is triggered.

    ``ints``: one command starts all frames.  ``exte``: the pulse of every position is its exposure.
    ``exts``: the pulse of a line starts the frames of that line.
    """
    if by_software or job.scan is None:
        return {"trigger_mode": "ints", "nimages": job.frames, "ntrigger": 1}
    if config.trigger == "line":
        rows, columns = job.scan.shape
        return {"trigger_mode": "exts", "nimages": columns, "ntrigger": rows}
    return {"trigger_mode": "exte", "nimages": 1, "ntrigger": job.frames}


def configure(api: Simplon, config: DectrisConfig, job: DetectorJob, *, by_software: bool) -> None:
    """Set the detector up for `job` and compare with what it says then.

    Raises
    ------
    ArmFailedError
        It refuses a value or took another one.
    LinkError
        No answer.
    """
    api.put("stream", "mode", "enabled")
    api.put("stream", "header_detail", "basic")
    if config.stream == "v2":
        api.put("stream", "format", "cbor")
    elif api.has("stream", "config", "format"):
        api.put("stream", "format", "legacy")
    # count_time before frame_time: the detector keeps the frame longer than the count
    wanted: dict[str, str | int | float] = {
        **trigger_settings(config, job, by_software=by_software),
        "count_time": job.frame_s,
        "frame_time": job.frame_s,
    }
    for key, value in wanted.items():
        api.put("detector", key, value)
    for key, value in wanted.items():
        got = api.get("detector", "config", key)
        if not _agrees(got, value):
            raise ArmFailedError(
                f"{config.name} was set to {key} = {value} and reads back {got!r}; it is not "
                f"armed. Choose a value that the detector takes.",
                vendor_text=str(got),
            )


def _agrees(got: object, wanted: str | float) -> bool:
    if isinstance(wanted, float) and isinstance(got, int | float):
        return abs(got - wanted) <= READ_BACK_TOLERANCE * wanted
    return got == wanted
