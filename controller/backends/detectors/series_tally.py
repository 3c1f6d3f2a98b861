"""Whether every frame of a series came, once, in its turn; the rest by name.

``safety.scan_tally`` guards what goes into the file; this one sits at the wire, where one can
still tell a frame that comes twice from one that comes too late or from somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.backends.detectors.contract import MAX_LISTED, StreamReport


@dataclass
class SeriesTally:
    """Counts the frames of one series of `expected`."""

    expected: int
    next: int = 0
    stale: int = 0
    beyond: int = 0
    without_value: int = 0
    ended: bool = False
    received: int = 0
    n_repeated: int = 0
    n_late: int = 0
    repeated: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    _gaps: set[int] = field(default_factory=set)

    def place(self, number: int) -> bool:
        """Whether the frame `number` comes in its turn; if not, it is to be thrown away."""
        if not 0 <= number < self.expected:
            self.beyond += 1
            return False
        if number < self.next:
            self._note_old(number)
            return False
        if number > self.next:
            self._gaps.update(range(self.next, number))
        self.next = number + 1
        self.received += 1
        self.ended = self.ended or self.next == self.expected
        return True

    def _note_old(self, number: int) -> None:
        if number in self._gaps:
            self.n_late += 1
            where = self.late
        else:
            self.n_repeated += 1
            where = self.repeated
        if len(where) < MAX_LISTED:
            where.append(number)

    @property
    def is_full(self) -> bool:
        """The last position has come (there may be gaps before it)."""
        return self.next >= self.expected

    def report(self) -> StreamReport:
        """The state now; positions after the last frame are missing."""
        tail = range(self.next, self.expected)
        missing = sorted(self._gaps)[:MAX_LISTED]
        missing += tail[: MAX_LISTED - len(missing)]
        return StreamReport(
            expected=self.expected,
            received=self.received,
            n_missing=len(self._gaps) + len(tail),
            missing=tuple(missing),
            short_by=len(tail),
            n_repeated=self.n_repeated,
            repeated=tuple(self.repeated),
            n_late=self.n_late,
            late=tuple(self.late),
            stale=self.stale,
            beyond=self.beyond,
            without_value=self.without_value,
            ended=self.ended,
        )
