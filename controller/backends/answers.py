"""Answers of a vendor's interface, believed only if they are of the right kind.

Some interfaces return an error as an ordinary value: pytemscript's socket answers the string
``"ERROR"``, which is true as a truth value, so a failed question would read as a blanked beam.
"""

from __future__ import annotations

import math

from controller.hardware.errors import BeamState, ProtocolError


def as_bool(answer: object, what: str) -> bool:
    """A truth value: True, False, or the integers 1 and 0.

    Raises
    ------
    ProtocolError
        Anything else.
    """
    if isinstance(answer, bool) or (isinstance(answer, int) and answer in (0, 1)):
        return bool(answer)
    raise _strange(what, answer, "true or false")


def as_float(answer: object, what: str) -> float:
    """A finite number.

    Raises
    ------
    ProtocolError
        Anything else, NaN included.
    """
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        return float(answer)
    raise _strange(what, answer, "a finite number")


def as_text(answer: object, what: str, known: frozenset[str]) -> str:
    """One of the `known` words.

    Raises
    ------
    ProtocolError
        Anything else.
    """
    if isinstance(answer, str) and answer in known:
        return answer
    raise _strange(what, answer, f"one of {', '.join(sorted(known))}")


def _strange(what: str, answer: object, expected: str) -> ProtocolError:
    return ProtocolError(
        f"{what} reads {answer!r}, which is not {expected}; nothing can be concluded from it. "
        f"Look at the vendor's server, then read the instrument back.",
        beam_state=BeamState.UNKNOWN,
        vendor_text=repr(answer),
    )
