"""Every frame of a scan is there, once, in order, or it is listed as missing."""

from __future__ import annotations

from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.values import FrameBatch
from controller.safety.scan_tally import ScanTally

JOB = UUID(int=5)


def batch(first: int, count: int, job: UUID = JOB) -> FrameBatch:
    numbers = np.arange(first, first + count, dtype=np.uint32)
    return FrameBatch(job, first, numbers[:, None, None])


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20), st.booleans()), max_size=25),
)
def test_what_passes_is_strictly_increasing_and_the_rest_is_listed(
    positions: int, sequence: list[tuple[int, int, bool]]
) -> None:
    """Batches may come in any order, overlap, repeat, run over the end, or belong elsewhere."""
    tally = ScanTally(JOB, positions)
    passed: list[int] = []
    for first, count, ours in sequence:
        fresh = tally.take(batch(first, count, JOB if ours else UUID(int=6)))
        if fresh is not None:
            frames = fresh.data[:, 0, 0].tolist()
            assert frames[0] == fresh.first_sequence
            passed += frames
    assert passed == sorted(set(passed))
    assert all(0 <= frame < positions for frame in passed)
    assert sorted([*passed, *tally.missing]) == list(range(positions))


def test_an_undisturbed_scan_is_complete() -> None:
    tally = ScanTally(JOB, 10)
    for first in (0, 4, 8):
        tally.take(batch(first, 4))
    assert tally.is_full
    assert tally.missing == []
    assert (tally.repeated, tally.stale) == (2, 0)
