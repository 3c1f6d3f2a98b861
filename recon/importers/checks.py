"""Do these counts look like a 4D-STEM scan? What is impossible is refused, what is odd is said.

All checks work on the sparse events and cost less than reading the file. Their limits are set so
that Poisson counts of a crystal pass: each names what it saw and what to do.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D
from recon.errors import DataError

SAMPLE_ENTRIES = 2_000_000
AXES_ENTRIES = 500_000
"""From all over the scan; which axes hold the disc does not take more."""
AXES = ("scan_y", "scan_x", "det_y", "det_x")
BRIGHT_PIXELS = 64
SMALLEST_DISC_PX = 2.5


@dataclass(frozen=True)
class _Sample:
    """Hits of the first positions: flat pixel, position, electrons; one row per pixel that was hit.

    ``mean`` is the electrons per pattern of every pixel over the whole scan.
    """

    pixel: NDArray[np.int64]
    position: NDArray[np.int64]
    electrons: NDArray[np.int64]
    n_positions: int
    mean: NDArray[np.float64]


def check_counts(dataset: Dataset4D, *, axes_stated: bool = False) -> Dataset4D:
    """Return ``dataset`` with hot and dead pixels masked and what is odd among its warnings.

    Raises
    ------
    DataError
        The axes are in another order, or every count is a multiple of the same number.
    """
    if dataset.n_electrons == 0:
        return dataset
    sample = _sampled(dataset)
    if not axes_stated:
        _check_axes(dataset)
    _check_multiples(dataset, sample)
    masked, notes = _odd_pixels(dataset)
    notes += _scatter(dataset, sample) + _bursts(dataset, sample) + _dose(dataset)
    declared = dataset.masked if dataset.masked is not None else np.zeros_like(masked)
    both = declared | masked
    return replace(
        dataset,
        masked=both if both.any() else None,
        warnings=(*dataset.warnings, *notes),
    )


def _sampled(dataset: Dataset4D) -> _Sample:
    stop = int(np.searchsorted(dataset.indptr, SAMPLE_ENTRIES, side="right"))
    stop = min(max(stop - 1, 1), dataset.header.n_positions)
    last = int(dataset.indptr[stop])
    key = np.repeat(np.arange(stop), np.diff(dataset.indptr[: stop + 1]))
    key *= dataset.header.n_pixels
    key += dataset.pixel[:last]
    if dataset.multiplicity is None:
        hit, electrons = np.unique(key, return_counts=True)
    else:
        hit, inverse = np.unique(key, return_inverse=True)
        weights = dataset.multiplicity[:last]
        electrons = np.bincount(inverse, weights=weights, minlength=len(hit)).astype(np.int64)
    mean = dataset.mean_pattern().ravel()
    n_pixels = dataset.header.n_pixels
    position, pixel = np.divmod(hit, n_pixels)
    return _Sample(pixel, position, electrons, stop, mean)


def _check_axes(dataset: Dataset4D) -> None:
    """The pattern of a probe is a disc: its axes vary most. Elsewhere the disc gives them away."""
    step = -(-len(dataset.pixel) // AXES_ENTRIES)
    entry = np.arange(0, len(dataset.pixel), step)
    position = np.searchsorted(dataset.indptr, entry, side="right") - 1
    pixel = dataset.pixel[::step].astype(np.int64)
    weights = None if dataset.multiplicity is None else dataset.multiplicity[::step]
    shape = (*dataset.scan_shape, *dataset.frame_shape)
    if min(shape) < 4:
        return
    index = (*np.divmod(position, shape[1]), *np.divmod(pixel, shape[3]))
    contrast = {}
    for i in range(4):
        for j in range(i + 1, 4):
            cells = index[i] * shape[j] + index[j]
            held = np.bincount(cells, weights=weights, minlength=shape[i] * shape[j])
            contrast[i, j] = (held.var() - held.mean()) / held.mean() ** 2
    best = max(contrast, key=lambda pair: contrast[pair])
    if best == (2, 3) or contrast[best] < max(2 * contrast[2, 3], 0.3):
        return
    rest = [i for i in range(4) if i not in best]
    order = dict(zip((*rest, *best), AXES, strict=True))
    names = ", ".join(order[i] for i in range(4))
    raise DataError(
        f"{dataset.source}: the disc of the probe lies in axes {best[0]} and {best[1]} of "
        f"{list(shape)}, expected in 2 and 3 (scan_y, scan_x, det_y, det_x); the array is probably "
        f"stored as [{names}]. State axes: [{names}] in the YAML, or axes: [{', '.join(AXES)}] if "
        f"the order is right"
    )


def _check_multiples(dataset: Dataset4D, sample: _Sample) -> None:
    common = int(np.gcd.reduce(sample.electrons))
    if common > 1 and len(sample.electrons) >= 100:
        raise DataError(
            f"{dataset.source}: every count is a multiple of {common}, so that they are no "
            f"single electrons; state counts_per_electron: {common} in the YAML if that is one"
        )


def _odd_pixels(dataset: Dataset4D) -> tuple[NDArray[np.bool_], list[str]]:
    """Pixels far brighter or darker than all but one of their eight neighbours, in the sum."""
    total = dataset.pattern().astype(np.float64)
    header = dataset.header
    if header.convergence_semiangle_mrad < SMALLEST_DISC_PX * header.detector_sampling_mrad:
        return np.zeros(total.shape, bool), []  # discs this small look like hot pixels
    padded = np.pad(total, 1, mode="reflect") if min(total.shape) > 1 else np.pad(total, 1)
    ny, nx = total.shape
    ring = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    around = np.sort(np.stack([padded[i : i + ny, j : j + nx] for i, j in ring]), axis=0)
    low, high = around[1], around[-2]
    hot = (total > 4 * high + 20) & (total - high > 15 * np.sqrt(high + 1))
    dead = (total < 0.1 * low) & (low - total > 6 * np.sqrt(low + 1))
    if dataset.masked is not None:
        hot, dead = hot & ~dataset.masked, dead & ~dataset.masked
    if (hot | dead).sum() > 0.01 * total.size:
        return np.zeros_like(hot), [
            f"{int((hot | dead).sum())} of {total.size} pixels differ from all their neighbours: "
            f"no smooth pattern, nothing was masked; check the gain reference and the pixel order"
        ]
    notes = []
    for chosen, name in ((hot, "hot"), (dead, "dead")):
        if chosen.any():
            where = [f"({r}, {c})" for r, c in np.argwhere(chosen)[:4]]
            more = " ..." if chosen.sum() > 4 else ""
            notes.append(
                f"{int(chosen.sum())} {name} pixel(s) at {', '.join(where)}{more} masked; they "
                f"take no part in the fit"
            )
    return hot | dead, notes


def _scatter(dataset: Dataset4D, sample: _Sample) -> list[str]:
    """Variance over mean of neighbouring patterns, pixel by pixel: one for electrons."""
    bright = np.argsort(sample.mean)[-BRIGHT_PIXELS:]
    mean = float(sample.mean[bright].mean())
    if sample.n_positions < 32 or mean * sample.n_positions * len(bright) < 500:
        return []
    slot = np.full(len(sample.mean), -1)
    slot[bright] = np.arange(len(bright))
    kept = slot[sample.pixel] >= 0
    cell = sample.position[kept] * len(bright) + slot[sample.pixel[kept]]
    size = sample.n_positions * len(bright)
    counts = np.bincount(cell, weights=sample.electrons[kept], minlength=size)
    counts = counts.reshape(sample.n_positions, len(bright))
    counts = counts[dataset.valid[: sample.n_positions]]
    ratio = float((np.diff(counts, axis=0) ** 2).mean() / (2 * counts.mean()))
    if ratio < 0.8:
        return [
            f"the counts scatter less than electrons can (variance {ratio:.2f} of the mean of "
            f"{mean:.2g} in the disc): the detector saturates or misses electrons that come "
            f"together, or the values are scaled. Lower the beam current, or state "
            f"counts_per_electron"
        ]
    if ratio > 1.5 + 2 * mean:
        return [
            f"the counts scatter {ratio:.1f} times more than electrons do at a mean of {mean:.2g}: "
            f"one electron leaves about {ratio:.1f} counts; state counts_per_electron"
        ]
    return []


def _bursts(dataset: Dataset4D, sample: _Sample) -> list[str]:
    # a spot of a crystal comes and goes with the position, but stays below the direct beam
    limit = np.maximum(20 * (sample.mean[sample.pixel] + 0.5), 3 * sample.mean.max() + 10)
    odd = sample.electrons > limit
    if dataset.masked is not None:
        odd &= ~dataset.masked.ravel()[sample.pixel]
    if not odd.any():
        return []
    first = np.flatnonzero(odd)[np.argmax(sample.electrons[odd])]
    at, pixel = divmod(int(sample.position[first]), dataset.scan_shape[1]), int(sample.pixel[first])
    return [
        f"{int(odd.sum())} values are far above what their pixel counts elsewhere: "
        f"{sample.electrons[first]} electrons at scan point {at}, pixel "
        f"{divmod(pixel, dataset.frame_shape[1])}, where {sample.mean[pixel]:.2g} are usual. "
        f"X-rays or discharges: drop them with max_electrons: "
        f"{int(10 * (sample.mean.max() + 1))} in the YAML"
    ]


def _dose(dataset: Dataset4D) -> list[str]:
    header = dataset.header
    if not header.fluence_e_per_A2:
        return []
    expected = header.fluence_e_per_A2 * header.scan_step_A**2
    ratio = dataset.electrons_per_pattern / expected
    if 0.5 <= ratio <= 1.5:
        return []
    return [
        f"{dataset.electrons_per_pattern:.3g} electrons per pattern were counted, "
        f"{header.fluence_e_per_A2:g} e/Å² on steps of {header.scan_step_A:g} Å are "
        f"{expected:.3g}: check dose_e_per_A2 and scan_step_A (units), counts_per_electron, "
        f"and what the detector misses"
    ]
