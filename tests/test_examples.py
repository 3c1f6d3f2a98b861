"""Every script in ``examples/`` runs as its docstring says, on the simulator's files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

CASES = {
    "calibrate_scan": (("{scan}",), r"rotation_deg +\S+ \+- 0\.\d+  \(parallax\)"),
    "first_images": (("{scan}", "{out}"), r"icom: \d\.\d\d rad rms"),
    "reconstruct_scan": (
        ("{scan}", "{out}", "--nominal-defocus-A", "{defocus}"),
        r"(?s)defocus -\d+\.\d nm.*\nstopped because",
    ),
    "compare_results": (
        ("{scan}", "{out}", "--nominal-defocus-A", "{defocus}"),
        r"correlation 0\.\d+ after a shift",
    ),
    "align_patterns": (("{patterns}",), r"K\d\d-near: \(.*\) mrad \+- \d"),
}
"""Arguments, and what has to be said, by script."""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), *arguments],
        capture_output=True, text=True, timeout=250, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``simulate_files`` wrote, as it says itself."""
    said = run("simulate_files", str(tmp_path_factory.mktemp("files")), "--points", "16")
    found = re.search(r"patterns: (.*)\nscan: (.*)\ndefocus at the specimen: (.*) Å", said)
    assert found, said
    return dict(zip(("patterns", "scan", "defocus"), found.groups(), strict=True))


@pytest.mark.parametrize("script", CASES)
def test_the_example_runs_and_says_what_it_found(
    script: str, files: dict[str, str], tmp_path: Path
) -> None:
    arguments, expected = CASES[script]
    values = files | {"out": str(tmp_path / "out")}
    said = run(script, *(argument.format(**values) for argument in arguments))
    assert re.search(expected, said), said


def test_no_example_is_left_out() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == {*CASES, "simulate_files"}
