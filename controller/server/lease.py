"""The drive lease: one client drives, and only as long as it keeps saying so.

A lease has an epoch, which counts up and is never used twice: whatever carries an older one comes
from the past.  Silence ends it, and so does a program that keeps its connection alive without
getting anywhere.  Pure: time comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller.hardware.errors import LeaseLostError, StaleEpochError

TTL_S = 2.0
"""A lease that was not renewed for this long has ended."""


@dataclass(frozen=True)
class Lease:
    """Who drives."""

    epoch: int
    session: str
    holder: str
    renewed_s: float
    ttl_s: float = TTL_S
    step: int = 0
    """Step of the holder's plan, as it last said."""
    advanced_s: float = 0.0
    """When that step last changed."""
    most_s_per_step: float | None = None
    """Longest that the plan allows a step to take; None: not watched."""

    def ends_because(self, now_s: float) -> str | None:
        """Why the lease is over at `now_s`, or None."""
        if now_s - self.renewed_s > self.ttl_s:
            return f"{self.holder} has been silent for {now_s - self.renewed_s:.1f} s"
        stuck_s = now_s - self.advanced_s
        if self.most_s_per_step is not None and stuck_s > self.most_s_per_step:
            return (
                f"{self.holder} has made no progress for {stuck_s:.0f} s at step {self.step} "
                f"(at most {self.most_s_per_step:.0f} s were planned)"
            )
        return None


class LeaseBook:
    """Gives out the one lease.  Not thread-safe: the owner holds its lock."""

    def __init__(self, *, ttl_s: float = TTL_S) -> None:
        if not 0 < ttl_s <= TTL_S:
            raise ValueError(
                f"a lease of {ttl_s:g} s: more than 0 and at most {TTL_S:g} s, so that silence is "
                f"noticed soon"
            )
        self.ttl_s = ttl_s
        self.current: Lease | None = None
        self.ended = "nobody has driven yet"
        """Why nobody drives."""
        self._epoch = 0

    def take(
        self,
        session: str,
        holder: str,
        now_s: float,
        *,
        by_force: bool = False,
        most_s_per_step: float | None = None,
    ) -> Lease:
        """Begin to drive.

        Raises
        ------
        LeaseLostError
            Somebody else drives.
        """
        other = self.current
        if other is not None and other.session != session and not by_force:
            raise LeaseLostError(
                f"{other.holder} drives (lease {other.epoch}); nothing was changed. Ask them to "
                f"let go, or take over if your role allows it."
            )
        self._epoch += 1
        self.current = Lease(
            epoch=self._epoch,
            session=session,
            holder=holder,
            renewed_s=now_s,
            ttl_s=self.ttl_s,
            advanced_s=now_s,
            most_s_per_step=most_s_per_step,
        )
        return self.current

    def renew(self, session: str, epoch: int | None, now_s: float, *, step: int) -> Lease:
        """Keep driving.

        Raises
        ------
        LeaseLostError, StaleEpochError
            As `check`.
        """
        lease = self.check(session, epoch)
        advanced_s = now_s if step != lease.step else lease.advanced_s
        self.current = replace(lease, renewed_s=now_s, step=step, advanced_s=advanced_s)
        return self.current

    def check(self, session: str, epoch: int | None) -> Lease:
        """The lease, if it is this session's present one.

        Raises
        ------
        LeaseLostError
            Nobody drives, or somebody else does.
        StaleEpochError
            The message belongs to an earlier lease of this session.
        """
        lease = self.current
        if lease is None:
            raise LeaseLostError(
                f"nobody drives ({self.ended}); nothing was done, the beam is blanked. Take the "
                f"lease, read the state back, then go on."
            )
        if lease.session != session:
            raise LeaseLostError(f"{lease.holder} drives (lease {lease.epoch}); nothing was done.")
        if lease.epoch != epoch:
            raise StaleEpochError(
                f"the message belongs to lease {epoch}, the present one is {lease.epoch}; nothing "
                f"was done."
            )
        return lease

    def end(self, why: str) -> None:
        """Nobody drives any more."""
        self.current = None
        self.ended = why
