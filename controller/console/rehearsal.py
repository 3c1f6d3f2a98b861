"""Rehearse the night's plan on the simulated microscope, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from controller.console.night import Follower, Night
from controller.console.views.queue import QueueView, queue_view

FOLDER = "rehearsal"
_PROGRAM = (sys.executable, "-c", "from controller.cli.main import run_program; run_program()")


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal foretold."""

    view: QueueView | None
    is_over: bool

    @property
    def words(self) -> str:
        """In one line."""
        view = self.view
        if view is None:
            return "the rehearsal begins"
        how = f"{view.done} of {view.wanted} scans accepted"
        if not self.is_over:
            return f"under way: {how} so far, {view.elapsed} h of the night"
        return f"{how} after {view.elapsed} h ({view.ended}: {view.verdict})"


class Rehearsals:
    """Starts one at a time; the folder tells everything else."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, night: Night) -> str:
        """Begin, and say why not, or nothing."""
        if self._process is not None and self._process.poll() is None:
            return "a rehearsal is under way"
        if (self._folder / "journal.jsonl").exists():
            return "this plan was rehearsed; its outcome stands below"
        plan = night.plan
        if plan is None:
            return "there is no plan yet"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "plan.yaml"
        document = plan.model_dump(mode="json", by_alias=True, exclude_none=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        arguments = [*_PROGRAM, "run", str(path), "--rehearse", "--out", str(self._folder), "-q"]
        with (self._folder / "rehearsal.log").open("wb") as log:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return ""

    def close(self) -> None:
        """A rehearsal ends with the console that asked for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=30)


def rehearsal_of(run_dir: Path) -> Rehearsal | None:
    """What the rehearsal of a run has told so far; None where there was none."""
    folder = run_dir / FOLDER
    if not folder.is_dir():
        return None
    follower = Follower(folder)
    follower.look()
    night = follower.night()
    return Rehearsal(queue_view(night), night.belief.ended is not None)
