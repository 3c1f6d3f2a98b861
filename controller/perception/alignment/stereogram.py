"""The stereogram: which zones the holder reaches, and where the beam stands now.

Stereographic projection of directions in the *holder*, seen along the beam from the source, beta to
the right and alpha upwards.  A point is the direction that lies along the beam when the goniometer
reads the (alpha, beta) of the curved grid; r = 2 tan(theta / 2), so angles between grid lines are
true and a circle about the beam stays a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.perception.alignment.moves import HolderReach
from controller.perception.alignment.zones import PlacedZone, zone_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_GROUND, _INK, _QUIET, _GRID = "#15181c", "#eef1f4", "#8d97a1", "#3a444e"
_REACH, _ZONE, _FAR, _HERE = "#35d07f", "#ffd23f", "#76808a", "#4dd9ff"
_MOST_LABELS = 60


@dataclass(frozen=True)
class Stereogram:
    """Everything that the picture shows."""

    zones: tuple[PlacedZone, ...]
    alpha_deg: float
    beta_deg: float
    """The goniometer now."""
    reach: HolderReach
    target: tuple[float, float] | None = None
    """(alpha, beta) of a proposed move."""
    title: str = ""


def project(alpha_deg: ArrayLike, beta_deg: ArrayLike) -> Array:
    """(beta to the right, alpha upwards) position of the beam direction at a reading, (..., 2).

    In units of the radius of the sphere, 0 at alpha = beta = 0.
    """
    alpha, beta = np.broadcast_arrays(np.deg2rad(alpha_deg), np.deg2rad(beta_deg))
    # third row of Rx(alpha) Ry(beta): the beam's direction in the holder
    x, y, z = -np.cos(alpha) * np.sin(beta), np.sin(alpha), np.cos(alpha) * np.cos(beta)
    scale = 2.0 / (1.0 + z)
    return np.stack([-x * scale, y * scale], axis=-1)


def draw_stereogram(content: Stereogram) -> "Figure":
    """Draw the reach of the holder, the zones in and about it, and the present position."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.6, 7.6), dpi=100, facecolor=_GROUND)
    axes = figure.add_axes((0.045, 0.085, 0.60, 0.835))
    axes.set_facecolor(_GROUND)
    axes.set_aspect("equal")
    window = _window(content)
    _draw_grid(axes, window)
    _draw_reach(axes, content.reach)
    _draw_zones(axes, content)
    _draw_here(axes, content)
    corners = project([window[0], window[1], 0, 0], [0, 0, window[2], window[3]])
    axes.set_ylim(corners[0, 1], corners[1, 1])
    axes.set_xlim(corners[2, 0], corners[3, 0])
    axes.set_axis_off()
    reachable = sum(z.reachable for z in content.zones)
    figure.text(0.03, 0.965, content.title, color=_INK, fontsize=13, weight="bold", va="top")
    figure.text(
        0.03, 0.03,
        f"{reachable} zones within reach (alpha {_range(content.reach.alpha_deg)}, "
        f"beta {_range(content.reach.beta_deg)}); seen along the beam, beta →, alpha ↑",
        color=_QUIET, fontsize=9.5,
    )  # fmt: skip
    figure.text(
        0.675, 0.915, zone_table(content.zones), color=_INK, fontsize=9, va="top",
        family="monospace", linespacing=1.4,
    )  # fmt: skip
    return figure


def zone_table(zones: Sequence[PlacedZone], most: int = 26) -> str:
    """The reachable zones as lines of text, nearest to the present beam first."""
    reachable = [z for z in zones if z.reachable]
    lines = ["zone        alpha    beta    off axis"]
    lines += [
        f"{_plain(z.uvw):10s} {z.alpha_deg:+7.2f}° {z.beta_deg:+7.2f}° {z.misorientation_deg:6.2f}°"
        for z in reachable[:most]
    ]
    if len(reachable) > most:
        lines.append(f"and {len(reachable) - most} more")
    return "\n".join(lines if reachable else ["no low-index zone within reach"])


def _plain(uvw: tuple[int, int, int]) -> str:
    return "[" + " ".join(str(i) for i in uvw) + "]"


