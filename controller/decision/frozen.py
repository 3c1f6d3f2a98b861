"""Changed copies of frozen values, cheap enough to fold a journal of a million entries.

``dataclasses.replace`` runs the constructor over every field, and copying a mapping costs its
length.  Belief is replaced at every event and holds every crystal of the night, so both would
make a long journal take minutes to replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

__all__ = ["SharedMap", "replace"]

K = TypeVar("K")
V = TypeVar("V")

if TYPE_CHECKING:  # the checker knows the fields of what is replaced
    from dataclasses import replace
else:

    def replace(thing, **changes):  # noqa: ANN001, ANN003, ANN201
        """As ``dataclasses.replace``, for dataclasses without ``__post_init__`` or slots."""
        new = object.__new__(type(thing))
        new.__dict__.update(thing.__dict__, **changes)
        return new


class SharedMap(Mapping[K, V], Generic[K, V]):
    """A frozen mapping that keeps its order and shares what did not change with its elder.

    Changing the same key again and again, as a night does with the crystal that it works on,
    costs nothing; changing another one costs a copy.
    """

    __slots__ = ("_base", "_key", "_value")

    def __init__(self, content: Mapping[K, V] | None = None) -> None:
        self._base: dict[K, V] = dict(content or {})
        self._key: tuple[K, ...] = ()
        self._value: V | None = None

    def with_(self, key: K, value: V) -> SharedMap[K, V]:
        """The same with another value for `key`; a new key comes last."""
        new: SharedMap[K, V] = SharedMap.__new__(SharedMap)
        if self._key == (key,):
            new._base, new._key = self._base, self._key
        else:
            base = dict(self._base)
            if self._key:
                base[self._key[0]] = self._value  # type: ignore[assignment]
            base.setdefault(key, value)
            new._base, new._key = base, (key,)
        new._value = value
        return new

    def __getitem__(self, key: K) -> V:
        if self._key and self._key[0] == key:
            return self._value  # type: ignore[return-value]
        return self._base[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __repr__(self) -> str:
        return f"SharedMap({dict(self)!r})"
