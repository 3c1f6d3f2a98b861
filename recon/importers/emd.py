"""EMD 1.0 and what py4DSTEM writes: a tree of groups, arrays marked by ``emd_group_type``.

An array group holds ``data`` (``datacube`` before EMD 1.0) and ``dim0`` ... with name and units;
py4DSTEM adds a ``calibration`` with pixel sizes. Its axes (Rx, Ry, Qx, Qy) are (scan_y, scan_x,
det_y, det_x) here: x is its row. Pixel sizes are used where their units are known; rotation and
flip are not, because the reconstruction measures them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from recon.errors import DataError
from recon.geometry import wavelength_A
from recon.importers.fields import Layout, plain
from recon.importers.frames import Frames, array_frames

ARRAY_NAMES = ("data", "datacube")
STEP_UNITS_A = {"a": 1.0, "å": 1.0, "angstrom": 1.0, "angstroms": 1.0, "nm": 10.0, "[n_m]": 10.0}
INVERSE_UNITS_A = {"a^-1": 1.0, "å^-1": 1.0, "1/å": 1.0, "1/a": 1.0, "nm^-1": 0.1, "1/nm": 0.1,
                   "[n_m^-1]": 0.1}  # fmt: skip


def find_datacubes(file: h5py.File) -> list[str]:
    """Paths of all four-dimensional arrays in groups that say they are arrays of an EMD."""
    found: list[str] = []

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(node, h5py.Group) or "emd_group_type" not in node.attrs:
            return
        if plain(node.attrs["emd_group_type"]) not in ("array", 1, "1"):
            return
        held = [node[array] for array in ARRAY_NAMES if isinstance(node.get(array), h5py.Dataset)]
        found.extend(array.name for array in held if array.ndim == 4)

    file.visititems(visit)
    return found


def emd_frames(
    file: h5py.File,
    cubes: list[str],
    layout: Layout,
    path: Path,
    fields: Mapping[str, object],
) -> Frames:
    """Frames of the one datacube of a file, with what its calibration says.

    Raises
    ------
    DataError
        Several datacubes and no ``dataset`` that names one.
    """
    if len(cubes) > 1:
        raise DataError(
            f"{path.name} holds {len(cubes)} datacubes ({', '.join(cubes)}); name one with "
            f"`dataset: {cubes[0]}` in {path.with_suffix('.yaml').name}"
        )
    cube = file[cubes[0]]
    calibration = _calibration(file, cubes[0])
    return replace(
        array_frames(cube, layout, path.name),
        found=_found(cube, calibration, fields),
        raw_headers={f"calibration {key}": str(value) for key, value in calibration.items()},
    )


def _calibration(file: h5py.File, cube: str) -> dict[str, object]:
    """The calibration nearest to the array: in its group, or in its root's."""
    group = file[cube].parent
    while group.name != "/":
        place = group.get("metadatabundle/calibration")
        if isinstance(place, h5py.Group):
            items = {key: node for key, node in place.items() if isinstance(node, h5py.Dataset)}
            return {key: plain(node[()]) for key, node in items.items()}
        group = group.parent
    return {}


def _dimension(cube: h5py.Dataset, axis: int) -> tuple[float, str]:
    """Spacing and units of an axis, (0, '') where unknown; EMD 0.x counts its axes from one."""
    group = cube.parent
    node = group.get(f"dim{axis}") if "dim0" in group else group.get(f"dim{axis + 1}")
    if not isinstance(node, h5py.Dataset) or node.size < 2:
        return 0.0, ""
    values = np.asarray(node[:2], np.float64)
    return float(abs(values[1] - values[0])), str(plain(node.attrs.get("units", "")))


def _found(
    cube: h5py.Dataset, calibration: Mapping[str, object], fields: Mapping[str, object]
) -> dict[str, object]:
    found: dict[str, object] = {}
    step, unit = _size(calibration, "R", _dimension(cube, 0))
    if step > 0 and unit in STEP_UNITS_A:
        found["scan_step_A"] = step * STEP_UNITS_A[unit]
    size, unit = _size(calibration, "Q", _dimension(cube, 2))
    energy = plain(fields.get("energy_eV"))
    if size > 0 and unit == "mrad":
        found["k_pixel_mrad"] = size
    elif size > 0 and unit in INVERSE_UNITS_A and isinstance(energy, int | float) and energy > 5e3:
        found["k_pixel_mrad"] = 1e3 * size * INVERSE_UNITS_A[unit] * wavelength_A(energy / 1e3)
    for name in ("convergence_semiangle_mrad", "probe_convergence_semiangle_mrad"):
        if isinstance(calibration.get(name), int | float):
            found["semiangle_mrad"] = calibration[name]
    return found


def _size(
    calibration: Mapping[str, object], space: str, otherwise: tuple[float, str]
) -> tuple[float, str]:
    size, unit = calibration.get(f"{space}_pixel_size"), calibration.get(f"{space}_pixel_units")
    if isinstance(size, int | float) and isinstance(unit, str) and unit != "pixels":
        return float(size), unit.lower()
    return otherwise[0], otherwise[1].lower()
