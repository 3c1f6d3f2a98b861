"""The picture by which an operator trusts a tilt, or does not."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.perception.alignment.geometry import zone_from_tilt
from controller.perception.alignment.optics import wavenumber_inv_A
from controller.perception.alignment.result import TiltEstimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_USED, _REJECTED, _EMPTY, _CIRCLE, _DIRECT = "#35d07f", "#ff5a4d", "#6fa8dc", "#ffd23f", "#ffffff"


def laue_circle_outline(tilt_mrad: tuple[float, float], wavenumber: float, s: float = 0.0) -> Array:
    """Transverse g (1/A) of the zero-order zone where the excitation error is ``s``, (361, 2).

    Exact: the section of the Ewald sphere by the zone plane, an ellipse on the detector.
    """
    u = zone_from_tilt(tilt_mrad)
    tangent = np.array([-u[1], u[0], 0.0])
    length = float(np.linalg.norm(tangent))
    tangent = tangent / length if length > 0 else np.array([0.0, 1.0, 0.0])
    steepest = np.cross(tangent, u)
    phi = np.linspace(0, 2 * np.pi, 361)
    # on the plane the sphere is |g - c| = r with c the projection of -k0; s moves it along z
    k0 = np.array([0.0, 0.0, wavenumber + s])
    centre = -(k0 - (k0 @ u) * u)
    radius2 = wavenumber**2 - (k0 @ u) ** 2
    radius = np.sqrt(max(float(radius2), 0.0))
    ring = centre + radius * (np.outer(np.cos(phi), steepest) + np.outer(np.sin(phi), tangent))
    return np.asarray(ring[:, :2], dtype=float)


def draw_overlay(
    counts: ArrayLike, estimate: TiltEstimate, *, energy_keV: float, title: str = ""
) -> "Figure":
    """Pattern (log), spots used and rejected, empty nodes, Laue circle with its band, numbers."""
    from matplotlib.figure import Figure

    image = np.asarray(counts, dtype=float)
    rows, cols = image.shape
    figure = Figure(figsize=(7.2, 7.9), dpi=120, facecolor="#15181c")
    axes = figure.add_axes((0.02, 0.115, 0.96, 0.82))
    shown = np.log1p(np.maximum(np.nan_to_num(image), 0.0))
    top = max(float(np.percentile(shown, 99.9)), 0.7)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    marks = estimate.marks
    axes.scatter(
        marks.empty_px[:, 0], marks.empty_px[:, 1], s=16, marker="o", facecolors="none",
        edgecolors=_EMPTY, lw=0.5, alpha=0.55, label="empty",
    )  # fmt: skip
    axes.scatter(
        marks.used_px[:, 0],
        marks.used_px[:, 1],
        s=70,
        facecolors="none",
        edgecolors=_USED,
        lw=1.0,
        label="used",
    )
    axes.scatter(
        marks.rejected_px[:, 0],
        marks.rejected_px[:, 1],
        s=34,
        marker="x",
        color=_REJECTED,
        lw=1.1,
        label="rejected",
    )
    centre = np.array([estimate.centre_x_px, estimate.centre_y_px])
    if np.isfinite(centre).all():
        axes.plot(*centre, marker="+", ms=16, mew=1.6, color=_DIRECT)
    if np.isfinite(estimate.tilt_x_mrad):
        _draw_circle(axes, estimate, centre, energy_keV)
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()
    legend = axes.legend(loc="lower right", fontsize=8, facecolor="#15181c", labelcolor="white")
    legend.get_frame().set_alpha(0.7)
    figure.text(0.02, 0.955, title, color="white", fontsize=12, weight="bold")
    figure.text(0.02, 0.02, _words(estimate), color="white", fontsize=9.5, family="monospace")
    return figure


def save_overlay(
    path: Path, counts: ArrayLike, estimate: TiltEstimate, *, energy_keV: float, title: str = ""
) -> None:
    """Draw the overlay and write it as PNG."""
    figure = draw_overlay(counts, estimate, energy_keV=energy_keV, title=title)
    figure.savefig(path, format="png")


def _draw_circle(axes: "object", estimate: TiltEstimate, centre: Array, energy_keV: float) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Polygon

    if not isinstance(axes, Axes):
        return
    tilt = (estimate.tilt_x_mrad, estimate.tilt_y_mrad)
    K = wavenumber_inv_A(energy_keV)
    scale = estimate.inv_A_per_px
    alpha = 1.0 if estimate.answered else 0.35
    outline = laue_circle_outline(tilt, K) / scale + centre
    axes.add_patch(Polygon(outline, closed=True, fill=False, ec=_CIRCLE, lw=1.4, alpha=alpha))
    thickness = estimate.thickness_nm if np.isfinite(estimate.thickness_nm) else 50.0
    for s in (-0.8 / (10 * thickness), 0.8 / (10 * thickness)):
        band = laue_circle_outline(tilt, K, s) / scale + centre
        axes.add_patch(
            Polygon(band, closed=True, fill=False, ec=_CIRCLE, lw=0.8, ls="--", alpha=0.6 * alpha)
        )
    u = zone_from_tilt(tilt)
    laue_centre = centre + K * u[2] * u[:2] / scale
    axes.plot(
        [centre[0], laue_centre[0]], [centre[1], laue_centre[1]], color=_CIRCLE, lw=0.9, alpha=alpha
    )
    axes.plot(*laue_centre, marker="o", ms=5, color=_CIRCLE, alpha=alpha)


def _words(estimate: TiltEstimate) -> str:
    if not np.isfinite(estimate.tilt_x_mrad):
        return f"no answer: {estimate.reason}"
    first = (
        f"tilt ({estimate.tilt_x_mrad:+.2f}, {estimate.tilt_y_mrad:+.2f}) mrad = "
        f"{estimate.misorientation_deg:.3f} deg, within {estimate.sigma_mrad:.2f} mrad (68 %)"
    )
    second = (
        f"{estimate.mode}, {len(estimate.marks.used_px)} spots used, "
        f"{len(estimate.marks.rejected_px)} rejected, {estimate.electrons_used:.0f} electrons, "
        f"{estimate.elapsed_ms:.0f} ms"
    )
    return f"{first}\n{second}" + ("" if estimate.answered else f"\nNO ANSWER: {estimate.reason}")
