"""One self-contained HTML page: pictures, numbers, warnings."""

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from recon.result import Reconstruction

CAPTIONS = {
    "phase": "Projected phase over the scanned field",
    "power_spectrum": "Power spectrum; circles mark spots that noise would not make",
    "frc": "Fourier ring correlation of two half-dose reconstructions",
    "loss": "Likelihood of fitted and held-out electrons",
    "slices": "Slices, entrance first",
    "probe": "Probe",
    "parallax": "Tilt-corrected bright field, the model-free first image",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #2a6; padding-left: 0.8rem; }
.warning { border-left: 4px solid #c60; padding-left: 0.8rem; margin: 0.4rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; } figcaption { color: #555; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 0.15rem 1.2rem 0.15rem 0; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write_summary_page(result: Reconstruction, pictures: dict[str, Path], path: Path) -> None:
    """Write the page; every picture is embedded, nothing is loaded from elsewhere."""
    title = escape(result.header.sample or Path(result.source).name or "Reconstruction")
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in result.warnings)
    order = [name for name in CAPTIONS if name in pictures]
    figures = "".join(_figure(name, pictures[name]) for name in order)
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(result.header.start_time)} &middot; {escape(Path(result.source).name)}</p>"
        f'<p class="verdict">{escape(result.verdict)}</p>{warnings}'
        f'<div class="pictures">{figures}</div>'
        f"<h2>Resolution</h2>{_resolution_table(result)}"
        f"<h2>Calibration</h2>{_calibration_table(result)}"
        f"<h2>Run</h2>{_run_table(result)}</body></html>\n",
        encoding="utf-8",
    )


def _figure(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
    )


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "&ndash;"


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    cells = "".join(
        "<tr>"
        + f"<td>{row[0]}</td>"
        + "".join(f'<td class="n">{c}</td>' for c in row[1:])
        + "</tr>"
        for row in rows
    )
    heading = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    return f"<table>{heading}{cells}</table>"


def _resolution_table(result: Reconstruction) -> str:
    r = result.resolution
    return _table(
        [
            ("finest lattice spot (Å)", _number(r.lattice_limit_A)),
            ("FRC of 0.5 against the truth, from half sets (Å)", _number(r.frc_half_A)),
            ("half-set FRC at 0.143, as it is (Å)", _number(r.frc_0143_A)),
            ("half-set FRC at 1/2 (Å)", _number(r.frc_at_half_A)),
            ("half-set FRC, half-bit curve (Å)", _number(r.frc_half_bit_A)),
            (
                "part of the image's claims that the electrons confirm",
                _number(result.explained_share),
            ),
            ("electrons", f"{r.effective_electrons:.0f}"),
        ]
    )


def _calibration_table(result: Reconstruction) -> str:
    rows = [
        (escape(name), _number(m.value, 3), _number(m.sigma, 3), m.source)
        for name, m in result.calibration.measured().items()
    ]
    return _table(rows, ("", "value", "sigma", "source"))


def _run_table(result: Reconstruction) -> str:
    header = result.header
    return _table(
        [
            ("scan", f"{header.scan_shape[0]} &times; {header.scan_shape[1]}"),
            ("step (Å)", _number(header.scan_step_A, 3)),
            ("passes, best", f"{result.passes}, {result.best_pass}"),
            ("stopped", escape(result.stopped_because)),
            ("elapsed (s)", _number(result.elapsed_s, 1)),
            ("peak memory (MB)", _number(result.peak_memory_MB, 0)),
            ("input SHA-256", escape(result.source_sha256 or "-")),
        ]
    )
