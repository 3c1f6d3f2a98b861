"""Changed copies: what is shared must not change under the elder."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.frozen import SharedMap, replace

CHANGES = st.lists(st.tuples(st.sampled_from("abcde"), st.integers()), max_size=30)


@given(start=st.dictionaries(st.sampled_from("abc"), st.integers()), changes=CHANGES)
def test_a_shared_map_is_what_a_dictionary_would_be_and_its_elders_stay(
    start: dict[str, int], changes: list[tuple[str, int]]
) -> None:
    plain, shared = dict(start), SharedMap(start)
    history: list[tuple[SharedMap[str, int], dict[str, int]]] = []
    for key, value in changes:
        history.append((shared, dict(plain)))
        plain[key] = value
        shared = shared.with_(key, value)
    for then, expected in [*history, (shared, plain)]:
        assert list(then.items()) == list(expected.items())
        assert then == expected
        assert len(then) == len(expected)
        assert SharedMap(then) == expected


@dataclass(frozen=True)
class Value:
    a: int
    b: tuple[int, ...] = ()


def test_a_replaced_value_is_another_frozen_one() -> None:
    first = Value(1, (2, 3))
    second = replace(first, a=7)
    assert (first, second) == (Value(1, (2, 3)), Value(7, (2, 3)))
    assert hash(second) == hash(Value(7, (2, 3)))
    changed: Any = second
    with pytest.raises(FrozenInstanceError):
        changed.a = 8
