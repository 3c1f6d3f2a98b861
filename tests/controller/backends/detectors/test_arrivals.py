"""Arrivals in any order become batches of consecutive frames; nothing is invented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.detectors.arrivals import (
    Arrival,
    FrameArrived,
    Gathering,
    NothingArrived,
    SeriesEnded,
    StaleArrived,
    batches,
)
from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import (
    ExposureTimeoutError,
    ProtocolError,
    StaleFrameError,
    UnreachableError,
)
from controller.hardware.values import CountedBatch, ScanBatch
from recon.dataset import events_from_dense

JOB = UUID(int=9)
SHAPE = (2, 3)


def frame(number: int, dtype: str = "u2", shape: tuple[int, int] = SHAPE) -> FrameArrived:
    return FrameArrived(number, lambda: np.full(shape, number % 200, dtype))


def gathering(clock: VirtualClock | None = None, **changes: object) -> Gathering:
    settings = {
        "job_id": JOB,
        "detector": "pixels",
        "frame_shape": SHAPE,
        "batch_frames": 4,
        "top_is_void": False,
        "stopped": lambda: False,
        "clock": clock or VirtualClock(),
    }
    return Gathering(**(settings | changes))  # type: ignore[arg-type]


def waiting(clock: VirtualClock, first: Iterable[Arrival]) -> Iterator[Arrival]:
    """What a protocol yields: what came, and then that nothing comes."""
    yield from first
    while True:
        clock.sleep(0.05)
        yield NothingArrived()


def numbers_in(taken: list[ScanBatch]) -> list[int]:
    for batch in taken:
        inside = range(batch.first_sequence, batch.first_sequence + len(batch.data))
        assert batch.data[:, 0, 0].tolist() == [n % 200 for n in inside]
    return [n for b in taken for n in range(b.first_sequence, b.first_sequence + len(b.data))]


ARRIVALS = st.lists(
    st.one_of(
        st.integers(-2, 30).map(frame),
        st.just(StaleArrived("x")),
        st.just(NothingArrived()),
    ),
    max_size=60,
)


@given(ARRIVALS, st.integers(1, 25), st.integers(1, 7), st.booleans())
def test_batches_are_what_the_tally_placed_in_order(
    arrivals: list[Arrival], expected: int, batch_frames: int, counted: bool
) -> None:
    tally = SeriesTally(expected)
    how = gathering(batch_frames=batch_frames, counted=counted)
    taken = list(batches(iter([*arrivals, SeriesEnded()]), tally, how, 1e9))
    assert all(1 <= len(batch) <= batch_frames and batch.job_id == JOB for batch in taken)
    got = numbers_in(taken)
    assert got == sorted(set(got))
    assert tally.report().received == len(got)
    assert tally.report().ended


@given(st.lists(st.integers(0, 12), max_size=20), st.booleans())
def test_batches_that_were_handed_on_are_never_written_again(
    numbers: list[int], counted: bool
) -> None:
    tally = SeriesTally(13)
    how = gathering(counted=counted)
    taken = list(batches(iter([*map(frame, numbers), SeriesEnded()]), tally, how, 1e9))
    numbers_in(taken)


def test_what_came_before_an_error_is_handed_on_first() -> None:
    def broken() -> Iterator[Arrival]:
        yield from (frame(0), frame(1))
        raise UnreachableError("the cable was pulled")

    taken: list[ScanBatch] = []
    with pytest.raises(UnreachableError):
        taken.extend(batches(broken(), SeriesTally(6), gathering(), 10))
    # a generator that raises gives its items to extend first
    assert numbers_in(taken) == [0, 1]


def test_what_came_before_a_gap_survives_a_frame_that_does_not_decode() -> None:
    def damaged() -> np.ndarray:
        raise ProtocolError("a frame that does not decode")

    taken: list[ScanBatch] = []
    with pytest.raises(ProtocolError, match="does not decode"):
        taken.extend(
            batches(iter([frame(0), FrameArrived(3, damaged)]), SeriesTally(6), gathering(), 10)
        )
    assert numbers_in(taken) == [0]


def test_a_series_that_does_not_end_in_time_says_what_came() -> None:
    clock = VirtualClock()
    came = waiting(clock, [frame(0), frame(1), frame(3)])
    taken: list[ScanBatch] = []
    with pytest.raises(ExposureTimeoutError, match=r"3 of 6 frames, 3 missing at 2, 4, 5, no end"):
        taken.extend(batches(came, SeriesTally(6), gathering(clock), 2.0))
    assert clock.now_s() == pytest.approx(2.0, abs=0.1)
    assert numbers_in(taken) == [0, 1, 3]


def test_only_strangers_is_an_error_of_its_own() -> None:
    clock = VirtualClock()
    came = waiting(clock, [StaleArrived("frame 1 of series 3")] * 2)
    with pytest.raises(StaleFrameError, match="2 of another series"):
        list(batches(came, SeriesTally(6), gathering(clock), 1.0))


def test_a_flood_of_strangers_does_not_hold_the_deadline_up() -> None:
    clock = VirtualClock()

    def flood() -> Iterator[Arrival]:
        while True:
            clock.sleep(0.001)
            yield StaleArrived("x")

    with pytest.raises(StaleFrameError):
        list(batches(flood(), SeriesTally(6), gathering(clock), 1.0))
    assert clock.now_s() == pytest.approx(1.0, abs=0.1)


def test_somebody_who_stops_ends_it_without_an_error() -> None:
    clock = VirtualClock()
    how = gathering(clock, stopped=lambda: clock.now_s() > 0.5)
    assert list(batches(waiting(clock, []), SeriesTally(6), how, 10.0)) == []


@pytest.mark.parametrize("counted", [False, True])
def test_readings_without_a_value_become_zero_and_are_counted(counted: bool) -> None:
    data = np.array([[65535, 3, 65534], [0, 65535, 1]], "<u2")
    tally = SeriesTally(1)
    arrivals = iter([FrameArrived(0, lambda: data)])
    how = gathering(top_is_void=True, counted=counted)
    (batch,) = batches(arrivals, tally, how, 1.0)
    assert batch.data[0].tolist() == [[0, 3, 65534], [0, 0, 1]]
    assert tally.report().without_value == 2


def test_a_batch_is_handed_on_a_tenth_of_a_second_after_its_first_frame() -> None:
    """A slow detector commits often, a fast one in large pieces."""
    clock = VirtualClock()

    def slow() -> Iterator[Arrival]:
        for number in range(20):
            yield frame(number)
            clock.sleep(0.03)

    taken = list(batches(slow(), SeriesTally(20), gathering(clock, batch_frames=99), 10.0))
    assert numbers_in(taken) == list(range(20))
    assert {len(batch.data) for batch in taken} == {5}


def test_a_batch_of_large_frames_holds_few() -> None:
    shape = (1024, 1024)
    arrivals = (frame(number, shape=shape) for number in range(5))
    how = gathering(frame_shape=shape, batch_frames=4096, counted=False)
    sizes = [len(batch) for batch in batches(arrivals, SeriesTally(5), how, 1e9)]
    assert sizes == [2, 2, 1]


def test_a_batch_of_many_electrons_holds_few_frames() -> None:
    """The frames 0 to 4 hold as many electrons in each of a million pixels."""
    shape = (1024, 1024)
    arrivals = (frame(number, shape=shape) for number in range(5))
    how = gathering(frame_shape=shape, batch_frames=4096)
    sizes = [len(batch) for batch in batches(arrivals, SeriesTally(5), how, 1e9)]
    assert sizes == [2, 1, 1, 1]


def test_a_change_of_the_bit_depth_ends_the_series() -> None:
    """Nothing is squeezed into a smaller type."""
    arrivals = iter([frame(0), frame(1, "u4")])
    taken: list[ScanBatch] = []
    with pytest.raises(ProtocolError, match="a frame of uint32 after frames of uint16"):
        taken.extend(batches(arrivals, SeriesTally(6), gathering(), 1.0))
    assert numbers_in(taken) == [0]


def test_big_endian_counts_become_native() -> None:
    how = gathering(counted=False)
    (batch,) = batches(iter([frame(0, ">u2")]), SeriesTally(1), how, 1.0)
    assert batch.data.dtype == np.dtype("u2")
    assert batch.data.dtype.isnative


def test_a_scan_is_listed_electron_by_electron() -> None:
    """Row 0, column 1 has three electrons, row 1, column 0 one: pixels 1, 1, 1 and 3."""
    data = np.array([[0, 3, 0], [1, 0, 0]], ">u2")
    arrivals = [FrameArrived(0, lambda: data), frame(1, ">u2"), SeriesEnded()]
    (batch,) = batches(iter(arrivals), SeriesTally(6), gathering(), 1.0)
    assert isinstance(batch, CountedBatch)
    assert batch.pixel.tolist() == [1, 1, 1, 3, *range(6)]
    assert batch.count.tolist() == [4, 6]
    np.testing.assert_array_equal(batch.data, [data, np.ones(SHAPE)])


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_part_of_a_counted_batch_is_that_part_of_its_frames(start: int, more: int) -> None:
    arrivals = iter([*map(frame, range(1, 5)), SeriesEnded()])
    (batch,) = batches(arrivals, SeriesTally(6), gathering(), 1.0)
    stop = min(start + more, 4)
    part = batch.part(start, stop)
    assert part.first_sequence == 1 + start
    np.testing.assert_array_equal(part.data, batch.data[start:stop])


def test_a_long_series_is_counted_as_its_frames_are_as_a_whole() -> None:
    """More frames than fit into the block that is counted at once, and a part of the last one."""
    shape = (64, 128)
    counts = np.random.default_rng(5).poisson(0.02, (200, *shape)).astype(np.uint16)
    arrivals = iter(FrameArrived(n, lambda n=n: counts[n]) for n in range(200))  # type: ignore[misc]
    how = gathering(frame_shape=shape, batch_frames=4096)
    (batch,) = batches(arrivals, SeriesTally(200), how, 1.0)
    pixel, count = events_from_dense(counts)
    np.testing.assert_array_equal(batch.pixel, pixel)
    np.testing.assert_array_equal(batch.count, count)


def test_a_frame_of_another_shape_ends_the_series() -> None:
    arrivals = iter([frame(0), frame(1, shape=(3, 2))])
    taken: list[ScanBatch] = []
    with pytest.raises(ProtocolError, match=r"sent a frame of \(3, 2\) pixels, it has \(2, 3\)"):
        taken.extend(batches(arrivals, SeriesTally(6), gathering(), 1.0))
    assert numbers_in(taken) == [0]


def test_a_frame_that_is_out_of_turn_is_not_even_decoded() -> None:
    def never() -> np.ndarray:
        raise AssertionError("decoded")

    arrivals = iter([frame(0), FrameArrived(0, never), FrameArrived(99, never), SeriesEnded()])
    assert numbers_in(list(batches(arrivals, SeriesTally(6), gathering(), 1.0))) == [0]
