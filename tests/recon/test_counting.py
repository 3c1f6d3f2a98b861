"""Counting dense frames: the fast kernel lists what a loop over all pixels lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recon.dataset import events_from_dense
from recon.errors import DataError

DTYPES = ["u1", "<u2", ">u2", "<u4", ">u4", "<u8", "i1", "<i4"]
FRAMES = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(
        dtype,
        st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 9)),
        elements=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
    )
)


def listed(frames: np.ndarray) -> tuple[list[int], list[int]]:
    """One entry per electron, pixel after pixel."""
    pixels: list[int] = []
    for frame in frames:
        for pixel, electrons in enumerate(frame.reshape(-1).tolist()):
            pixels += [pixel] * electrons
    return pixels, [int(frame.sum()) for frame in frames]


@given(FRAMES)
def test_the_fast_kernel_lists_what_a_loop_lists(frames: np.ndarray) -> None:
    pixel, count = events_from_dense(frames)
    assert (pixel.tolist(), count.tolist()) == listed(frames)
    assert pixel.dtype == np.uint16


@given(FRAMES, st.integers(1, 3))
def test_views_that_are_not_contiguous_count_the_same(frames: np.ndarray, step: int) -> None:
    view = frames[:, ::step, ::-1]
    pixel, count = events_from_dense(view)
    assert (pixel.tolist(), count.tolist()) == listed(view)


def test_a_large_detector_needs_wide_indices() -> None:
    frames = np.zeros((1, 257, 256), np.uint16)
    frames[0, 256, 255] = 2
    pixel, count = events_from_dense(frames)
    assert pixel.dtype == np.uint32
    assert pixel.tolist() == [65791, 65791]
    assert count.tolist() == [2]


def test_negative_counts_are_refused() -> None:
    frames = np.zeros((2, 3, 4), np.int16)
    frames[1, 2, 3] = -1
    with pytest.raises(DataError, match=r"negative counts \(minimum -1\)"):
        events_from_dense(frames)
