"""Every error has an answer, every retry an end."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from controller.decision.belief import Belief, Target
from controller.decision.recovery import TABLE, Answer, recover
from controller.hardware import errors
from controller.record.events import Fault, Pick

PICK = Pick(x_um=0, y_um=0, radius_nm=99, score=1, diameter_nm=9, frame="f", x_px=0, y_px=0)


def all_errors() -> list[type[errors.MicroscopeError]]:
    found, queue = [], [errors.MicroscopeError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue += kind.__subclasses__()
    return found


def make(kind: type[errors.MicroscopeError]) -> errors.MicroscopeError:
    if kind is errors.NotReachedError:
        return errors.NotReachedError("off by 1 um", residual={"x_um": 1.0})
    return kind("it happened")


def seen(error: errors.MicroscopeError, times: int) -> Belief:
    fault = Fault(
        error=error.code, message="", action="Tilt", target="T01", beam_state="blanked",
        dose_state="none", handled="",
    )  # fmt: skip
    target = Target("T01", PICK, faults=(fault,) * times)
    return Belief(targets=MappingProxyType({"T01": target}), faults_in_a_row=times)


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_an_answer_and_no_retry_is_endless(
    kind: type[errors.MicroscopeError],
) -> None:
    error = make(kind)
    first = recover(error, seen(error, 0), "T01").answer
    late = recover(error, seen(error, 1000), "T01").answer
    assert isinstance(first, Answer)
    assert late in (Answer.SKIP_TARGET, Answer.HOLD)


@pytest.mark.parametrize("kind", all_errors())
def test_without_a_crystal_nothing_is_skipped(kind: type[errors.MicroscopeError]) -> None:
    error = make(kind)
    for times in (0, 1, 1000):
        assert recover(error, seen(error, times), None).answer is not Answer.SKIP_TARGET
    assert recover(error, seen(error, 1000), None).answer is Answer.HOLD


def test_the_beam_that_cannot_be_blanked_holds_the_run() -> None:
    error = errors.BlankUnconfirmedError("stuck")
    assert recover(error, replace(Belief()), None).answer is Answer.HOLD


def test_the_table_names_only_errors_that_exist() -> None:
    names = {kind.__name__.removesuffix("Error") for kind in all_errors()}
    assert set(TABLE) <= names
