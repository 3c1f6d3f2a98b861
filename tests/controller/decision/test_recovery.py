"""Every error has an answer, every retry an end."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from controller.cli.main import app
from controller.decision.belief import Belief, Target
from controller.decision.frozen import SharedMap
from controller.decision.recovery import TABLE, Answer, fitting_fluence, recover, with_less
from controller.hardware import errors
from controller.plan.demo import demo_plan, demo_text
from controller.plan.recovery import RecoveryRule
from controller.plan.run import RunPlan
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
    return Belief(targets=SharedMap({"T01": target}), faults_in_a_row=times)


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


def rule(**fields: object) -> dict[str, RecoveryRule]:
    return {"Interlock": RecoveryRule.model_validate(fields)}


def test_a_plan_may_decide_otherwise() -> None:
    wanted = rule(answer="wait", limit=2, then="skip target", wait_s=5)
    holder = errors.HolderAbsentError("out")
    first = recover(holder, seen(holder, 0), "T01", wanted)
    assert (first.answer, first.wait_s) == (Answer.WAIT, 5.0)
    assert "rule Interlock of the plan" in first.reason
    assert recover(holder, seen(holder, 2), "T01", wanted).answer is Answer.SKIP_TARGET
    valve = errors.ValveClosedError("shut")
    assert recover(valve, seen(valve, 0), "T01", wanted).wait_s == 60.0, "the more specific wins"


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("Valve", {"answer": "hold"}, "there is no fault 'Valve'; there are"),
        ("BlankUnconfirmed", {"answer": "retry"}, "always holds"),
        ("ValveClosed", {"answer": "wait", "then": "wait"}, "would go on for ever"),
        ("ValveClosed", {"answer": "explode"}, "'retry', 'wait', 'skip target' or 'hold'"),
    ],
)
def test_what_no_plan_may_want(name: str, fields: dict[str, str], why: str) -> None:
    plan = demo_plan(seed=1, scenario="easy").model_dump(mode="json", by_alias=True)
    with pytest.raises(ValidationError, match=why):
        RunPlan.model_validate(plan | {"recovery": {name: fields}})


def test_the_table_is_printed_with_the_plans_rules(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(demo_text() + "\nrecovery:\n  ValveClosed: {answer: hold}\n")
    shown = CliRunner().invoke(app, ["config", "recovery", str(path)])
    line = next(line for line in shown.output.splitlines() if line.startswith("ValveClosed"))
    assert "hold" in line
    assert "(plan)" in line


def limited(charged: float) -> errors.DoseLimitError:
    said = {"limit_e_per_A2": 230.0, "charged_e_per_A2": charged, "asked_e_per_A2": 141.0}
    return errors.DoseLimitError("too much", snapshot=said)


def test_a_scan_beside_another_gets_what_the_budget_leaves() -> None:
    fits = fitting_fluence(limited(140.0), 120.0)
    assert fits == pytest.approx(0.97 * 120 * 90 / 141)
    recovery = with_less(limited(140.0), fits, 60.0)
    assert recovery is not None
    assert recovery.answer is Answer.RETRY
    assert "74.3 e/A2" in recovery.reason
    assert with_less(limited(140.0), fits, 80.0) is None
    assert fitting_fluence(limited(300.0), 120.0) == 0.0
    assert fitting_fluence(errors.DoseLimitError("?"), 120.0) is None
    assert fitting_fluence(errors.LimitError("?", snapshot={"asked_e_per_A2": 1}), 120.0) is None


def test_whoever_does_not_drive_any_more_blames_no_crystal() -> None:
    held = recover(errors.LeaseLostError("the agent has been silent for 2.0 s"), Belief(), "T01")
    assert held.answer is Answer.HOLD
