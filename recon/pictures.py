"""The pictures a person looks at first: phase, power spectrum, slices, probe, curves, FRC.

Figures are made with the object interface of Matplotlib and the Agg canvas: no window, no
global state, safe in threads.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

from recon.metrics import windowed
from recon.result import Reconstruction

RING_SPACINGS_A = (4.0, 2.0, 1.5, 1.0, 0.8, 0.6)
DPI = 110


def write_pictures(result: Reconstruction, out: Path) -> dict[str, Path]:
    """Write all PNGs into ``out``; returns title -> path."""
    figures = {
        "phase": phase_figure(result),
        "power_spectrum": spectrum_figure(result),
        "slices": slices_figure(result),
        "parallax": parallax_figure(result),
    }
    if len(result.probe):
        figures["probe"] = probe_figure(result)
    if result.curves.fitted:
        figures["loss"] = loss_figure(result)
    if result.frc is not None:
        figures["frc"] = frc_figure(result)
    paths = {}
    for name, figure in figures.items():
        paths[name] = out / f"{name}.png"
        FigureCanvasAgg(figure)
        figure.savefig(paths[name], dpi=DPI)
    return paths


def _square_figure(size_in: float = 6.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(size_in, size_in), layout="constrained")
    return figure, figure.add_subplot()


def _scale_bar(axes: Axes, shape: tuple[int, int], pixel_A: float) -> None:
    width_A = shape[1] * pixel_A
    length_A = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n <= width_A / 4), default=1)
    x, y = 0.05 * shape[1], 0.94 * shape[0]
    height = max(0.012 * shape[0], 1.0)
    length_px = length_A / pixel_A
    axes.add_patch(
        Rectangle((x, y), length_px, height, facecolor="white", edgecolor="black", lw=0.5)
    )
    label = f"{length_A / 10:g} nm" if length_A >= 10 else f"{length_A} Å"
    axes.text(x + length_px / 2, y - height, label, color="white", ha="center", va="bottom",
              fontsize=11, path_effects=_outline())  # fmt: skip


def _outline() -> list[object]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="black")]


def phase_figure(result: Reconstruction) -> Figure:
    """Projected phase over the scanned field."""
    figure, axes = _square_figure()
    image = result.phase_rad[result.scanned_field()]
    low, high = np.percentile(image, (0.5, 99.8))
    shown = axes.imshow(image, cmap="inferno", vmin=low, vmax=high, interpolation="bicubic")
    _scale_bar(axes, image.shape, result.pixel_size_A)
    axes.set_axis_off()
    axes.set_title(_title(result), fontsize=10)
    figure.colorbar(shown, ax=axes, label="projected phase (rad)", shrink=0.8)
    return figure


def _title(result: Reconstruction) -> str:
    header = result.header
    dose = header.fluence_e_per_A2
    parts = [header.sample, f"{dose:.0f} e/Å²" if dose else ""]
    limit = result.resolution.lattice_limit_A
    if np.isfinite(limit):
        parts.append(f"lattice to {limit:.2f} Å")
    return "   ".join(part for part in parts if part)


def spectrum_figure(result: Reconstruction) -> Figure:
    """Log power spectrum of the scanned field with rings in Å and the spots found."""
    figure, axes = _square_figure()
    image = result.phase_rad[result.scanned_field()]
    power = np.fft.fftshift(np.abs(np.fft.fft2(windowed(image.astype(np.float64)))) ** 2)
    shown = np.log10(power + 1e-12)
    edge = 0.5 / result.pixel_size_A
    low, high = np.percentile(shown, (30, 99.97))
    extent = (-edge, edge, edge, -edge)
    axes.imshow(shown, cmap="magma", extent=extent, vmin=low, vmax=high, interpolation="nearest")
    for spacing in RING_SPACINGS_A:
        if 1 / spacing < edge:
            ring = Circle((0, 0), 1 / spacing, fill=False, color="white", lw=0.7, ls=":")
            axes.add_patch(ring)
            axes.text(0, -1 / spacing, f"{spacing:g} Å", color="white", fontsize=8,
                      ha="center", va="bottom", path_effects=_outline())  # fmt: skip
    for spot in result.spots:
        for sign in (1, -1):
            centre = (sign * spot.q_A[1], sign * spot.q_A[0])
            axes.add_patch(Circle(centre, 0.025, fill=False, color="cyan", lw=0.5))
    view = min(edge, _view_radius(result))
    axes.set_xlim(-view, view)
    axes.set_ylim(view, -view)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_title(f"power spectrum, {len(result.spots)} spots", fontsize=10)
    return figure


def _view_radius(result: Reconstruction) -> float:
    finest = max((1 / spot.spacing_A for spot in result.spots), default=0.5)
    return max(1.35 * finest, 0.6)


def slices_figure(result: Reconstruction) -> Figure:
    """Every slice over the scanned field, entrance first."""
    region = result.scanned_field()
    slices = result.slices_phase_rad[(slice(None), *region)]
    columns = min(len(slices), 4)
    rows = -(-len(slices) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    low, high = np.percentile(slices, (0.5, 99.8))
    slab = result.calibration.thickness_A.value / len(slices) / 10
    for number, image in enumerate(slices):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, cmap="inferno", vmin=low, vmax=high)
        axes.set_title(f"{number * slab:.1f} to {(number + 1) * slab:.1f} nm", fontsize=9)
        axes.set_axis_off()
    return figure


def parallax_figure(result: Reconstruction) -> Figure:
    """The model-free first image."""
    figure, axes = _square_figure()
    image = result.parallax_phase_rad
    low, high = np.percentile(image, (1, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bicubic")
    _scale_bar(axes, image.shape, result.header.scan_step_A / 2)
    axes.set_axis_off()
    axes.set_title("tilt-corrected bright field (parallax)", fontsize=10)
    return figure


def probe_figure(result: Reconstruction) -> Figure:
    """Modulus of the probe on the entrance surface and its aperture."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    probe = result.probe[0]
    n = len(probe)
    half = n * result.pixel_size_A / 2
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe)))
    panels: list[tuple[str, NDArray[np.float64]]] = [
        ("probe at the entrance surface (modulus)", np.abs(probe).astype(np.float64)),
        (
            "aperture (phase)",
            np.angle(spectrum) * (np.abs(spectrum) > 1e-6 * np.abs(spectrum).max()),
        ),
    ]
    for index, (title, image) in enumerate(panels):
        axes = figure.add_subplot(1, 2, index + 1)
        axes.imshow(image, cmap=("viridis", "twilight")[index],
                    extent=(-half, half, half, -half) if index == 0 else None)  # fmt: skip
        axes.set_title(title, fontsize=9)
        if index:
            axes.set_axis_off()
        else:
            axes.set_xlabel("Å")
    return figure


