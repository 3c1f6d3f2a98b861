"""A journal of a million entries: how long it takes to verify and fold, in how much memory.

    python -m benchmarks.journal --events 1000000 --out DIR [--from RUN/journal.jsonl]

The entries are those of a night on the simulated microscope (`--from`, or a short one that is run
first), the story of its crystals told again and again under new names, hashed and chained as the
program writes them.  Then a process of its own reads the file as `lodestem run --resume` does.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from controller.record.journal import GENESIS, chained


def told_again(lines: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """`count` events: the survey of a night, then the stories of its crystals, over and over.

    Parameters
    ----------
    lines
        Of the night's journal.
    """
    events = [line["event"] for line in lines]
    chosen = next(n for n, event in enumerate(events) if event["kind"] == "targets")
    ended = [n for n, event in enumerate(events) if event["kind"] == "target_ended"]
    story = [json.dumps(event) for event in events[chosen + 1 : ended[-1] + 1]]
    names = sorted(set(re.findall(r'"target": "(T\d+)"', "".join(story))))
    rounds = -(-(count - chosen) // len(story))
    picks = list(events[chosen]["targets"].values())
    yield from events[:chosen]
    yield events[chosen] | {
        "targets": {
            f"T{100 * n + k:06d}": picks[k % len(picks)]
            for n in range(rounds)
            for k in range(len(names))
        }
    }
    told, step = chosen + 1, len(events)
    for n in range(rounds):
        new = {name: f"T{100 * n + k:06d}" for k, name in enumerate(names)}
        for text in story:
            if told == count:
                return
            event = json.loads(_renamed(text, new))
            if "exposure_id" in event:
                event["exposure_id"] = f"{n:08x}{event['exposure_id'][8:]}"
            if "step" in event:
                event["step"] = step = step + (event["kind"] == "step_started")
            told += 1
            yield event


def _renamed(text: str, new: dict[str, str]) -> str:
    return re.sub("|".join(new), lambda found: new[found[0]], text)


def write(path: Path, lines: list[dict[str, Any]], count: int) -> None:
    """A journal of `count` entries, without waiting for the disk at each."""
    prev = GENESIS
    with path.open("wb") as file:
        for sequence, event in enumerate(told_again(lines, count)):
            raw, prev = chained(
                {
                    "v": 1,
                    "seq": sequence,
                    "utc": "2030-01-01T00:00:00+00:00",
                    "clock_s": round(0.1 * sequence, 6),
                    "event": event,
                    "prev": prev,
                }
            )
            file.write(raw)


def short_night(folder: Path) -> Path:
    """The journal of four crystals on the simulated microscope."""
    from benchmarks.closed_loop import NoReconstruction, night_plan
    from controller.cli.compose import run_night, shipped_eyes

    plan = night_plan(4, 4)
    eyes = replace(shipped_eyes(plan), reconstructor=NoReconstruction())
    return run_night(plan, folder, eyes=eyes).run_dir / "journal.jsonl"


def replay(run_dir: Path) -> dict[str, float]:
    """Read a run folder as a resumption does; to be called in a process of its own."""
    from controller.decision.resume import read_interrupted

    before_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run = read_interrupted(run_dir)
    return {
        "entries": run.last.sequence + 1,
        "crystals": len(run.belief.targets),
        "exposures": len(run.exposures),
        "wall_s": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "grown_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_MB,
        "file_MB": (run_dir / "journal.jsonl").stat().st_size / 1e6,
    }


def measured(lines: list[dict[str, Any]], count: int, folder: Path) -> dict[str, float]:
    """Write a journal of `count` entries and replay it in a fresh process."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "journal.jsonl", lines, count)
    call = [sys.executable, "-m", "benchmarks.journal", "--replay", str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Write, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--replay", type=Path, help="read this run folder and print the figures")
    options = parser.parse_args()
    if options.replay is not None:
        print(json.dumps(replay(options.replay)))
        return
    with TemporaryDirectory() as scratch:
        source = options.source or short_night(Path(scratch) / "night")
        lines = [json.loads(raw) for raw in source.read_bytes().splitlines()]
        for count in (options.events // 10, options.events):
            found = measured(lines, count, Path(scratch) / f"long-{count}")
            print("  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
