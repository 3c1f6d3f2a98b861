"""What the simulator knows and no real microscope can: for the report, and only there.

Decision and perception never read this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.record.report.story import Night
from controller.safety.dose_map import DoseMap


@dataclass(frozen=True)
class TargetTruth:
    """The truth about one target."""

    crystal: str
    structure: str | None
    before_deg: float | None
    after_deg: float | None


@dataclass(frozen=True)
class Truth:
    """The content of ``truth.h5`` that the report uses."""

    path: Path

    def of_targets(self, night: Night) -> dict[str, TargetTruth]:
        """What the targets really were, by name."""
        return {}

    def dose_check(self, charged: DoseMap) -> dict[str, Any] | None:
        """Charged against true fluence, cell by cell; None without a true map."""
        return None


def read_truth(path: Path) -> Truth:
    """Open the simulator's truth.

    Raises
    ------
    OSError, ValueError, KeyError
        No truth file.
    """
    return Truth(path)
