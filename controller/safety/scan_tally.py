"""Whether every frame of a scan is there, once, in order, and of this scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from controller.hardware.errors import ShortReadError
from controller.hardware.values import ScanBatch


@dataclass
class ScanTally:
    """Sequence check of one scan's frames.

    Frames of another job are stale and dropped; repeated frames are dropped; missing ones are
    listed.  Nothing is invented and nothing is reordered.
    """

    job_id: UUID
    positions: int
    next: int = 0
    gaps: list[int] = field(default_factory=list)
    stale: int = 0
    repeated: int = 0

    @property
    def is_full(self) -> bool:
        """The last position has come (there may be gaps before it)."""
        return self.next >= self.positions

    @property
    def missing(self) -> list[int]:
        """Positions whose frame never came."""
        return [*self.gaps, *range(self.next, self.positions)]

    def take(self, batch: ScanBatch) -> ScanBatch | None:
        """The part of `batch` that is new and ours, or None."""
        if batch.job_id != self.job_id:
            self.stale += len(batch)
            return None
        first, stop = batch.first_sequence, batch.first_sequence + len(batch)
        begin, end = max(first, self.next), min(stop, self.positions)
        self.repeated += len(batch) - max(end - begin, 0)
        if not begin < end:
            return None
        self.gaps.extend(range(self.next, begin))
        self.next = end
        return batch.part(begin - first, end - first)

    def check_not_empty(self, uri: str) -> None:
        """Refuse to call it a scan when no frame came.

        Raises
        ------
        ShortReadError
            The dose is charged all the same.
        """
        if self.next == 0:
            raise ShortReadError(
                f"0 of {self.positions} frames came ({self.stale} stale ones were dropped); the "
                f"beam is blanked. Arm the detector again and look at its trigger.",
                snapshot={"uri": uri},
            )
