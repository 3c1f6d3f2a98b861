"""The picture by which an operator trusts a tilt, or does not.

Left the pattern with what was seen in it, right the answer in words with the neighbourhood of the
beam enlarged.  Nothing is drawn that was not measured: without an answer there is no circle, and
the reason stands across the picture.
"""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.perception.alignment.laue_outline import (
    error_band,
    laue_centre,
    laue_circle_outline,
    lit_outlines,
)
from controller.perception.alignment.moves import ProposedMove
from controller.perception.alignment.optics import wavenumber_inv_A
from controller.perception.alignment.result import TiltEstimate
from controller.perception.alignment.zones import zone_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Caption", "draw_overlay", "laue_circle_outline", "save_overlay"]

Array = NDArray[np.float64]

_GROUND, _INK, _QUIET = "#15181c", "#eef1f4", "#9aa4ae"
_USED, _REJECTED, _EMPTY = "#35d07f", "#ff5a4d", "#6fa8dc"
_CIRCLE, _AFTER, _DIRECT = "#ffd23f", "#4dd9ff", "#ffffff"
_WITHOUT_THICKNESS_NM = 50.0
_GREATEST_EMPTY_SHOWN = 700


@dataclass(frozen=True)
class Caption:
    """Words and further results that go with the picture."""

    title: str = ""
    crystal: str = ""
    zone_uvw: tuple[int, int, int] | None = None
    layer_inv_A: float | None = None
    """Distance of the Laue zones of this axis; with it the higher-order ones are drawn."""
    move: ProposedMove | None = None
    notes: tuple[str, ...] = ()
    """Further lines, such as the order of resolution or a bent crystal."""


def draw_overlay(
    counts: ArrayLike,
    estimate: TiltEstimate,
    *,
    energy_keV: float,
    title: str = "",
    caption: Caption | None = None,
) -> "Figure":
    """Draw a pattern with its fit.

    Parameters
    ----------
    counts
        The pattern, (row, col).
    estimate
        What was found in it.
    energy_keV
        Sets the radius of the Ewald sphere.
    title
        Name of the pattern; short for ``caption=Caption(title=...)``.
    caption
        Zone, crystal, proposed move and remarks to print.
    """
    from matplotlib.figure import Figure

    words = caption or Caption(title=title)
    image = np.nan_to_num(np.asarray(counts, dtype=float))
    figure = Figure(figsize=(12.0, 8.3), dpi=106, facecolor=_GROUND)
    axes = figure.add_axes((0.012, 0.017, 0.666, 0.966))
    _draw_pattern(axes, image)
    view = _View(estimate, wavenumber_inv_A(energy_keV), image.shape)
    _draw_marks(axes, estimate)
    if view.has_centre:
        _draw_direct(axes, view)
        _draw_scale_bar(axes, view)
    if estimate.answered:
        _draw_fit(axes, view, words.move)
        _draw_higher_zones(axes, view, words.layer_inv_A)
        _draw_way_to_centre(axes, view)
        _draw_close_up(figure, image, view, words.move)
    else:
        _draw_refusal(axes, estimate)
    rows, cols = image.shape
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()
    _write(figure, estimate, words)
    _draw_legend(figure, axes)
    return figure


def save_overlay(
    path: Path,
    counts: ArrayLike,
    estimate: TiltEstimate,
    *,
    energy_keV: float,
    title: str = "",
    caption: Caption | None = None,
) -> None:
    """Draw the overlay and write it as PNG."""
    figure = draw_overlay(counts, estimate, energy_keV=energy_keV, title=title, caption=caption)
    figure.savefig(path, format="png")


class _View:
    """From reciprocal space to pixels for one estimate."""

    def __init__(self, estimate: TiltEstimate, wavenumber: float, shape: tuple[int, ...]) -> None:
        self.estimate = estimate
        self.wavenumber = wavenumber
        self.shape = shape
        self.centre = np.array([estimate.centre_x_px, estimate.centre_y_px])
        self.has_centre = bool(np.isfinite(self.centre).all())
        self.tilt = (estimate.tilt_x_mrad, estimate.tilt_y_mrad)
        known = np.isfinite(estimate.thickness_nm)
        self.thickness_nm = estimate.thickness_nm if known else _WITHOUT_THICKNESS_NM

    def px(self, g_inv_A: Array) -> Array:
        """(x, y) in pixels of transverse g in 1/A, (n, 2) or (2,)."""
        return np.asarray(self.centre + g_inv_A / self.estimate.inv_A_per_px)

    def laue_centre(self) -> Array:
        """Centre of the circle in pixels."""
        return self.px(laue_centre(self.tilt, self.wavenumber))

    def length_px(self, angle_mrad: float) -> float:
        """Length on the detector of a small change of tilt."""
        return 1e-3 * angle_mrad * self.wavenumber / self.estimate.inv_A_per_px


