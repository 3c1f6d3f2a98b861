"""Wavelengths, samplings, axes and probe positions: the one place where signs are decided.

Real space ``r`` and reciprocal space ``k`` are (row, col) vectors in the detector frame, in Å and
1/Å. Positive defocus is underfocus, C10 = -defocus, and

    chi(k) = pi lambda (C10 |k|^2 + C12a (kx^2 - ky^2) + 2 C12b kx ky),   psi(k) = A(k) exp(-i chi)

with C12a + i C12b = C12 exp(2 i phi12), phi12 from +x (col) towards +y (row). A ray that leaves the
probe-forming lens at k meets the entrance surface at r_p + grad chi / 2 pi = r_p + lambda C10 k.
Scan point s lies at  r = Rot(theta) Affine step (s - centre),  Rot = [[cos, -sin], [sin, cos]].
"""

import math

import numpy as np
from numpy.typing import NDArray

from recon.dataset import ScanHeader

Float = NDArray[np.float64]

PLANCK_TIMES_C_eV_A = 12398.419843320026
REST_ENERGY_eV = 510998.95
BORDER_A, BORDER_PART = 5.0, 0.1
"""Width of the border that no judgement looks at, and the largest part of a side that it takes."""


def wavelength_A(energy_keV: float) -> float:
    """Relativistic electron wavelength; 0.019687 Å at 300 keV.

    >>> round(wavelength_A(300.0), 6)
    0.019687
    """
    energy_eV = energy_keV * 1e3
    return PLANCK_TIMES_C_eV_A / math.sqrt(energy_eV * (energy_eV + 2 * REST_ENERGY_eV))


def k_per_mrad(energy_keV: float) -> float:
    """Spatial frequency (1/Å) of a scattering angle of one milliradian (small angles)."""
    return 1e-3 / wavelength_A(energy_keV)


def rotation_matrix(angle_deg: float) -> Float:
    """Rot = [[cos, -sin], [sin, cos]], acting on (row, col)."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[c, -s], [s, c]])


def scan_matrix(header: ScanHeader, rotation_deg: float, affine: Float | None = None) -> Float:
    """Matrix (2, 2), Å per scan step, that takes scan indices (sy, sx) to positions (row, col)."""
    distortion = np.eye(2) if affine is None else affine
    return rotation_matrix(rotation_deg) @ distortion * header.scan_step_A


def scan_positions_A(scan_shape: tuple[int, int], matrix: Float) -> Float:
    """Positions of all scan points about the centre of the scan, (n, 2), row-major, Å."""
    sy, sx = np.indices(scan_shape).reshape(2, -1)
    centre = (np.array(scan_shape) - 1) / 2
    return (np.stack([sy, sx], axis=1) - centre) @ matrix.T


def frequencies(n: int, sampling_A: float) -> tuple[Float, Float]:
    """(ky, kx) of an n x n grid, 1/Å, zero frequency at [0, 0]."""
    k = np.fft.fftfreq(n, sampling_A)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    return ky, kx


def detector_to_frame(
    header: ScanHeader, *, mirrored: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each stored detector pixel lies in the detector frame, pixels from the array's corner.

    A stored pattern becomes one in the frame by flip_ud, then flip_lr, then transpose
    (each if set), and a last exchange of rows and columns if ``mirrored``.

    Returns
    -------
    row, col
        int64, flat over the stored pixels.
    """
    ny, nx = header.frame_shape
    row, col = np.indices((ny, nx)).reshape(2, -1)
    if header.flip_ud:
        row = ny - 1 - row
    if header.flip_lr:
        col = nx - 1 - col
    if header.transpose != mirrored:
        row, col = col, row
    return row, col


def centre_in_frame(
    header: ScanHeader, centre_px: tuple[float, float], *, mirrored: bool = False
) -> tuple[float, float]:
    """(row, col) of zero scattering angle after the flips of ``detector_to_frame``."""
    ny, nx = header.frame_shape
    row, col = centre_px
    if header.flip_ud:
        row = ny - 1 - row
    if header.flip_lr:
        col = nx - 1 - col
    return (col, row) if header.transpose != mirrored else (row, col)


def scanned_rectangle(
    scan_shape: tuple[int, int],
    matrix: Float,
    pixel_A: float,
    centre_px: tuple[float, float],
    *,
    border_A: float = 0.0,
) -> tuple[slice, slice]:
    """Rows and columns of an image that lie inside the scan, also if the scan is turned.

    The rectangle has the aspect of the scan's bounding box and is as large as fits.
    """
    half = (np.array(scan_shape) - 1) / 2
    box = np.abs(matrix) @ half
    inverse = np.linalg.inv(matrix)
    corners = box[:, None] * np.array([[1.0, 1.0], [1.0, -1.0]])
    reach = float(np.min(half[:, None] / np.maximum(np.abs(inverse @ corners), 1e-12)))
    inside = np.maximum(box * min(reach, 1.0) - border_A, 0) / pixel_A
    low = np.ceil(np.array(centre_px) - inside).astype(int)
    high = np.floor(np.array(centre_px) + inside).astype(int)
    low, high = np.maximum(low, 0), np.maximum(high, low)
    return slice(int(low[0]), int(high[0]) + 1), slice(int(low[1]), int(high[1]) + 1)


def judged_field(
    scan_shape: tuple[int, int], matrix: Float, pixel_A: float, centre_px: tuple[float, float]
) -> tuple[slice, slice]:
    """Rows and columns of an image that speak for all of it: the scan less a border.

    Near the border an object is lit from one side only, and what stands there alone (the wall of
    a pore, of which the scan shows no more) must not lend its resolution to the rest.
    """
    whole = scanned_rectangle(scan_shape, matrix, pixel_A, centre_px)
    shorter_A = min(part.stop - part.start for part in whole) * pixel_A
    border_A = min(BORDER_A, BORDER_PART * shorter_A)
    return scanned_rectangle(scan_shape, matrix, pixel_A, centre_px, border_A=border_A)
