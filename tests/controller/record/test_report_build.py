from pathlib import Path
from typing import Any

from controller.record.report import build_report


def test_the_verdict_counts_every_target_and_names_the_best(a_night: Any) -> None:
    result = build_report(a_night.folder)
    assert result.data["verdict"]["line"] == (
        "1 of 5 crystals finished, best 1.1 Å, 2 skipped, 1 failed, 1 not visited, 1 needs you"
    )


def test_x(a_night: Any) -> None:
    import shutil

    build_report(a_night.folder)
    shutil.copytree(a_night.folder, Path("/tmp/fixture-run"), dirs_exist_ok=True)
