"""A night with all its faults: what `controller.cli.compose` puts round the parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from controller.decision.approval import Approver
from controller.decision.rig import Eyes
from controller.hardware.clock import Clock
from controller.hardware.contract import Microscope
from controller.hardware.faults import FaultSource, NoFaults, Place, kind_of
from controller.injection.disk import FaultyDisk
from controller.injection.link import FaultyLink
from controller.injection.people import PausePoint, SilentApprover, refusing
from controller.injection.perception import FaultyAligner, FaultyPicker
from controller.injection.process import (
    LedgerCrash,
    RepeatingMicroscope,
    TurnCrash,
    leave_stale_lock,
)
from controller.record.notify.channels import Channel
from controller.server.session import SessionHooks


def _before_ledger(path: Path, faults: FaultSource) -> None:
    if faults.strikes("stale-lock"):
        leave_stale_lock(path)


HOOKS = SessionHooks(before_ledger=_before_ledger, at_write=LedgerCrash, wrap_sink=FaultyDisk)
"""For `open_session`: crashes at the writes of the ledger, stale locks, disks."""


def hooks_for(requests: Iterable[str]) -> SessionHooks:
    """`HOOKS`, for a server also the link, if `requests` (``NAME@WHEN``) name a fault of it.

    Otherwise nothing lies in the way of messages: the list of faults is asked at each of them, and
    it may take the simulator a moment to answer.

    Raises
    ------
    ValueError
        No such fault.
    """
    places = {kind_of(request.partition("@")[0]).place for request in requests}
    return replace(HOOKS, link=FaultyLink) if Place.LINK in places else HOOKS


def is_quiet(faults: FaultSource) -> bool:
    """Whether nothing can be injected, as at every real instrument."""
    return isinstance(faults, NoFaults)


def spoilt_eyes(eyes: Eyes, faults: FaultSource) -> Eyes:
    """Eyes that may see nothing, too much, or the wrong way round."""
    if is_quiet(faults):
        return eyes
    return Eyes(
        picker=FaultyPicker(eyes.picker, faults),
        aligner=FaultyAligner(eyes.aligner, faults),
        reconstructor=eyes.reconstructor,
    )


def spoilt_approver(approver: Approver, faults: FaultSource, clock: Clock) -> Approver:
    """A person who may not answer."""
    return approver if is_quiet(faults) else SilentApprover(approver, faults, clock)


def spoilt_microscope(microscope: Microscope, faults: FaultSource) -> Microscope:
    """A microscope whose caller may ask twice."""
    return microscope if is_quiet(faults) else RepeatingMicroscope(microscope, faults)


def spoilt_channels(channels: Sequence[Channel], faults: FaultSource) -> tuple[Channel, ...]:
    """Channels to the operator of which the first may refuse."""
    if is_quiet(faults) or not channels:
        return tuple(channels)
    first = Channel(channels[0].name, refusing(channels[0].send, faults))
    return (first, *channels[1:])


def spoilt_going(faults: FaultSource, clock: Clock) -> Callable[[], bool]:
    """What is asked before every step: may suspend, die or hang."""
    if is_quiet(faults):
        return lambda: True
    return TurnCrash(faults, PausePoint(faults, clock))
