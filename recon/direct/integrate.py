"""From deflections to the phase: Fourier integration that knows its noise (iCOM, iDPC).

With K(q) the transform of the deflections and P(q) that of the probe's intensity,

    K(q) = i q V(q) P*(q),   V(q) = -i q . K P / (q^2 |P|^2 + v / S).

v is the shot noise of a deflection and S the mean power of the phase, found from how far the
deflections exceed their noise: where 1/q or a defocused probe would amplify noise without end,
nothing is put in. With P = 1 the result is the phase blurred by the probe's
intensity, the usual iCOM. Method: Lazić, Bosch & Lazar, Ultramicroscopy 160 (2016) 265.
"""

import numpy as np
from numpy.typing import NDArray

from recon.direct.deflection import Deflection

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


def scan_frequencies(shape: tuple[int, int], matrix_A: Float, *, finer: int = 1) -> Float:
    """Frequencies (row, col) of the FFT of an image on the scan raster, (2, rows, cols), 1/Å.

    ``matrix_A`` (2, 2) takes scan steps to Å; ``finer`` divides the raster.
    """
    u, v = (np.fft.fftfreq(finer * n) * finer for n in shape)
    grid = np.stack(np.meshgrid(u, v, indexing="ij"))
    return np.einsum("ji,jyx->iyx", np.linalg.inv(matrix_A), grid)


def curl_free_part(deflection: Deflection, matrix_A: Float) -> float:
    """Part of the deflections beyond shot noise that a phase can cause; NaN where there is none.

    The slope of a phase has no curl; thick or tilted specimens deflect with one.
    """
    shape = deflection.k_A.shape[1:]
    q = scan_frequencies((shape[0], shape[1]), matrix_A)
    norm = np.maximum(np.hypot(*q), 1e-30)
    K = np.fft.fft2(deflection.k_A)
    along, across = (q * K).sum(axis=0) / norm, (q[0] * K[1] - q[1] * K[0]) / norm
    noise = deflection.variance * norm.size
    slope, curl = (float((np.abs(part) ** 2 - noise).ravel()[1:].sum()) for part in (along, across))
    total = slope + max(curl, 0.0)
    return slope / total if slope > 0 else float("nan")


def integrate_deflection(
    deflection: Deflection,
    matrix_A: Float,
    *,
    probe_transfer: Complex | None = None,
    high_pass_A: float | None = None,
) -> Float:
    """Phase on the scan raster, (scan_y, scan_x), radians, mean zero, positive where atoms are.

    Parameters
    ----------
    matrix_A
        Scan steps to Å in the detector frame, (2, 2).
    probe_transfer
        P(q) on the scan's frequencies, complex, (scan_y, scan_x), one at q = 0; None: 1.
    high_pass_A
        Fade out periods longer than this (thickness steps, charging).
    """
    shape = deflection.k_A.shape[1:]
    q = scan_frequencies((shape[0], shape[1]), matrix_A)
    q2 = (q**2).sum(axis=0)
    blur = np.ones(shape, complex) if probe_transfer is None else probe_transfer
    K = np.fft.fft2(deflection.k_A)
    along = (q * K).sum(axis=0)
    weight = q2 * np.abs(blur) ** 2
    # |q . K|^2 = q^2 (S q^2 |P|^2 + v), both per coefficient of an unnormalised transform
    noise = deflection.variance * q2.size
    excess = float((np.abs(along) ** 2 - noise * q2).sum())
    signal = max(excess / float((q2 * weight).sum()), 1e-12 * noise)
    phase = -1j * along * blur / np.maximum(weight + noise / signal, 1e-30)
    phase[0, 0] = 0.0
    if high_pass_A is not None:
        phase *= 1 - np.exp(-np.log(2) * q2 * high_pass_A**2)
    return np.fft.ifft2(phase).real
