"""Counts as the engines take them: square patterns, beam at [0, 0], one flat index per electron."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.aperture import aperture_intensity
from recon.dataset import Dataset4D
from recon.dataset.events import pixel_dtype
from recon.errors import DataError
from recon.geometry import centre_in_frame, detector_to_frame


@dataclass(frozen=True)
class Patterns:
    """Counted diffraction patterns in the frame of the computation.

    ``pixel`` is ``row * n + col`` in FFT order (zero angle at [0, 0]), in as few bytes as will do,
    for there is one for each electron; ``indptr`` delimits the
    patterns; ``position`` is the flat scan index of each pattern; ``measured`` (n, n), FFT
    order, is False where no detector pixel looked; ``offset_px`` (row, col) is how far
    the true beam centre lies from [0, 0], less than half a pixel.
    """

    pixel: NDArray[np.integer[Any]]
    indptr: NDArray[np.int64]
    position: NDArray[np.int64]
    measured: NDArray[np.bool_]
    offset_px: tuple[float, float]
    aperture: NDArray[np.float32] | None = None
    """Amplitude of the illumination (n, n), FFT order, where a pattern in vacuum shows it."""

    @property
    def n(self) -> int:
        """Pixels along each side of a pattern."""
        return len(self.measured)

    @property
    def n_patterns(self) -> int:
        """Number of patterns."""
        return len(self.position)

    @property
    def n_electrons(self) -> int:
        """Electrons in all patterns."""
        return len(self.pixel)

    def split(self, fraction: float, rng: np.random.Generator) -> tuple["Patterns", "Patterns"]:
        """Deal every electron to the first set with probability ``fraction``, else to the second.

        Binomial thinning: both sets are Poisson with means ``fraction`` and ``1 - fraction`` of
        the original and statistically independent of each other.
        """
        first = rng.random(len(self.pixel)) < fraction
        return self.taking(first), self.taking(~first)

    def cropped(self, n: int) -> "Patterns":
        """The central ``n`` x ``n`` pixels (even ``n``); electrons beyond them are left out."""
        if n >= self.n:
            return self
        row, col = (np.fft.fftfreq(self.n, 1 / self.n).astype(np.int64),) * 2
        inside = (row >= -n // 2) & (row < n // 2)
        inner = (row[:, None] % n) * n + col[None] % n
        seen = inside[:, None] & inside[None]
        kept = self.taking(seen.ravel()[self.pixel])
        pixel = inner.astype(pixel_dtype(n * n)).ravel()[kept.pixel]
        keep = np.fft.ifftshift(
            np.fft.fftshift(self.measured)[_middle(self.n, n), _middle(self.n, n)]
        )
        return replace(kept, pixel=pixel, measured=keep)

    def taking(self, chosen: NDArray[np.bool_]) -> "Patterns":
        """Keep only the chosen electrons, bool, one for each."""
        running = np.concatenate([[0], np.cumsum(_kept_of_each(chosen, self.indptr))])
        return replace(self, pixel=self.pixel[chosen], indptr=running)

    def only(self, chosen: NDArray[np.bool_]) -> "Patterns":
        """Keep only the chosen patterns, bool, one for each."""
        count = np.diff(self.indptr)
        kept = self.taking(np.repeat(chosen, count))
        indptr = np.concatenate([[0], np.cumsum(count[chosen])])
        return replace(kept, indptr=indptr, position=self.position[chosen])


def _kept_of_each(chosen: NDArray[np.bool_], indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of each pattern's electrons were chosen, without a running sum over all of them."""
    count = np.zeros(len(indptr) - 1, np.int64)
    full = np.flatnonzero(np.diff(indptr))
    if len(full):
        count[full] = np.add.reduceat(chosen, indptr[:-1][full], dtype=np.int64)
    return count


def _middle(size: int, n: int) -> slice:
    return slice(size // 2 - n // 2, size // 2 + n // 2)


def prepare_patterns(
    dataset: Dataset4D, centre_px: tuple[float, float], *, mirrored: bool = False
) -> Patterns:
    """Flip, recentre and crop to a square; positions that were never recorded are left out.

    Parameters
    ----------
    centre_px
        (row, col) of zero scattering angle in the *stored* frame.
    mirrored
        Exchange rows and columns on top of the flips that the header declares.
    """
    header = dataset.header
    data = dataset.expanded()
    if data.n_electrons == 0:
        raise DataError(f"{dataset.source or 'data set'}: there is not one electron in the scan")
    row, col = detector_to_frame(header, mirrored=mirrored)
    centre = centre_in_frame(header, centre_px, mirrored=mirrored)
    whole = (round(centre[0]), round(centre[1]))
    n = min(header.frame_shape)
    n -= n % 2
    row, col = row - whole[0], col - whole[1]
    inside = (np.maximum(-row, -col) <= n // 2) & (np.maximum(row, col) < n // 2)
    if data.masked is not None:
        inside &= ~data.masked.ravel()
    lookup: NDArray[np.unsignedinteger[Any]] = ((row % n) * n + col % n).astype(pixel_dtype(n * n))
    measured = np.zeros(n * n, bool)
    measured[lookup[inside]] = True
    kept = inside[data.pixel]
    count = _kept_of_each(kept, data.indptr)[data.valid]
    aperture: NDArray[np.float32] | None = None
    if data.vacuum is not None:
        aperture = np.zeros(n * n, np.float32)
        intensity = aperture_intensity(data.vacuum, centre_px).ravel()
        aperture[lookup[inside]] = np.sqrt(intensity[inside])
        aperture = aperture.reshape(n, n)
    return Patterns(
        pixel=lookup[data.pixel[kept]],
        indptr=np.concatenate([[0], np.cumsum(count)]),
        position=np.flatnonzero(data.valid),
        measured=measured.reshape(n, n),
        offset_px=(centre[0] - whole[0], centre[1] - whole[1]),
        aperture=aperture,
    )
