"""Errors that cross the wire keep their class, and the state of beam and dose they leave behind."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from controller.hardware import errors
from controller.hardware.errors import (
    BeamState,
    DoseState,
    MicroscopeError,
    NotReachedError,
    ProtocolError,
)
from controller.hardware.values import Frozen

INTERRUPTED = "Interrupted"
BAD_VALUE = "BadValue"
INTERNAL = "Internal"


class Failure(Frozen):
    """One error as JSON; `code` is the class without its suffix ``Error``."""

    code: str
    message: str
    beam_state: BeamState = BeamState.UNKNOWN
    dose_state: DoseState = DoseState.UNKNOWN
    vendor_code: int | None = None
    vendor_text: str | None = None
    snapshot: dict[str, Any] = Field(default_factory=dict)
    residual: dict[str, float] | None = None


def _classes(root: type[MicroscopeError]) -> dict[str, type[MicroscopeError]]:
    found = {root.__name__.removesuffix("Error"): root}
    for kind in root.__subclasses__():
        found |= _classes(kind)
    return found


def failure_of(problem: BaseException) -> Failure:
    """Any error as it travels."""
    if isinstance(problem, MicroscopeError):
        return Failure(
            code=problem.code,
            message=str(problem),
            beam_state=problem.beam_state,
            dose_state=problem.dose_state,
            vendor_code=problem.vendor_code,
            vendor_text=problem.vendor_text,
            snapshot=problem.snapshot,
            residual=problem.residual if isinstance(problem, NotReachedError) else None,
        )
    if isinstance(problem, KeyboardInterrupt):
        return Failure(code=INTERRUPTED, message="interrupted by a person at the server")
    code = BAD_VALUE if isinstance(problem, ValueError) else INTERNAL
    return Failure(code=code, message=f"{type(problem).__name__}: {problem}")


def error_of(failure: Failure) -> BaseException:
    """The error to raise where the answer arrives; of the class it had where it arose."""
    if failure.code == INTERRUPTED:
        return KeyboardInterrupt(failure.message)
    if failure.code == BAD_VALUE:
        return ValueError(failure.message)
    kind = _classes(errors.MicroscopeError).get(failure.code)
    state: dict[str, Any] = {
        "beam_state": failure.beam_state,
        "dose_state": failure.dose_state,
        "vendor_code": failure.vendor_code,
        "vendor_text": failure.vendor_text,
        "snapshot": failure.snapshot,
    }
    if kind is None:
        return ProtocolError(f"the other side failed: {failure.message}", **state)
    if issubclass(kind, NotReachedError):
        return kind(failure.message, residual=failure.residual or {}, **state)
    return kind(failure.message, **state)