def _draw_pattern(axes: "Axes", image: Array) -> None:
    shown = np.log1p(np.maximum(image, 0.0))
    top = max(float(np.percentile(shown, 99.9)), 0.7)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=top, interpolation="nearest")


def _draw_marks(axes: "Axes", estimate: TiltEstimate) -> None:
    marks = estimate.marks
    empty = marks.empty_px if estimate.answered else np.empty((0, 2))
    if len(empty) > _GREATEST_EMPTY_SHOWN:
        # the nodes nearest the beam matter most, and a carpet of rings hides the pattern
        nearest = np.argsort(
            np.hypot(empty[:, 0] - estimate.centre_x_px, empty[:, 1] - estimate.centre_y_px)
        )
        empty = empty[nearest[:_GREATEST_EMPTY_SHOWN]]
    if len(empty):
        axes.scatter(
            empty[:, 0], empty[:, 1], s=9, marker="o", facecolors="none",
            edgecolors=_EMPTY, lw=0.7, alpha=0.75, label="predicted dark, and dark",
        )  # fmt: skip
    if estimate.answered and len(marks.used_px):
        axes.scatter(
            marks.used_px[:, 0], marks.used_px[:, 1], s=95, marker="o", facecolors="none",
            edgecolors=_USED, lw=1.2, label=f"spots used ({len(marks.used_px)})",
        )  # fmt: skip
    rejected = marks.rejected_px
    label = "spots rejected"
    if not estimate.answered:
        rejected = np.concatenate([marks.used_px, marks.rejected_px])
        label = "spots found"
    if len(rejected):
        axes.scatter(
            rejected[:, 0], rejected[:, 1], s=38, marker="x", color=_REJECTED, lw=1.3,
            label=f"{label} ({len(rejected)})",
        )  # fmt: skip


def _draw_direct(axes: "Axes", view: _View) -> None:
    axes.plot(
        *view.centre,
        ls="",
        marker="+",
        ms=20,
        mew=1.8,
        color=_DIRECT,
        label="direct beam",
        zorder=6,
    )


