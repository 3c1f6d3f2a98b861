"""A ring pattern with the fitted ellipses, by which an operator trusts a camera constant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.calibration.rings import RingFit, Standard, correct_ellipse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUND, _INK, _RING, _CENTRE = "#15181c", "#eef1f4", "#ffd23f", "#4dd9ff"


def ring_outline(fit: RingFit, g_inv_A: float) -> NDArray[np.float64]:
    """Where a ring lies on the detector, (x, y) in px, (n, 2)."""
    phi = np.linspace(0, 2 * np.pi, 361)
    round_px = g_inv_A / fit.inv_A_per_px * np.stack([np.cos(phi), np.sin(phi)])
    distorted = np.linalg.inv(correct_ellipse(fit.ellipticity, fit.azimuth_deg)) @ round_px
    return np.asarray(distorted.T + np.array(fit.centre_px), dtype=float)


def draw_rings(counts: ArrayLike, fit: RingFit, standard: Standard) -> Figure:
    """Left half bare, right half with the fitted rings, the numbers below."""
    from matplotlib.figure import Figure

    image = np.log1p(np.maximum(np.nan_to_num(np.asarray(counts, dtype=float)), 0))
    rows, cols = image.shape
    figure = Figure(figsize=(7.0, 7.6), dpi=90, facecolor=_GROUND)
    axes = figure.add_axes((0.01, 0.09, 0.98, 0.90))
    axes.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.percentile(image, 99.7)), 0.7))
    for g in standard.g_inv_A[standard.strength > 0.02 * standard.strength.max()]:
        outline = ring_outline(fit, float(g))
        # one half stays bare: the eye compares
        shown = np.where((outline[:, :1] > fit.centre_px[0]), outline, np.nan)
        axes.plot(*shown.T, color=_RING, lw=0.9, alpha=0.9)
    axes.plot(*fit.centre_px, ls="", marker="+", ms=14, mew=1.5, color=_CENTRE)
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()
    figure.text(
        0.02, 0.015,
        f"{standard.name}: {fit.inv_A_per_px:.6f} ± {fit.inv_A_per_px_sigma:.6f} 1/Å per px, "
        f"ellipse {100 * fit.ellipticity:.2f} ± {100 * fit.ellipticity_sigma:.2f} % along "
        f"{fit.azimuth_deg:.0f}°\n{fit.rings_used} isolated rings, {fit.points_used} points, "
        f"median distance {fit.residual_px:.3f} px",
        color=_INK, fontsize=10,
    )  # fmt: skip
    return figure


def save_rings(path: Path, counts: ArrayLike, fit: RingFit, standard: Standard) -> None:
    """Draw and write as PNG."""
    draw_rings(counts, fit, standard).savefig(path, format="png")
