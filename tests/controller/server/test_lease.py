"""Who drives: at most one, and only as long as it says so."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.errors import LeaseLostError, StaleEpochError
from controller.server.lease import TTL_S, LeaseBook
from controller.server.roles import RIGHTS, Right, Role, may


def test_one_drives_and_the_others_are_told_who() -> None:
    book = LeaseBook()
    book.take("a", "agent", 0.0)
    with pytest.raises(LeaseLostError, match="agent drives"):
        book.take("b", "Ann", 1.0)


def test_an_epoch_is_never_given_twice() -> None:
    book = LeaseBook()
    seen = set()
    for n in range(5):
        lease = book.take("a", "agent", float(n))
        seen.add(lease.epoch)
        book.end("done")
    assert len(seen) == 5


def test_silence_ends_it() -> None:
    lease = LeaseBook().take("a", "agent", 10.0)
    assert lease.ends_because(10.0 + TTL_S) is None
    assert "silent for 2.1 s" in str(lease.ends_because(10.0 + TTL_S + 0.1))


def test_a_heartbeat_without_progress_ends_it_too() -> None:
    book = LeaseBook()
    lease = book.take("a", "agent", 0.0, most_s_per_step=60)
    for t in range(1, 61):
        lease = book.renew("a", lease.epoch, float(t), step=0)
    assert lease.ends_because(60.0) is None
    lease = book.renew("a", lease.epoch, 61.0, step=0)
    assert "no progress for 61 s at step 0" in str(lease.ends_because(61.0))
    lease = book.renew("a", lease.epoch, 61.5, step=1)
    assert lease.ends_because(62.0) is None


def test_a_message_of_an_earlier_lease_is_refused() -> None:
    book = LeaseBook()
    first = book.take("a", "agent", 0.0)
    book.take("a", "agent", 1.0)
    with pytest.raises(StaleEpochError, match=f"lease {first.epoch}"):
        book.check("a", first.epoch)
    with pytest.raises(StaleEpochError):
        book.check("a", None)


def test_after_its_end_nobody_drives_and_the_reason_is_told() -> None:
    book = LeaseBook()
    lease = book.take("a", "agent", 0.0)
    book.end("agent has been silent")
    with pytest.raises(LeaseLostError, match="agent has been silent"):
        book.check("a", lease.epoch)
    with pytest.raises(LeaseLostError):
        book.renew("a", lease.epoch, 0.1, step=1)


def test_longer_silence_than_two_seconds_is_not_to_be_had() -> None:
    with pytest.raises(ValueError, match="at most 2 s"):
        LeaseBook(ttl_s=3.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 5)), max_size=30))
def test_never_more_than_one_may_command(steps: list[tuple[str, bool, float]]) -> None:
    book, now_s = LeaseBook(), 0.0
    held: dict[str, int] = {}
    for who, by_force, pause_s in steps:
        now_s += pause_s
        if book.current is not None and book.current.ends_because(now_s):
            book.end("silence")
        with contextlib.suppress(LeaseLostError):
            held[who] = book.take(who, who, now_s, by_force=by_force).epoch
        able = []
        for name, epoch in held.items():
            try:
                book.check(name, epoch)
            except (LeaseLostError, StaleEpochError):
                continue
            able.append(name)
        assert len(able) <= 1


def test_rights() -> None:
    assert all(may(role, Right.STOP) and may(role, Right.WATCH) for role in Role)
    assert {role for role in Role if may(role, Right.DRIVE)} == set(Role) - {Role.VIEWER}
    assert not may(Role.AGENT, Right.APPROVE)
    assert {role for role in Role if may(role, Right.BUDGETS)} == {Role.SCIENTIST, Role.ADMIN}
    assert set(RIGHTS) == set(Role)