def _draw_fit(axes: "Axes", view: _View, move: ProposedMove | None, *, label: bool = True) -> None:
    """Circle with its band, the lit zone now and after the move."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Circle, Polygon

    def named(text: str) -> str | None:
        return text if label else None

    estimate = view.estimate
    outline = view.px(laue_circle_outline(view.tilt, view.wavenumber))
    axes.plot(*outline.T, color=_CIRCLE, lw=1.3, label=named("Laue circle"), zorder=4)
    inner, outer = error_band(view.tilt, estimate.sigma_mrad, view.wavenumber)
    if len(inner):
        band = np.concatenate([view.px(outer), view.px(inner)[::-1]])
        axes.add_patch(
            Polygon(
                band, closed=True, fc=_CIRCLE, ec="none", alpha=0.38, zorder=3,
                label=named("± sigma of it (68 %)"),
            )
        )  # fmt: skip
    for n, edge in enumerate(lit_outlines(view.tilt, view.thickness_nm, view.wavenumber)):
        axes.plot(
            *view.px(edge).T, color=_CIRCLE, lw=0.8, ls=(0, (4, 4)), alpha=0.8, zorder=3,
            label=named("spots are lit within") if n == 0 else None,
        )  # fmt: skip
    after = (0.0, 0.0) if move is None else move.residual_tilt_mrad
    for n, edge in enumerate(lit_outlines(after, view.thickness_nm, view.wavenumber)):
        axes.plot(
            *view.px(edge).T, color=_AFTER, lw=1.3, ls=(0, (7, 4)), zorder=4,
            label=named("after the move: lit within") if n == 0 else None,
        )  # fmt: skip
    if move is not None:
        axes.add_patch(
            Circle(
                tuple(view.px(laue_centre(after, view.wavenumber))),
                view.length_px(move.residual_sigma_mrad),
                fc=(*to_rgb(_AFTER), 0.22), ec=_AFTER, lw=1.1, zorder=5,
                label=named("Laue centre after it (68 %)"),
            )
        )  # fmt: skip
    at = view.laue_centre()
    axes.add_patch(
        Circle(
            (at[0], at[1]), view.length_px(estimate.sigma_mrad), fc=_CIRCLE, ec="none", alpha=0.5,
            zorder=5,
        )
    )  # fmt: skip
    axes.plot(*at, ls="", marker="o", ms=4, color=_CIRCLE, zorder=6, label=named("Laue centre"))


def _draw_higher_zones(axes: "Axes", view: _View, layer_inv_A: float | None) -> None:
    """Where spots off the circle come from."""
    if layer_inv_A is None:
        return
    rows, cols = view.shape
    label: str | None = "higher-order Laue zones"
    for order in (1, 2, 3, 4):
        ring = view.px(
            laue_circle_outline(view.tilt, view.wavenumber, layer_inv_A=-order * layer_inv_A)
        )
        x, y = ring.T
        if not ((x > 0) & (x < cols) & (y > 0) & (y < rows)).any():
            continue
        axes.plot(x, y, color=_CIRCLE, lw=0.8, ls=(0, (1, 3)), alpha=0.8, zorder=3, label=label)
        label = None


def _draw_way_to_centre(axes: "Axes", view: _View) -> None:
    """A line from the beam to the Laue centre; an arrow where that lies outside the picture."""
    rows, cols = view.shape
    target = view.laue_centre()
    inside = 0 <= target[0] < cols and 0 <= target[1] < rows
    end = target
    if not inside:
        step = target - view.centre
        room = [
            ((side - 0.06 * sign * size) - start) / move
            for start, move, size in zip(view.centre, step, (cols, rows), strict=True)
            if abs(move) > 1e-9
            for side, sign in (((size, 1.0) if move > 0 else (0.0, -1.0)),)
        ]
        end = view.centre + max(min(room), 0.0) * step
    if np.hypot(*(end - view.centre)) < 3:
        return
    if inside:
        axes.plot(*np.stack([view.centre, end]).T, color=_CIRCLE, lw=0.9, alpha=0.9, zorder=4)
        return
    axes.annotate(
        "", xy=tuple(end), xytext=tuple(view.centre),
        arrowprops={"arrowstyle": "-|>", "color": _CIRCLE, "lw": 1.3, "alpha": 0.9},
    )  # fmt: skip
    away = float(np.hypot(*(target - view.centre)))
    right = end[0] > view.centre[0]
    axes.annotate(
        f"Laue centre {away:.0f} px away",
        xy=tuple(end), xytext=(-6 if right else 6, 12 if end[1] > view.centre[1] else -16),
        textcoords="offset points", ha="right" if right else "left", color=_CIRCLE, fontsize=9,
        bbox={"boxstyle": "round,pad=0.25", "fc": _GROUND, "ec": "none", "alpha": 0.75},
    )  # fmt: skip


def _draw_scale_bar(axes: "Axes", view: _View) -> None:
    from matplotlib.patches import Rectangle

    rows, cols = view.shape
    span = 0.2 * cols * view.estimate.inv_A_per_px
    choices = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0])
    length = float(choices[np.argmin(np.abs(np.log(choices / span)))])
    width = length / view.estimate.inv_A_per_px
    x, y = 0.035 * cols, 0.955 * rows
    axes.add_patch(
        Rectangle((x - 3, y - 0.055 * rows), width + 6, 0.085 * rows, fc=_GROUND, alpha=0.7)
    )
    axes.add_patch(Rectangle((x, y), width, max(0.006 * rows, 1.0), fc=_INK, ec="none", zorder=7))
    axes.text(
        x + width / 2, y - 0.008 * rows, f"{length:g} 1/Å", color=_INK, ha="center", va="bottom",
        fontsize=10, zorder=7,
    )  # fmt: skip


def _draw_close_up(figure: "Figure", image: Array, view: _View, move: ProposedMove | None) -> None:
    """The neighbourhood of the beam, where a small circle would be lost."""
    half = 1.25 * float(np.abs(view.laue_centre() - view.centre).max())
    if half > 0.2 * min(view.shape):
        return  # large enough to be read in the picture itself
    half = max(half, 9.0)
    axes = figure.add_axes((0.705, 0.030, 0.275, 0.255))
    _draw_pattern(axes, image)
    _draw_fit(axes, view, move, label=False)
    axes.plot(*np.stack([view.centre, view.laue_centre()]).T, color=_CIRCLE, lw=0.9, zorder=4)
    axes.plot(*view.centre, ls="", marker="+", ms=16, mew=1.6, color=_DIRECT, zorder=6)
    wide = half * (0.275 * 12.0) / (0.255 * 8.3)
    axes.set_xlim(view.centre[0] - wide, view.centre[0] + wide)
    axes.set_ylim(view.centre[1] + half, view.centre[1] - half)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_QUIET)
    axes.set_title(
        f"round the beam, {2 * half * view.estimate.inv_A_per_px:.2f} 1/Å high",
        color=_QUIET, fontsize=9, loc="left", pad=3,
    )  # fmt: skip


def _draw_refusal(axes: "Axes", estimate: TiltEstimate) -> None:
    axes.text(
        0.5, 0.965, "NO ANSWER\n" + fill(estimate.reason or "no reason given", 62),
        transform=axes.transAxes, ha="center", va="top", color=_INK, fontsize=12.5,
        linespacing=1.35, zorder=9,
        bbox={"boxstyle": "round,pad=0.6", "fc": "#5a1712", "ec": _REJECTED, "alpha": 0.93},
    )  # fmt: skip


def _write(figure: "Figure", estimate: TiltEstimate, words: Caption) -> None:
    head = " ".join(
        part
        for part in (words.crystal, zone_label(words.zone_uvw) if words.zone_uvw else "")
        if part
    )
    figure.text(0.695, 0.972, words.title, color=_QUIET, fontsize=10, va="top")
    figure.text(
        0.695, 0.945, head or "structure-free", color=_INK, fontsize=15, va="top", weight="bold"
    )
    if estimate.answered:
        sigma_deg = float(np.rad2deg(1e-3 * estimate.sigma_mrad))
        answer = f"{estimate.misorientation_deg:.3f}° ± {sigma_deg:.3f}° off axis"
        figure.text(0.695, 0.900, answer, color=_CIRCLE, fontsize=15, va="top", weight="bold")
    else:
        figure.text(
            0.695, 0.900, "no answer", color=_REJECTED, fontsize=15, va="top", weight="bold"
        )
    figure.text(
        0.695, 0.858, "\n".join(_facts(estimate, words)), color=_INK, fontsize=9.3, va="top",
        family="monospace", linespacing=1.27,
    )  # fmt: skip


def _facts(estimate: TiltEstimate, words: Caption) -> list[str]:
    lines = []
    if estimate.answered:
        lines += [
            f"tilt  x {estimate.tilt_x_mrad:+8.2f} mrad",
            f"      y {estimate.tilt_y_mrad:+8.2f} mrad",
            f"sigma   {estimate.sigma_mrad:8.2f} mrad (68 % radius)",
        ]
        if estimate.mode == "structure" and np.isfinite(estimate.thickness_nm):
            lines.append(f"thick   {estimate.thickness_nm:8.0f} nm (±30 %)")
    lines += [
        f"{estimate.mode}, {_electrons(estimate.electrons_used)} electrons",
        f"camera  {estimate.inv_A_per_px:.5f} 1/Å per px",
    ]
    if estimate.answered and np.isfinite(estimate.explained_fraction):
        lines.append(f"spots explained {100 * estimate.explained_fraction:.0f} %")
    if words.move is not None:
        lines += ["", *_move_lines(words.move)]
    return lines + ([""] if words.notes else []) + [fill(note, 44) for note in words.notes]


def _move_lines(move: ProposedMove) -> list[str]:
    lines = [
        "PROPOSED MOVE" if move.reachable else "BEYOND THE HOLDER: nearest",
        f"alpha {move.alpha_deg - move.change_alpha_deg:+7.2f} → {move.alpha_deg:+7.2f}° "
        f"({move.change_alpha_deg:+.2f})",
        f"beta  {move.beta_deg - move.change_beta_deg:+7.2f} → {move.beta_deg:+7.2f}° "
        f"({move.change_beta_deg:+.2f})",
    ]
    left = float(np.rad2deg(1e-3 * np.hypot(*move.residual_tilt_mrad)))
    sigma = float(np.rad2deg(1e-3 * move.residual_sigma_mrad))
    if move.reachable:
        return [*lines, f"after: within {sigma:.2f}° (68 %)"]
    return [*lines, f"after: {left:.2f}° ± {sigma:.2f}° left"]


def _electrons(count: float) -> str:
    return f"{count:.0f}" if count < 1e4 else f"{count:.2g}".replace("e+0", "e")


def _draw_legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    legend = figure.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.690, 0.305), fontsize=8.2,
        facecolor=_GROUND, labelcolor=_INK, frameon=False, ncols=1, labelspacing=0.3,
        markerscale=0.6, handlelength=1.8,
    )  # fmt: skip
    legend.set_in_layout(False)
