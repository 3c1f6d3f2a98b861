"""Outlines that a picture of a fit needs: Laue circles, the band of their error, the lit region.

All are lists of transverse g in 1/A about the direct beam, exact sections of the Ewald sphere by
the plane of a Laue zone: ellipses on the detector.
"""

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import zone_from_tilt

Array = NDArray[np.float64]
TiltVector = tuple[float, float]

_STEPS = 721


def laue_circle_outline(
    tilt_mrad: TiltVector, wavenumber: float, s: float = 0.0, *, layer_inv_A: float = 0.0
) -> Array:
    """Transverse g (1/A) of a Laue zone where the excitation error is ``s``, (n, 2).

    ``layer_inv_A`` is the height g.u of the zone, 0 for the zero-order one and negative for those
    that the sphere cuts.  Empty where no reflection of the zone has that excitation error.
    """
    u = zone_from_tilt(tilt_mrad)
    tangent = np.array([-u[1], u[0], 0.0])
    length = float(np.linalg.norm(tangent))
    tangent = tangent / length if length > 0 else np.array([0.0, 1.0, 0.0])
    steepest = np.cross(tangent, u)
    # on the plane the sphere is |g - c| = r with c the projection of -k0; s moves it along z
    k0 = np.array([0.0, 0.0, wavenumber + s])
    centre = layer_inv_A * u - (k0 - (k0 @ u) * u)
    radius2 = float(wavenumber**2 - (k0 @ u + layer_inv_A) ** 2)
    if radius2 < 0:
        return np.empty((0, 2))
    phi = np.linspace(0, 2 * np.pi, _STEPS)
    ring = centre + np.sqrt(radius2) * (
        np.outer(np.cos(phi), steepest) + np.outer(np.sin(phi), tangent)
    )
    return np.asarray(ring[:, :2], dtype=float)


def laue_centre(tilt_mrad: TiltVector, wavenumber: float) -> Array:
    """Centre of the Laue circle as seen on the detector, transverse g in 1/A, (2,)."""
    u = zone_from_tilt(tilt_mrad)
    return np.asarray(wavenumber * u[2] * u[:2], dtype=float)


def error_band(tilt_mrad: TiltVector, sigma_mrad: float, wavenumber: float) -> tuple[Array, Array]:
    """Inner and outer edge of all Laue circles whose tilt lies within ``sigma_mrad``, (n, 2) each.

    Every such circle passes through the direct beam, so the band closes to a point there and is
    widest opposite.  Both are empty where the error is not small against the tilt: no band, then.
    """
    if not 0 < sigma_mrad < 0.7 * float(np.hypot(*tilt_mrad)):
        return np.empty((0, 2)), np.empty((0, 2))
    middle = laue_centre(tilt_mrad, wavenumber)
    azimuth = np.linspace(-np.pi, np.pi, _STEPS)
    radii = []
    for psi in np.linspace(0, 2 * np.pi, 36, endpoint=False):
        other = (
            tilt_mrad[0] + sigma_mrad * float(np.cos(psi)),
            tilt_mrad[1] + sigma_mrad * float(np.sin(psi)),
        )
        ring = laue_circle_outline(other, wavenumber) - middle
        radii.append(
            np.interp(
                azimuth,
                *_ascending(np.arctan2(ring[:, 1], ring[:, 0]), np.hypot(ring[:, 0], ring[:, 1])),
                period=2 * np.pi,
            )
        )
    unit = np.stack([np.cos(azimuth), np.sin(azimuth)], 1)
    low, high = np.min(radii, axis=0), np.max(radii, axis=0)
    return middle + low[:, None] * unit, middle + high[:, None] * unit


def lit_outlines(tilt_mrad: TiltVector, thickness_nm: float, wavenumber: float) -> list[Array]:
    """Edges of where reflections are lit: excitation error plus and minus 0.8 / thickness.

    On the zone axis only one edge is left: the circle about the beam within which spots shine.
    """
    s = 0.8 / (10 * thickness_nm)
    edges = (laue_circle_outline(tilt_mrad, wavenumber, side) for side in (-s, s))
    return [edge for edge in edges if len(edge)]


def _ascending(azimuth: Array, radius: Array) -> tuple[Array, Array]:
    order = np.argsort(azimuth)
    return azimuth[order], radius[order]
