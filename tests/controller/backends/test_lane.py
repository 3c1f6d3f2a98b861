"""One connection, one call at a time; blanking overtakes; what was given up never happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from controller.backends.lane import ThreadLane
from controller.hardware.errors import ReplyTimeoutError


@pytest.fixture
def lane() -> Iterator[ThreadLane]:
    opened = ThreadLane("test")
    yield opened
    opened.close()


def occupied(lane: ThreadLane) -> threading.Event:
    """Keep the lane busy until the event is set."""
    begun, gate = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(5)

    lane.start(work, "busy")
    begun.wait(5)
    return gate


def test_calls_run_in_one_thread_and_return_or_raise(lane: ThreadLane) -> None:
    threads = {lane.call(threading.get_ident, "asking", timeout_s=5) for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    with pytest.raises(ZeroDivisionError):
        lane.call(lambda: 1 // 0, "dividing", timeout_s=5)


def test_a_call_from_within_a_call_does_not_wait_for_itself(lane: ThreadLane) -> None:
    nested = lane.call(lambda: lane.call(lambda: 7, "inner", timeout_s=1), "outer", timeout_s=5)
    assert nested == 7


def test_urgent_calls_overtake_what_has_not_begun(lane: ThreadLane) -> None:
    gate, order = occupied(lane), []
    first = lane.start(lambda: order.append("reading"), "reading")
    urgent = lane.start(lambda: order.append("blanking"), "blanking", urgent=True)
    gate.set()
    urgent.result(5)
    first.result(5)
    assert order == ["blanking", "reading"]


def test_what_was_given_up_before_it_began_is_never_carried_out(lane: ThreadLane) -> None:
    gate, done = occupied(lane), []
    with pytest.raises(ReplyTimeoutError, match=r"moving: .*will not be carried out"):
        lane.call(lambda: done.append(1), "moving", timeout_s=0.05)
    gate.set()
    lane.call(lambda: None, "afterwards", timeout_s=5)
    assert done == []


def test_blanking_that_waits_too_long_stays_in_the_queue(lane: ThreadLane) -> None:
    gate, done = occupied(lane), []
    task = lane.start(lambda: done.append(1), "blanking", urgent=True)
    with pytest.raises(ReplyTimeoutError, match="whether it was carried out is not known"):
        task.result(0.05, insist=True)
    gate.set()
    task.result(5)
    assert done == [1]


def test_a_call_that_hangs_is_told_from_one_that_never_began(lane: ThreadLane) -> None:
    gate, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait(5)

    task = lane.start(hang, "acquiring")
    begun.wait(5)
    with pytest.raises(ReplyTimeoutError, match=r"acquiring: no reply.*is not known"):
        task.result(0.05)
    gate.set()


def test_nothing_begins_after_closing(lane: ThreadLane) -> None:
    lane.close()
    with pytest.raises(ReplyTimeoutError):
        lane.call(lambda: 1, "late", timeout_s=0.2)
