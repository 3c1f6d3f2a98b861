"""A diffraction pattern with what the aligner read in it: Laue circle, its band, spots, beam.

The zero-order Laue circle of a zone at the angle |t| from the beam has the radius K sin|t| in the
zone plane.  On the detector it is an ellipse through the direct beam: centre at K sin|t| cos|t|
along t, semi-axes K sin|t| cos|t| along t and K sin|t| across.
"""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from controller.hardware.values import OpticsState
from controller.record.events import TiltFitted
from controller.record.report.pictures import Album, Array, framed, log_grey
from controller.record.report.svg import add, tip


def wavenumber_inv_A(energy_keV: float) -> float:
    """K = 1/lambda in 1/A, relativistic (CODATA 2018)."""
    volts = energy_keV * 1e3
    return math.sqrt(volts * (1 + volts * 0.9784755e-6)) / 12.2642595


def laue_ellipse(
    tilt_mrad: tuple[float, float], centre_px: tuple[float, float], K: float, inv_A_per_px: float
) -> tuple[float, float, float, float, float]:
    """(x, y, semi-axis along t, semi-axis across, azimuth of t in degrees), in pixels."""
    angle = math.hypot(*tilt_mrad) * 1e-3
    azimuth = math.atan2(tilt_mrad[1], tilt_mrad[0])
    across = K * math.sin(angle) / inv_A_per_px
    along = across * math.cos(angle)
    x = centre_px[0] + along * math.cos(azimuth)
    y = centre_px[1] + along * math.sin(azimuth)
    return x, y, along, across, math.degrees(azimuth)


def pattern_drawing(
    album: Album,
    name: str,
    electrons: Array,
    optics: OpticsState,
    fit: TiltFitted,
    *,
    reach_px: float,
) -> tuple[ET.Element, str]:
    """The pattern with its overlay, and the path of the clean full-size picture.

    Parameters
    ----------
    electrons
        Counts, (row, col).
    reach_px
        Farthest spot from the direct beam that has to be seen; the same for all patterns of a
        crystal, so that they can be compared.
    """
    left, top, right, bottom = _window(electrons.shape, fit.centre_px, reach_px)
    picture = album.keep(name, log_grey(electrons[top:bottom, left:right]))
    root = framed(picture, _in_words(fit), origin_px=(left, top), css="picture pattern")
    unit = (right - left) / 100
    if fit.answered:
        _draw_circle(root, fit, wavenumber_inv_A(optics.energy_keV), unit)
    for x, y in fit.spots_px:
        add(root, "circle", cx=x, cy=y, r=1.9 * unit, class_="spot")
    if fit.answered:
        _draw_beam(root, fit.centre_px, unit)
    return root, picture.file


def _draw_circle(root: ET.Element, fit: TiltFitted, K: float, unit: float) -> None:
    length = math.hypot(*fit.tilt_mrad)
    for offset, css in ((-fit.sigma_mrad, "band"), (fit.sigma_mrad, "band"), (0.0, "laue")):
        if length + offset <= 0:
            continue
        factor = (length + offset) / length if length > 0 else 1.0
        tilt = (fit.tilt_mrad[0] * factor, fit.tilt_mrad[1] * factor)
        x, y, along, across, azimuth = laue_ellipse(tilt, fit.centre_px, K, fit.inv_A_per_px)
        ellipse = add(root, "ellipse", cx=x, cy=y, rx=along, ry=across, class_=css)
        ellipse.set("transform", f"rotate({azimuth:.4f} {x:.4f} {y:.4f})")
    x, y, *_ = laue_ellipse(fit.tilt_mrad, fit.centre_px, K, fit.inv_A_per_px)
    radius = max(1e-3 * fit.sigma_mrad * K / fit.inv_A_per_px, 0.4 * unit)
    disc = add(root, "circle", cx=x, cy=y, r=radius, class_="sigma")
    tip(disc, f"centre of the Laue circle, 68 % within {fit.sigma_mrad:.2f} mrad")
    beam = fit.centre_px
    add(root, "line", x1=beam[0], y1=beam[1], x2=x, y2=y, class_="tilt")
    d = 1.6 * unit
    add(root, "line", x1=x - d, y1=y - d, x2=x + d, y2=y + d, class_="laue")
    add(root, "line", x1=x - d, y1=y + d, x2=x + d, y2=y - d, class_="laue")


def _draw_beam(root: ET.Element, centre: tuple[float, float], unit: float) -> None:
    if not all(map(math.isfinite, centre)):
        return
    x, y = centre
    inner, outer = 1.2 * unit, 3.4 * unit
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        near, far = (x + inner * dx, y + inner * dy), (x + outer * dx, y + outer * dy)
        add(root, "line", x1=near[0], y1=near[1], x2=far[0], y2=far[1], class_="beam")


def spot_reach_px(fits: list[TiltFitted]) -> float:
    """Distance along an axis from the direct beam to the farthest spot of any of the fits."""
    return max(
        (
            max(abs(x - fit.centre_px[0]), abs(y - fit.centre_px[1]))
            for fit in fits
            for x, y in fit.spots_px
        ),
        default=math.inf,
    )


def _window(
    shape: tuple[int, ...], centre: tuple[float, float], reach_px: float
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around the direct beam that holds the spots with some margin."""
    rows, cols = shape
    cx, cy = centre
    if not (math.isfinite(reach_px) and 0 <= cx < cols and 0 <= cy < rows):
        return 0, 0, cols, rows
    half = max(math.ceil(1.15 * reach_px) + 4, min(rows, cols) // 4)
    left, right = max(0, int(cx) - half), min(cols, int(cx) + half + 1)
    top, bottom = max(0, int(cy) - half), min(rows, int(cy) + half + 1)
    return left, top, right, bottom


def _in_words(fit: TiltFitted) -> str:
    if not fit.answered:
        return f"Diffraction pattern of {fit.target}, not read: {fit.reason}"
    zone = "" if fit.zone_uvw is None else f" from [{' '.join(map(str, fit.zone_uvw))}]"
    return (
        f"Diffraction pattern of {fit.target}: {fit.misorientation_deg:.2f} degrees{zone}, "
        f"68 % within {fit.sigma_mrad:.2f} mrad, {len(fit.spots_px)} spots used"
    )
