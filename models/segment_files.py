"""``lodestem segment`` on files: images in, ``regions.h5``, ``regions.json`` and overlays out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from models.classes import CLASS_NAMES
from models.frames import ImageError
from models.image_files import FieldImage, ImageFlags, read_images
from models.network import Runtime
from models.overlay import draw_overlay
from models.picker import RegionPicker, RegionResult


def segment_files(
    inputs: Sequence[Path],
    out_dir: Path | None = None,
    *,
    flags: ImageFlags | None = None,
    weights: Path | None = None,
    runtime: Runtime = "auto",
    overlay: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Segment every field of the files.

    Parameters
    ----------
    inputs
        Image files and image stacks.
    out_dir
        Receives ``regions.h5`` (``/labels/<id>``, ``/probability/<id>``, ``/thickness_mfp/<id>``),
        ``regions.json`` (per id, see the return value) and, if wanted, ``<id>.png``.
        None: nothing is written.
    flags
        For what the files do not say.
    weights
        Instead of the shipped ones.
    runtime
        What runs the network: "onnx", "torch", or "auto" (onnxruntime where it is installed).
    overlay
        Draw a PNG per field (needs ``out_dir``).
    progress
        Called with fields done and fields in all.

    Returns
    -------
    Per id: ``picks`` (ranked; ``y_px``, ``x_px``, ``radius_nm``, ``score`` ...), ``abstained``,
    ``reason``, ``electrons_per_px``, ``electrons_per_px_wanted``, ``out_of_distribution``,
    ``shape``, ``pixel_size_nm``, ``mode`` and ``area_share`` of each class.

    Raises
    ------
    ImageError
        An input cannot be used; fields before it are already written.
    WeightsError
        The weights cannot be used; nothing was written.
    RuntimeMissingError
        What should run the network is not installed; nothing was written.
    """
    picker = RegionPicker.load(weights, runtime)
    fields = read_images(inputs, flags)
    regions: dict[str, Any] = {}
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / "regions.h5").unlink(missing_ok=True)
    for done, field in enumerate(fields, start=1):
        result = _pick(picker, field)
        regions[field.id] = as_record(field, result)
        if out_dir is not None:
            _write_maps(out_dir / "regions.h5", field, result)
            (out_dir / "regions.json").write_text(json.dumps(regions, indent=1) + "\n")
            if overlay:
                name = re.sub(r"[^\w.-]+", "_", field.id) + ".png"
                draw_overlay(
                    out_dir / name, field.frames, result, pixel_size_nm=field.pixel_size_nm
                )
        if progress is not None:
            progress(done, len(fields))
    return regions


def as_record(field: FieldImage, result: RegionResult) -> dict[str, Any]:
    """What ``regions.json`` says of one field; plain numbers and texts."""
    shares = np.bincount(result.labels.ravel(), minlength=len(CLASS_NAMES)) / result.labels.size
    return {
        "picks": [asdict(p) for p in result.picks],
        "abstained": result.abstained,
        "reason": result.reason,
        "electrons_per_px": result.electrons_per_px,
        "electrons_per_px_wanted": result.electrons_per_px_wanted,
        "out_of_distribution": result.out_of_distribution,
        "unfamiliarity": result.unfamiliarity,
        "drift_px": [list(shift) for shift in result.drift_px],
        "mode": field.mode,
        "pixel_size_nm": field.pixel_size_nm,
        "shape": list(result.labels.shape),
        "area_share": {n: float(s) for n, s in zip(CLASS_NAMES, shares, strict=True)},
    }


def _pick(picker: RegionPicker, field: FieldImage) -> RegionResult:
    try:
        return picker.pick(
            field.frames,
            mode=field.mode,
            pixel_size_nm=field.pixel_size_nm,
            gain=field.gain,
            offset=field.offset,
            incident_electrons_per_px=field.incident_electrons_per_px,
        )
    except ImageError as problem:
        raise ImageError(f"image {field.id!r}: {problem}") from problem


def _write_maps(path: Path, field: FieldImage, result: RegionResult) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["classes"] = list(CLASS_NAMES)
        maps = {
            "labels": result.labels,
            "probability": result.probability,
            "thickness_mfp": result.thickness_mfp,
        }
        for group, values in maps.items():
            dataset = file.create_dataset(
                f"{group}/{field.id}", data=values, compression="gzip", compression_opts=1
            )
            dataset.attrs["pixel_size_nm"] = field.pixel_size_nm
