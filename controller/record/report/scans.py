"""Pictures of a 4D-STEM scan and of its reconstruction: virtual image, phase, power spectrum."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.record.report.pictures import Album, Array, framed, grey, log_grey, scale_bar
from controller.record.report.svg import add

RINGS_A = (5.0, 3.0, 2.0, 1.5, 1.0, 0.7)
"""Rings that are drawn on power spectra."""


UNBOUNDED = (math.inf, math.inf)
"""Size of a field that is not known."""


@dataclass(frozen=True)
class ScanPictures:
    """What a virtual bright-field detector saw, and the mean pattern."""

    virtual: ET.Element
    virtual_file: str
    pattern: ET.Element
    pattern_file: str
    electrons: int
    electrons_per_pattern: float
    field_A: tuple[float, float]
    """(rows, columns) of the scanned field."""


@dataclass(frozen=True)
class Phase:
    """The phase image of a reconstruction and what goes with it."""

    phase_rad: NDArray[np.float32]
    pixel_size_A: float
    centre_px: tuple[float, float]
    """(row, col) of the middle of the scan."""
    scan_field: tuple[slice, slice] | None = None
    """The largest upright rectangle inside the scan, where the file tells."""
    resolution: dict[str, float] = field(default_factory=dict)
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def field_slices(self, size_A: tuple[float, float]) -> tuple[slice, slice]:
        """Rows and columns of the scanned field; everything if that cannot be told.

        `size_A` is (rows, columns) of the raster, for files that do not tell where it lies.
        """
        rows, cols = self.phase_rad.shape
        chosen = self.scan_field
        if chosen is None and all(map(math.isfinite, size_A)):
            half = [size / self.pixel_size_A / 2 for size in size_A]
            low = [max(0, round(c - h)) for c, h in zip(self.centre_px, half, strict=True)]
            high = [round(c + h) for c, h in zip(self.centre_px, half, strict=True)]
            chosen = slice(low[0], min(high[0], rows)), slice(low[1], min(high[1], cols))
        if chosen is None or min(part.stop - part.start for part in chosen) < 8:
            return slice(0, rows), slice(0, cols)
        return chosen

    def field_of(self, size_A: tuple[float, float]) -> NDArray[np.float32]:
        """The scanned field only, (row, col)."""
        return self.phase_rad[self.field_slices(size_A)]


def scan_pictures(album: Album, name: str, path: Path) -> ScanPictures:
    """Open a native scan file, whole or cut short, and look at it.

    Raises
    ------
    OSError, ValueError
        There is no such file, or nothing can be read from it.
    """
    from recon.dataset import open_scan
    from recon.errors import ReconError

    try:
        scan = open_scan(path)
    except ReconError as damaged:
        raise ValueError(str(damaged)) from damaged
    header = scan.header
    row, col = np.indices(header.frame_shape)
    angle = np.hypot(row - header.centre_px[0], col - header.centre_px[1])
    disc = angle * header.detector_sampling_mrad < header.convergence_semiangle_mrad
    image = scan.virtual_image(disc)
    picture = album.keep(f"{name}-virtual", grey(image))
    virtual = framed(picture, f"Virtual bright-field image of {name}")
    scale_bar(virtual, header.scan_step_A / 10, "nm")
    mean = album.keep(f"{name}-mean-pattern", log_grey(np.asarray(scan.mean_pattern()) * 50))
    pattern = framed(mean, f"Mean pattern of the scan of {name}")
    add(
        pattern,
        "circle",
        cx=header.centre_px[1],
        cy=header.centre_px[0],
        r=header.convergence_semiangle_mrad / header.detector_sampling_mrad,
        class_="ring",
    )
    rows, cols = header.scan_shape
    return ScanPictures(
        virtual,
        picture.file,
        pattern,
        mean.file,
        scan.n_electrons,
        scan.electrons_per_pattern,
        (rows * header.scan_step_A, cols * header.scan_step_A),
    )


def read_phase(folder: Path) -> Phase:
    """Read ``reconstruction.h5`` of a reconstruction folder.

    Raises
    ------
    OSError, ValueError, KeyError
        Not there, or not a reconstruction.
    """
    with h5py.File(folder / "reconstruction.h5", "r") as file:
        data = file["phase_rad"]
        phase = np.asarray(data, dtype=np.float32)
        if phase.ndim != 2 or not phase.size:
            raise ValueError(f"{folder}: /phase_rad has shape {phase.shape}, two axes are needed")
        centre = data.attrs.get("scan_centre_px", (phase.shape[0] / 2, phase.shape[1] / 2))
        return Phase(
            phase,
            float(data.attrs["pixel_size_A"]),
            (float(centre[0]), float(centre[1])),
            _scan_field(file),
            _numbers(file.get("resolution")),
            _curves(file.get("curves")),
        )


def _scan_field(file: Any) -> tuple[slice, slice] | None:  # noqa: ANN401  h5py is untyped
    """Where the scan lies upright in ``/phase_rad``, from its positions."""
    from recon.geometry import scanned_rectangle

    try:
        header = json.loads(file["provenance/header_json"][()])
        rows, cols = (int(n) for n in header["scan_shape"])
        positions = np.asarray(file["positions_A"], dtype=float).reshape(rows, cols, 2)
        data = file["phase_rad"]
        centre = tuple(float(c) for c in data.attrs["scan_centre_px"])
        matrix = np.stack([positions[1, 0] - positions[0, 0], positions[0, 1] - positions[0, 0]], 1)
        return scanned_rectangle(
            (rows, cols), matrix, float(data.attrs["pixel_size_A"]), (centre[0], centre[1])
        )
    except (KeyError, ValueError, IndexError, np.linalg.LinAlgError):
        return None


def phase_drawing(
    album: Album, name: str, values: Array, pixel_size_A: float
) -> tuple[ET.Element, str]:
    """The phase, positive (atoms) bright."""
    picture = album.keep(name, grey(_enlarged(values), low=1, high=99.7))
    root = framed(picture, name, css="picture phase")
    scale_bar(root, pixel_size_A / 10 * values.shape[1] / picture.width_px, "nm")
    return root, picture.file


def spectrum_drawing(
    album: Album, name: str, values: Array, pixel_size_A: float, resolution_A: float | None
) -> tuple[ET.Element, str]:
    """Power spectrum (log) of a phase image under a Hann window, with rings in ångström."""
    power = power_spectrum(values)
    side = power.shape[0]
    per_px = 1.0 / (side * pixel_size_A)
    reach = min(1.0 / 0.6, 0.5 / pixel_size_A)
    half = max(8, min(side // 2, math.ceil(reach / per_px)))
    middle = side // 2
    cut = power[middle - half : middle + half, middle - half : middle + half]
    shown = np.log10(np.maximum(cut, np.percentile(power[power > 0], 1)) if cut.any() else cut + 1)
    picture = album.keep(f"{name}-spectrum", grey(shown, low=30, high=99.9))
    root = framed(picture, f"Power spectrum of the phase of {name}", css="picture spectrum")
    unit = 2 * half / 100
    rings = [ring for ring in RINGS_A if 1.0 / ring / per_px < half]
    for ring in rings:
        _ring(root, half, 1.0 / ring / per_px, f"{ring:g} Å", unit, "ring")
    if resolution_A and 1.0 / resolution_A / per_px < half * 1.4:
        _ring(root, half, 1.0 / resolution_A / per_px, "", unit, "ring limit")
    return root, picture.file


def power_spectrum(values: Array) -> NDArray[np.float64]:
    """|F|^2 of the largest centred square, mean removed, Hann window; zero frequency at n//2."""
    side = min(values.shape) // 2 * 2
    top, left = ((length - side) // 2 for length in values.shape)
    square = values[top : top + side, left : left + side].astype(float)
    window = np.hanning(side + 2)[1:-1]
    square = (square - square.mean()) * window[:, None] * window[None, :]
    padded = max(256, side)  # zeros around it only make the picture smoother
    return np.asarray(np.abs(np.fft.fftshift(np.fft.fft2(square, (padded, padded)))) ** 2)


def _ring(root: ET.Element, half: int, radius: float, label: str, unit: float, css: str) -> None:
    add(root, "circle", cx=half, cy=half, r=radius, class_=css)
    if label and radius < half * 0.98:
        x, y = half + radius * math.sin(0.6), half - radius * math.cos(0.6)
        add(root, "text", label, x=x + unit, y=y, font_size=4.4 * unit, class_="ink")


def _enlarged(values: Array) -> Array:
    """A small image by a whole factor, band-limited, so that a lattice looks like one."""
    factor = max(1, round(320 / max(values.shape)))
    if factor == 1:
        return values
    spectrum = np.fft.fftshift(np.fft.fft2(values))
    rows, cols = values.shape
    grown = np.zeros((rows * factor, cols * factor), complex)
    top, left = (rows * factor) // 2 - rows // 2, (cols * factor) // 2 - cols // 2
    grown[top : top + rows, left : left + cols] = spectrum
    return np.asarray(np.fft.ifft2(np.fft.ifftshift(grown)).real * factor**2)


def _numbers(node: Any) -> dict[str, float]:  # noqa: ANN401  h5py is untyped
    """Scalars of a group, from its datasets and attributes."""
    if node is None:
        return {}
    found = dict(node.attrs)
    if isinstance(node, h5py.Group):
        found |= {key: item[()] for key, item in node.items() if isinstance(item, h5py.Dataset)}
    numbers = {}
    for key, value in found.items():
        if np.ndim(value) == 0 and isinstance(value, int | float | np.number):
            numbers[str(key)] = float(value)
    return numbers


def _curves(node: Any) -> dict[str, NDArray[np.float64]]:  # noqa: ANN401  h5py is untyped
    """One-dimensional numeric data sets of a group."""
    if not isinstance(node, h5py.Group):
        return {}
    return {
        str(key): np.asarray(item, dtype=float)
        for key, item in node.items()
        if isinstance(item, h5py.Dataset) and item.ndim == 1 and item.dtype.kind in "fiu"
    }
