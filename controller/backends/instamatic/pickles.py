"""Reading pickles without running what is in them.

instamatic's servers answer in pickle unless their settings say ``json``.  A pickle may name any
function for the reader to call; here only plain values, numpy arrays and the two named tuples of
instamatic can be made, and everything else is refused by name.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import numpy as np

from controller.hardware.errors import ProtocolError

MAX_BYTES = 256 * 2**20
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)
"""What Python's reader raises, besides its own error, on bytes that are no pickle."""


class StagePositionTuple(NamedTuple):
    """instamatic's pose: nm and degrees, None where an axis is missing."""

    x: float | None
    y: float | None
    z: float | None
    a: float | None
    b: float | None


class DeflectorTuple(NamedTuple):
    """instamatic's pair of deflector counts."""

    x: float
    y: float


def _encoded(text: str, codec: str) -> bytes:
    """Bytes, as pickles of protocol 2 write them."""
    if codec != "latin1":
        raise ProtocolError(f"the server's answer asks for the codec {codec!r}; thrown away")
    return text.encode("latin1")


_NUMPY = np.array([1]).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encoded,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("instamatic.microscope.utils", "StagePositionTuple"): StagePositionTuple,
    ("instamatic.microscope.components.deflectors", "DeflectorTuple"): DeflectorTuple,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = _NUMPY
    _ALLOWED[_module, "scalar"] = np.float64(0).__reduce__()[0]


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  (as pickle wants it)
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ProtocolError(
                f"the server's answer asks to run {module}.{name}, which no answer of instamatic "
                f"needs; it was not run and the answer is thrown away. Find out who answers there.",
                vendor_text=f"{module}.{name}",
            ) from None


def read_pickle(data: bytes) -> object:
    """The plain value in `data`.

    Raises
    ------
    ProtocolError
        Something else than plain values, or no pickle.
    EOFError
        `data` is only the beginning.
    """
    try:
        value: object = _Reader(io.BytesIO(data)).load()
    except pickle.UnpicklingError as problem:
        if "truncated" in str(problem):
            raise EOFError(str(problem)) from problem
        raise ProtocolError(f"the server's answer is no pickle: {problem}") from problem
    except _NONSENSE as problem:
        raise ProtocolError(f"the server's answer is no pickle: {problem}") from problem
    return value
