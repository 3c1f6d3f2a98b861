"""kill -9 of controller and workers at random instants of short nights of six crystals.

The eyes are quick ones: what is looked at is journal, ledger and scans, not the pictures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.cli.compose import shipped_eyes
from controller.decision.rig import Eyes
from controller.hardware.values import OpticsState
from controller.perception.protocols import TiltHint, TiltReading, Zone
from controller.plan.run import RunPlan
from controller.record.events import RunResumed, TargetEnded, TargetsChosen
from tests.scenarios.test_nights import NoReconstruction, events, plan
from tests.scenarios.test_resume import ROOT, check_whole

NIGHT = """
import sys
from pathlib import Path
from controller.cli.compose import resume_run, run_night
from tests.scenarios.test_killed_at_any_instant import six_crystals, steady_eyes
run, p = Path(sys.argv[1]), six_crystals()
if sys.argv[2] == "resume":
    resume_run(run, eyes=steady_eyes(p))
else:
    run_night(p, run, eyes=steady_eyes(p))
"""
UNBORN = "ends before its first line"


class SteadyAligner:
    """Says of every pattern that it stands on its axis."""

    def read(
        self,
        counts: NDArray[np.float32],
        *,
        optics: OpticsState,
        zones: tuple[Zone, ...],
        hint: TiltHint | None = None,
    ) -> TiltReading:
        return TiltReading(
            True, "", zones[0], (0.02, 0.01), 0.1, (128.0, 128.0), 0.0127, "structure",
        )  # fmt: skip


def six_crystals() -> RunPlan:
    base = plan()
    return base.replace(
        targets=base.targets.replace(wanted=6, minimum=1, max_visited=6),
        scan=base.scan.replace(shape=(8, 8), fluence_e_per_A2=10.0),
        reconstruction=base.reconstruction.replace(workers=1, modelled_time_s=5.0),
    )


def steady_eyes(p: RunPlan) -> Eyes:
    picker = shipped_eyes(p).picker
    return Eyes(picker=picker, aligner=SteadyAligner(), reconstructor=NoReconstruction())


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    said: str
    seconds: float


def night(run: Path, *, resume: bool, kill_after_s: float | None = None) -> Ended:
    """A night in processes of their own; all of them are killed after so many seconds."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", NIGHT, str(run), "resume" if resume else "new"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=kill_after_s or 3000.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    return Ended(process.returncode, said, time.monotonic() - began_s)


def killed_until_done(run: Path, rng: random.Random, usual_s: float, most: int) -> int:
    """Kill a night at random instants, `most` times at most, and let it end; returns the kills."""
    kills = 0
    while True:
        resume = (run / "journal.jsonl").exists()
        limit_s = rng.uniform(0.0, usual_s) if kills < most else None
        ended = night(run, resume=resume, kill_after_s=limit_s)
        if ended.code == -signal.SIGKILL:
            kills += 1
        elif UNBORN in ended.said:  # nothing of it was: to be started anew elsewhere, as it says
            run = run.with_name(run.name + "-anew")
        else:
            assert ended.code == 0, ended.said[-2000:]
            check_account(run)
            return kills


def check_account(run: Path) -> None:
    """Nothing repeated, nothing lost, every crystal of the queue in the report."""
    check_whole(run)
    chosen = set(events(run, TargetsChosen)[-1].targets)
    told = {row["id"] for row in json.loads((run / "report.json").read_text())["targets"]}
    assert chosen <= told
    interrupted = len(events(run, RunResumed))
    ended = events(run, TargetEnded)
    lost = [e for e in ended if "interrupted during its scan" in e.reason]
    assert len(lost) <= interrupted
    assert all(e.status == "done" for e in ended if e not in lost), [e.reason for e in ended]


@pytest.mark.soak
@pytest.mark.timeout(40_000)
def test_a_hundred_kills_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(11)
    usual_s = night(tmp_path / "whole", resume=False).seconds
    check_account(tmp_path / "whole")
    kills = number = 0
    while kills < 100:
        kills += killed_until_done(tmp_path / f"run-{number}", rng, usual_s, most=8)
        number += 1
