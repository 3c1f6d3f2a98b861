"""What the operating system says about a disk, as errors that the loop has an answer to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from controller.hardware.errors import DiskFullError, DoseState, WriteFailedError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def storing(what: str, dose_state: DoseState = DoseState.NONE) -> Iterator[None]:
    """Around the writing of `what`.

    Parameters
    ----------
    dose_state
        What the ledger holds for that which could not be stored.

    Raises
    ------
    DiskFullError
        No space, or the quota is used up.
    WriteFailedError
        Any other refusal: a read-only folder, a disk that fails, a share that has gone.
    """
    try:
        yield
    except InterruptedError:
        raise
    except OSError as problem:
        number = problem.errno or _number_in(str(problem))
        full = number in FULL
        remedy = "Free some space" if full else "Check the disk and who may write to the folder"
        error = DiskFullError if full else WriteFailedError
        raise error(
            f"{what} could not be written ({problem}); the beam is blanked. {remedy}, then go on "
            f"with `lodestem run --resume`",
            dose_state=dose_state,
            vendor_code=number,
            vendor_text=str(problem),
        ) from problem


def _number_in(text: str) -> int | None:
    """HDF5 tells the number of the error in words only."""
    return next((number for number in FULL if f"errno = {number}" in text), None)