def save_stereogram(path: Path, content: Stereogram) -> None:
    """Draw the stereogram and write it; the suffix chooses SVG, PNG or PDF.

    Raises
    ------
    ValueError
        Another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"{path}: a stereogram is written as .svg, .png or .pdf, not '{suffix}'")
    draw_stereogram(content).savefig(path, format=suffix[1:], metadata=_reproducible(suffix))


def _reproducible(suffix: str) -> dict[str, None] | None:
    return {"Date": None} if suffix == ".svg" else None


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}°"


def _window(content: Stereogram) -> tuple[float, float, float, float]:
    """(alpha low, high, beta low, high) shown: the reach with a margin, at least 20 deg wide."""
    ends = []
    for (low, high), here in (
        (content.reach.alpha_deg, content.alpha_deg),
        (content.reach.beta_deg, content.beta_deg),
    ):
        low, high = min(low, here), max(high, here)
        room = max(0.16 * (high - low), 0.5 * (20.0 - (high - low)), 2.0)
        ends += [max(low - room, -88.0), min(high + room, 88.0)]
    return ends[0], ends[1], ends[2], ends[3]


def _draw_grid(axes: "Axes", window: tuple[float, float, float, float]) -> None:
    a_low, a_high, b_low, b_high = window
    step = 5.0 if max(a_high - a_low, b_high - b_low) < 45 else 10.0
    fine_a, fine_b = np.linspace(a_low, a_high, 90), np.linspace(b_low, b_high, 90)
    for value in np.arange(np.ceil(a_low / step), np.floor(a_high / step) + 1) * step:
        line = project(value, fine_b)
        axes.plot(*line.T, color=_GRID, lw=0.8, zorder=1)
        axes.annotate(
            f"{value:g}°" if value else "α 0°", tuple(line[0]), xytext=(-3, 0), ha="right",
            va="center", textcoords="offset points", color=_QUIET, fontsize=8,
            annotation_clip=False,
        )  # fmt: skip
    for value in np.arange(np.ceil(b_low / step), np.floor(b_high / step) + 1) * step:
        line = project(fine_a, value)
        axes.plot(*line.T, color=_GRID, lw=0.8, zorder=1)
        axes.annotate(
            f"{value:g}°" if value else "β 0°", tuple(line[0]), xytext=(0, -4), ha="center",
            va="top", textcoords="offset points", color=_QUIET, fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _draw_reach(axes: "Axes", reach: HolderReach) -> None:
    from matplotlib.patches import Polygon

    (a0, a1), (b0, b1) = reach.alpha_deg, reach.beta_deg
    a, b = np.linspace(a0, a1, 60), np.linspace(b0, b1, 60)
    edge = np.concatenate(
        [project(a0, b), project(a, b1), project(a1, b[::-1]), project(a[::-1], b0)]
    )
    axes.add_patch(Polygon(edge, closed=True, fc=_REACH, ec="none", alpha=0.07, zorder=0))
    axes.add_patch(Polygon(edge, closed=True, fill=False, ec=_REACH, lw=1.4, zorder=2))


def _draw_zones(axes: "Axes", content: Stereogram) -> None:
    if not content.zones:
        return
    shortest = min(z.repeat_A for z in content.zones)
    by_weight = sorted(content.zones, key=lambda z: (z.repeat_A, not z.reachable))
    labelled = {z.uvw for z in by_weight[:_MOST_LABELS]}
    for zone in reversed(by_weight):
        size = 10.0 * float(np.clip(shortest / zone.repeat_A, 0.22, 1.0))
        colour = _ZONE if zone.reachable else _FAR
        at = project(zone.alpha_deg, zone.beta_deg)
        axes.plot(*at, ls="", marker="o", ms=size, color=colour, mec=_GROUND, mew=0.6, zorder=4)
        if zone.uvw in labelled:
            axes.annotate(
                zone_label(zone.uvw), tuple(at), xytext=(0, 3 + 0.5 * size), ha="center",
                textcoords="offset points", color=colour, fontsize=6.5 + 0.35 * size, zorder=5,
                clip_on=True,
            )  # fmt: skip


def _draw_here(axes: "Axes", content: Stereogram) -> None:
    here = project(content.alpha_deg, content.beta_deg)
    axes.plot(*here, ls="", marker="+", ms=20, mew=2.0, color=_HERE, zorder=7)
    axes.annotate(
        f"now α {content.alpha_deg:+.2f}° β {content.beta_deg:+.2f}°", tuple(here),
        xytext=(12, -14), textcoords="offset points", color=_HERE, fontsize=9.5, zorder=7,
        bbox={"boxstyle": "round,pad=0.2", "fc": _GROUND, "ec": "none", "alpha": 0.8},
    )  # fmt: skip
    if content.target is None:
        return
    share = np.linspace(0, 1, 40)
    way = project(
        content.alpha_deg + share * (content.target[0] - content.alpha_deg),
        content.beta_deg + share * (content.target[1] - content.beta_deg),
    )
    axes.plot(*way.T, color=_HERE, lw=1.2, ls=(0, (4, 3)), zorder=6)
    axes.plot(*way[-1], ls="", marker="o", ms=15, mfc="none", mec=_HERE, mew=1.6, zorder=6)
