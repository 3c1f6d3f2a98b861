"""What a night takes from a reconstruction's summary: no more than the electrons confirm."""

from __future__ import annotations

from typing import Any

import pytest

from controller.perception.reconstruction import reading_of


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "resolution": {"frc_half_A": 1.1, "lattice_limit_A": 1.3},
        "calibration": {"defocus_A": {"value": 600.0}, "thickness_A": {"value": 310.0}},
        "explained_share": 0.9,
        "verdict": "Lattice visible to 1.30 Å",
        "passes": 8,
        "stopped_because": "held-out electrons",
    } | changes


def test_the_worse_of_both_resolutions_counts() -> None:
    reading = reading_of(summary())
    assert reading.ok
    assert reading.resolution_A == pytest.approx(1.3)
    assert (reading.defocus_nm, reading.thickness_nm) == (60.0, 31.0)
    assert reading.reason == ""


def test_what_the_electrons_do_not_confirm_is_no_result() -> None:
    """A thick crystal of the demo: spots of its own to 1.2 Å, 67 % confirmed, wrong throughout."""
    reading = reading_of(
        summary(
            explained_share=0.67,
            resolution={"frc_half_A": None, "lattice_limit_A": 1.19},
            verdict="Doubtful: the electrons confirm 67 %",
        )
    )
    assert not reading.ok
    assert reading.reason == "Doubtful: the electrons confirm 67 %"


def test_no_lattice_is_no_result() -> None:
    reading = reading_of(summary(resolution={"frc_half_A": 1.1, "lattice_limit_A": None}))
    assert not reading.ok
    assert "no lattice" in reading.reason


def test_an_older_summary_without_the_share_is_read_as_before() -> None:
    old = summary()
    del old["explained_share"]
    assert reading_of(old).ok
