"""A whole night on some fifty crystals, judged against the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.closed_loop import NoReconstruction
from benchmarks.night import WON_SHARE, judge, night_plan
from controller.cli.compose import run_night, shipped_eyes


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_night_alone_wins_most_of_what_can_be_won_and_breaches_nothing(tmp_path: Path) -> None:
    plan = night_plan(1)
    eyes = replace(shipped_eyes(plan), reconstructor=NoReconstruction())
    run_night(plan, tmp_path / "run", eyes=eyes)
    verdict, fates = judge(tmp_path / "run")
    assert verdict.crystals >= 40
    assert verdict.share >= WON_SHARE, verdict
    assert verdict.breaches == ()
    assert verdict.without_reason == 0, [fate for fate in fates if not fate.reason]
    assert verdict.hours <= 10
