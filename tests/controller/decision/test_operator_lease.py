"""One person drives; everybody sees who; what is old is refused."""

from __future__ import annotations

import pytest

from controller.decision.operator_lease import (
    ORPHANED_AFTER_S,
    TAKE_OVER_S,
    LeaseRefusedError,
    OperatorLease,
    Person,
)

ANN = Person("session-ann", "Ann", "operator")
BOB = Person("session-bob", "Bob", "operator")
CAT = Person("session-cat", "Cat", "scientist")
EVE = Person("session-eve", "Eve", "viewer")


def held() -> OperatorLease:
    return OperatorLease().ask(ANN, 0.0)


def test_the_first_operator_who_asks_drives_and_a_viewer_never() -> None:
    assert held().holder == ANN
    with pytest.raises(LeaseRefusedError, match="driving needs operator; Eve is viewer"):
        OperatorLease().ask(EVE, 0.0)


def test_silence_orphans_the_lease_and_the_next_who_asks_has_it() -> None:
    lease = held().renew(ANN.session, 1, 5.0)
    assert not lease.is_orphaned(5.0 + ORPHANED_AFTER_S)
    assert lease.is_orphaned(5.1 + ORPHANED_AFTER_S)
    assert lease.is_orphaned(float("nan"))
    after = lease.ask(BOB, 20.0)
    assert (after.holder, after.epoch) == (BOB, 2)
    with pytest.raises(LeaseRefusedError, match="Bob drives now"):
        after.renew(ANN.session, 1, 20.0)


def test_a_take_over_passes_on_unless_it_is_refused_in_time() -> None:
    asked = held().ask(BOB, 1.0)
    assert asked.holder == ANN
    assert asked.at(0.9 + TAKE_OVER_S).holder == ANN
    assert asked.at(1.0 + TAKE_OVER_S).holder == BOB
    refused = asked.refuse(ANN.session, 1)
    assert refused.at(100.0).holder == ANN
    assert "Ann refused Bob" in refused.last


def test_only_the_holder_refuses_renews_and_lets_go() -> None:
    asked = held().ask(BOB, 1.0)
    for act in (
        lambda: asked.refuse(BOB.session, 1),
        lambda: asked.renew(BOB.session, 1, 2.0),
        lambda: asked.release(ANN.session, 0, 2.0),
    ):
        with pytest.raises(LeaseRefusedError, match="this page does not"):
            act()
    assert asked.release(ANN.session, 1, 2.0).holder == BOB
    assert held().release(ANN.session, 1, 2.0).holder is None


def test_a_scientist_seizes_with_a_reason() -> None:
    with pytest.raises(LeaseRefusedError, match="needs a reason"):
        held().seize(CAT, "  ", 1.0)
    with pytest.raises(LeaseRefusedError, match="seizing needs scientist"):
        held().seize(BOB, "mine", 1.0)
    after = held().seize(CAT, "sample change", 1.0)
    assert (after.holder, after.epoch) == (CAT, 2)
    assert "sample change" in after.last


def test_one_asks_at_a_time_and_asking_twice_does_not_begin_anew() -> None:
    asked = held().ask(BOB, 1.0)
    assert asked.ask(BOB, 10.0).asked_s == 1.0
    with pytest.raises(LeaseRefusedError, match="Bob is asking Ann already"):
        asked.ask(CAT, 2.0)
