"""A comparison for people: one picture, and one page with the tables."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recon.compare.comparing import Comparison
from recon.summary_page import STYLE

DPI = 110


def write_comparison(result: Comparison, folder: Path) -> dict[str, str]:
    """Write ``comparison.png`` and ``comparison.html``; return name -> path."""
    picture, page = folder / "comparison.png", folder / "comparison.html"
    figure = comparison_figure(result)
    FigureCanvasAgg(figure)
    figure.savefig(picture, dpi=DPI)
    page.write_text(_page(result, picture), encoding="utf-8")
    paths = {"picture": picture, "page": page, "numbers": folder / "comparison.json"}
    return {name: str(path) for name, path in paths.items()}


def comparison_figure(result: Comparison) -> Figure:
    """Both phases on one scale, their difference, and the ring correlation between them."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    a, b = result.images
    low, high = np.percentile(result.images, (0.5, 99.8))
    span = float(np.percentile(np.abs(b - a), 99.5))
    extent = (0.0, a.shape[1] * result.pixel_size_A, a.shape[0] * result.pixel_size_A, 0.0)
    panels = (
        (result.first.name, a, "inferno", low, high),
        (f"{result.second.name}, laid over", b, "inferno", low, high),
        ("second less first", b - a, "RdBu_r", -span, span),
    )
    for number, (title, image, colours, least, most) in enumerate(panels, 1):
        axes = figure.add_subplot(2, 2, number)
        shown = axes.imshow(image, cmap=colours, vmin=least, vmax=most, extent=extent)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("Å")
        figure.colorbar(shown, ax=axes, label="rad", shrink=0.8)
    axes = figure.add_subplot(2, 2, 4)
    axes.plot(result.frc.frequency_A, result.frc.correlation, lw=1.5)
    for level in (0.5, 0.143):
        axes.axhline(level, color="gray", ls="--", lw=1)
    axes.set_ylim(-0.15, 1.05)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("ring correlation of the two")
    axes.set_title(f"correlation {result.correlation:.3f}", fontsize=10)
    return figure


def _page(result: Comparison, picture: Path) -> str:
    a, b = escape(result.first.name), escape(result.second.name)
    data = base64.b64encode(picture.read_bytes()).decode()
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in result.warnings)
    calibration = [
        (
            row["name"], _with_sigma(row["first"], row["first_sigma"]),
            _with_sigma(row["second"], row["second_sigma"]), f"{row['difference']:+.4g}",
            "-" if row["sigmas"] is None else f"{row['sigmas']:+.1f}",
        )
        for row in result.calibration_rows()
    ]  # fmt: skip
    resolution = [
        (row["name"], _number(row["first"]), _number(row["second"]))
        for row in result.resolution_rows()
    ]
    settings = [
        (f"{row['kind']}: {row['name']}", str(row["first"]), str(row["second"]))
        for row in result.setting_rows()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{a} and {b}</title>'
        f"<style>{STYLE}</style></head><body><h1>{a} and {b}</h1>"
        f'<p class="verdict">{escape(result.verdict())}</p>{warnings}'
        f'<figure><img alt="comparison" src="data:image/png;base64,{data}"></figure>'
        f"<h2>Resolution, as each states it</h2>{_table(('', a, b), resolution)}"
        f"<h2>Calibration</h2>"
        f"{_table(('', a, b, 'difference', 'in sigmas'), calibration)}"
        f"<h2>Settings and header that differ</h2>{_table(('', a, b), settings)}"
        f"<h2>What each says</h2><p>{a}: {escape(result.first.verdict)}</p>"
        f"<p>{b}: {escape(result.second.verdict)}</p></body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>none</p>"
    heading = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>"
        + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{heading}</tr>{body}</table>"


def _number(value: Any) -> str:  # noqa: ANN401
    return "-" if value is None else f"{value:.4g}"


def _with_sigma(value: float, sigma: float | None) -> str:
    return f"{value:.4g}" if sigma is None else f"{value:.4g} ± {sigma:.2g}"
