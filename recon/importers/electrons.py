"""From detector values to electrons: whole, finite, not negative, or refused with the remedy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import DataError
from recon.importers.fields import Layout

GAIN_REMEDY = (
    "state counts_per_electron (and value_offset, threshold_electrons) in the YAML to divide by "
    "the counts per electron and threshold: the Poisson statistics need electrons"
)


def to_electrons(values: NDArray[Any], layout: Layout, source: str) -> NDArray[np.unsignedinteger]:
    """Electrons in every pixel of a block of raw frames.

    With ``counts_per_electron`` g they are round((value - offset) / g), at least one above and
    none below the threshold; without, the values must be whole numbers already.

    Raises
    ------
    DataError
        The values cannot be electrons; the message says which and what to do.
    """
    if values.dtype.kind not in "uif":
        raise DataError(f"{source}: counts have dtype {values.dtype}, expected numbers")
    if values.dtype.kind == "f":
        _check_finite(values, source)
    gain = layout.counts_per_electron
    if gain is not None:
        electrons = _by_gain(values, gain, layout)
    elif values.dtype.kind == "u":
        electrons = values
    else:
        electrons = _whole(values, source)
    if layout.max_electrons is not None:
        electrons = np.where(electrons > layout.max_electrons, 0, electrons)
    return electrons


def _check_finite(values: NDArray[Any], source: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise DataError(
            f"{source}: {bad} of {values.size} counts are NaN or infinite; mask those pixels with "
            f"`nan_pixels: mask` in the YAML, or repair them before the reconstruction"
        )


def _by_gain(values: NDArray[Any], gain: float, layout: Layout) -> NDArray[np.uint32]:
    scaled = (values.astype(np.float32) - layout.value_offset) / gain
    electrons = np.maximum(np.rint(scaled), 1.0)
    electrons[scaled < layout.threshold_electrons] = 0
    return electrons.astype(np.uint32)


def _whole(values: NDArray[Any], source: str) -> NDArray[np.uint32]:
    if values.dtype.kind == "f":
        whole = np.rint(values)
        off = np.abs(values - whole) > 1e-3
        if off.any():
            raise DataError(
                f"{source}: counts are not whole numbers (for example "
                f"{values[off].flat[0]:g}); {GAIN_REMEDY}"
            )
        values = whole
    if values.size and values.min() < 0:
        raise DataError(
            f"{source}: counts are negative (minimum {values.min():g}); subtract less dark "
            f"current, or {GAIN_REMEDY}"
        )
    if values.size and values.max() > np.iinfo(np.uint32).max:
        raise DataError(f"{source}: {values.max():g} counts in one pixel cannot be electrons")
    return values.astype(np.uint32)
