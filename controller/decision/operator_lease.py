"""The operator lease: of all who look on, one person drives.  Pure: time comes in as an argument.

The driver's page renews it every 2 s.  After 10 s of silence it is *orphaned*: whoever asks next
has it, and supervised work does not go on by itself.  Somebody else may ask for it; the holder has
15 s to refuse, then it passes on.  A scientist may seize it with a written reason.  An epoch is
never given twice, so whatever carries an older one comes from the past.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ORPHANED_AFTER_S = 10.0
TAKE_OVER_S = 15.0
LEAST_REASON = 3
MAY_DRIVE = frozenset({"operator", "scientist", "admin"})
MAY_SEIZE = frozenset({"scientist", "admin"})


class LeaseRefusedError(Exception):
    """Why somebody does not get, or no longer has, the operator lease."""


@dataclass(frozen=True)
class Person:
    """Somebody signed in: one browser of one user."""

    session: str
    name: str
    role: str


@dataclass(frozen=True)
class OperatorLease:
    """Who drives; every method returns the lease as it is afterwards."""

    epoch: int = 0
    """Counts up with every change of the holder."""
    holder: Person | None = None
    renewed_s: float = 0.0
    asked_by: Person | None = None
    asked_s: float = 0.0
    last: str = "nobody has driven yet"
    """What happened last, in words for everybody who looks on."""

    def is_orphaned(self, now_s: float) -> bool:
        """Whether the holder's page has been silent for too long."""
        return self.holder is not None and not now_s - self.renewed_s <= ORPHANED_AFTER_S

    def ask(self, who: Person, now_s: float) -> OperatorLease:
        """Take the lease if it is free, else ask its holder for it.

        Raises
        ------
        LeaseRefusedError
            The role may not drive, or somebody else is asking already.
        """
        if who.role not in MAY_DRIVE:
            raise LeaseRefusedError(f"driving needs operator; {who.name} is {who.role}")
        if self.holder is None or self.is_orphaned(now_s):
            return self._given(who, now_s, f"{who.name} drives")
        if self.holder.session == who.session:
            return replace(self, renewed_s=now_s)
        if self.asked_by is not None and self.asked_by.session != who.session:
            raise LeaseRefusedError(f"{self.asked_by.name} is asking {self.holder.name} already")
        if self.asked_by is not None:
            return self
        return replace(
            self, asked_by=who, asked_s=now_s, last=f"{who.name} asks {self.holder.name} to drive"
        )

    def seize(self, who: Person, reason: str, now_s: float) -> OperatorLease:
        """Take it from whoever holds it.

        Raises
        ------
        LeaseRefusedError
            Not a scientist, or no reason.
        """
        if who.role not in MAY_SEIZE:
            raise LeaseRefusedError(f"seizing needs scientist; {who.name} is {who.role}")
        if len(reason.strip()) < LEAST_REASON:
            raise LeaseRefusedError("seizing needs a reason in writing")
        before = "nobody" if self.holder is None else self.holder.name
        return self._given(who, now_s, f"{who.name} seized it from {before}: {reason.strip()}")

    def renew(self, session: str, epoch: int, now_s: float) -> OperatorLease:
        """The driver's page is still there.

        Raises
        ------
        LeaseRefusedError
            The lease is somebody else's by now.
        """
        self.check(session, epoch)
        return replace(self, renewed_s=now_s)

    def refuse(self, session: str, epoch: int) -> OperatorLease:
        """The holder keeps it.

        Raises
        ------
        LeaseRefusedError
            Not the holder.
        """
        self.check(session, epoch)
        if self.asked_by is None:
            return self
        holder = "" if self.holder is None else self.holder.name
        return replace(self, asked_by=None, last=f"{holder} refused {self.asked_by.name}")

    def release(self, session: str, epoch: int, now_s: float) -> OperatorLease:
        """The holder lets go; whoever asks gets it.

        Raises
        ------
        LeaseRefusedError
            Not the holder.
        """
        self.check(session, epoch)
        if self.asked_by is not None:
            return self._given(self.asked_by, now_s, f"{self.asked_by.name} drives")
        holder = "" if self.holder is None else self.holder.name
        return OperatorLease(epoch=self.epoch + 1, last=f"{holder} let go; nobody drives")

    def at(self, now_s: float) -> OperatorLease:
        """What time brings: a take-over that was not refused."""
        if self.asked_by is None or now_s - self.asked_s < TAKE_OVER_S:
            return self
        before = "nobody" if self.holder is None else self.holder.name
        return self._given(self.asked_by, now_s, f"{self.asked_by.name} took over from {before}")

    def check(self, session: str, epoch: int) -> None:
        """Refuse whoever does not drive.

        Raises
        ------
        LeaseRefusedError
            With who does.
        """
        if self.holder is not None and self.holder.session == session and self.epoch == epoch:
            return
        who = "nobody drives" if self.holder is None else f"{self.holder.name} drives"
        raise LeaseRefusedError(f"{who} now ({self.last}); this page does not")

    def _given(self, who: Person, now_s: float, last: str) -> OperatorLease:
        return OperatorLease(epoch=self.epoch + 1, holder=who, renewed_s=now_s, last=last)
