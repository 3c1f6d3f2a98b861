"""Whatever a vendor's library raises becomes one of our errors, with the beam's state unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from controller.hardware.errors import (
    BeamState,
    MicroscopeError,
    ProtocolError,
    UnreachableError,
)

T = TypeVar("T")


def translated(work: Callable[[], T], what: str) -> T:
    """Run `work`.

    Raises
    ------
    MicroscopeError
        As `work` raised it.
    UnreachableError
        For anything of the network or the operating system, timeouts included.
    ProtocolError
        For everything else; carries the vendor's words.
    """
    try:
        return work()
    except MicroscopeError:
        raise
    except OSError as problem:
        raise UnreachableError(
            f"{what}: the instrument cannot be reached ({problem}); what it did is not known. "
            f"Check the vendor's server, then read the instrument back.",
            beam_state=BeamState.UNKNOWN,
            vendor_text=str(problem),
        ) from problem
    except Exception as problem:
        raise ProtocolError(
            f"{what}: the vendor's interface says {type(problem).__name__}: {problem}. "
            f"Read the instrument back before anything else.",
            beam_state=BeamState.UNKNOWN,
            vendor_text=str(problem),
        ) from problem
