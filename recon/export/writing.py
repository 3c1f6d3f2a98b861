"""One door for the command line: which formats there are, and one call for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from recon.dataset import Dataset4D
from recon.export.ptyrad import export_ptyrad
from recon.export.py4dstem import export_py4dstem
from recon.result import Reconstruction

ExportFormat = Literal["ptyrad", "py4dstem"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
WRITERS: dict[ExportFormat, Callable[[Dataset4D, Reconstruction, Path], dict[str, Path]]] = {
    "ptyrad": export_ptyrad,
    "py4dstem": export_py4dstem,
}


def export_result(
    dataset: Dataset4D, result: Reconstruction, formats: tuple[ExportFormat, ...], out: Path
) -> dict[str, str]:
    """Write each format into a folder of its name below ``out``; return name -> path."""
    written: dict[str, str] = {}
    for name in formats:
        paths = WRITERS[name](dataset, result, out / name)
        written |= {f"{name}_{what}": str(path) for what, path in paths.items()}
    return written
