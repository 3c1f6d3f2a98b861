"""Callers react to the class: the taxonomy is closed, named alike, and says what may be retried."""

from __future__ import annotations

import inspect

import pytest

from controller.hardware import errors
from controller.hardware.errors import (
    BeamState,
    DoseState,
    InterlockError,
    MicroscopeError,
    NotReachedError,
    RefusedError,
    Retry,
)

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MicroscopeError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_named_documented_and_carries_its_state(kind: type[MicroscopeError]) -> None:
    extra = {"residual": {"x_um": 1.0}} if issubclass(kind, NotReachedError) else {}
    error = kind("what; the limit; the state; the remedy", vendor_code=7, **extra)
    assert kind.__name__.endswith("Error")
    assert kind.__doc__
    assert error.code == kind.__name__.removesuffix("Error")
    assert error.beam_state is BeamState.BLANKED
    assert error.dose_state is DoseState.NONE
    assert error.vendor_code == 7
    assert error.snapshot == {}
    assert isinstance(kind.retry, Retry)


def test_names_are_unique_so_that_a_code_tells_the_class() -> None:
    codes = [kind("").code for kind in CLASSES if not issubclass(kind, NotReachedError)]
    assert len(codes) == len(set(codes))


def test_refusals_are_never_retried_but_with_a_person() -> None:
    for kind in CLASSES:
        if issubclass(kind, RefusedError):
            assert kind.retry in (Retry.NEVER, Retry.OPERATOR)


def test_every_interlock_has_its_own_error() -> None:
    from controller.safety.interlocks import INTERLOCKS

    kinds = [interlock.error for interlock in INTERLOCKS.values()]
    assert len(set(kinds)) == len(kinds)
    assert all(issubclass(kind, InterlockError) for kind in kinds)