def loss_figure(result: Reconstruction) -> Figure:
    """Likelihood of fitted and held-out electrons by pass, each relative to its last value."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    passes = np.arange(1, len(result.curves.fitted) + 1)
    for values, label in (
        (result.curves.fitted, "fitted electrons"),
        (result.curves.held_out, "held-out electrons"),
    ):
        if values:
            axes.plot(passes, np.array(values) - min(values), "o-", label=label, ms=3)
    axes.axvline(result.best_pass, color="gray", ls="--", lw=1)
    axes.set_xlabel("pass")
    axes.set_ylabel("nats per electron above the lowest")
    axes.set_title(f"stopped: {result.stopped_because}", fontsize=9)
    axes.legend(frameon=False)
    return figure


def frc_figure(result: Reconstruction) -> Figure:
    """Ring correlation of the half sets with its thresholds."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if result.frc is not None:
        q = result.frc.frequency_A
        axes.plot(q, result.frc.correlation, lw=1.5, label="two half sets")
        axes.plot(q, result.frc.half_bit_threshold(), lw=1, ls=":", color="gray", label="half bit")
    axes.axhline(0.143, color="gray", ls="--", lw=1, label="0.143")
    if np.isfinite(result.resolution.frc_half_A):
        limit = 1 / result.resolution.frc_half_A
        axes.axvline(limit, color="C3", lw=1, label="0.5 against the truth")
    axes.set_ylim(-0.15, 1.05)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("Fourier ring correlation")
    axes.set_title(f"FRC resolution {result.resolution.frc_half_A:.2f} Å", fontsize=9)
    axes.legend(frameon=False)
    return figure
