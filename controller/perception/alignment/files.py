"""Patterns from files: images, and pattern stacks in HDF5.

A stack holds ``/patterns/<id>`` (2-D counts) with the attributes ``energy_eV``,
``inv_A_per_px``, and optionally ``beam_stop``, ``structure`` (the name of a CIF text in
``/cif/<name>``), ``target_zone_uvw``, and the goniometer's ``alpha_deg`` and ``beta_deg``.
Images (TIFF, PNG, MRC, NPY) bring counts only; calibration comes as arguments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.estimate import estimate_tilt
from controller.perception.alignment.findings import Findings, caption, find_more, stereogram
from controller.perception.alignment.geometry import HolderFrame
from controller.perception.alignment.moves import Goniometer, HolderReach
from controller.perception.alignment.orientation_file import write_orientation
from controller.perception.alignment.pattern import PatternError
from controller.perception.alignment.result import TiltEstimate
from controller.perception.alignment.structure import CrystalStructure, structure_from_cif

if TYPE_CHECKING:
    import h5py

Array = NDArray[np.float64]

_IMAGES = (".tif", ".tiff", ".png", ".mrc", ".mrcs", ".npy")
_STACKS = (".h5", ".hdf5", ".nxs")


class AlignmentInputError(ValueError):
    """An input file or its calibration cannot be used."""


@dataclass(frozen=True)
class Calibration:
    """What the flags of the command give; wins over the attributes of a stack."""

    energy_keV: float | None = None
    inv_A_per_px: float | None = None
    structure: CrystalStructure | None = None
    target_zone_uvw: tuple[int, int, int] | None = None
    beam_stop: bool | None = None


@dataclass(frozen=True)
class PatternInput:
    """One pattern with everything needed to measure it."""

    id: str
    counts: Array
    energy_keV: float
    inv_A_per_px: float
    beam_stop: bool = False
    structure: CrystalStructure | None = None
    target_zone_uvw: tuple[int, int, int] | None = None
    pose_deg: tuple[float, float] | None = None
    """(alpha, beta) of the goniometer, where the file says it."""


@dataclass(frozen=True)
class StageGiven:
    """What is known about the holder: turns a tilt into a move and zones into readings."""

    frame: HolderFrame
    pose_deg: tuple[float, float] | None = None
    """(alpha, beta); wins over the attributes of a stack."""
    reach: HolderReach = field(default_factory=HolderReach)
    sigma_deg: float = 0.05
    azimuth_sigma_deg: float = 1.0

    def goniometer(self, pattern: PatternInput) -> Goniometer | None:
        """The goniometer of one pattern; None where its reading is not known."""
        pose = self.pose_deg or pattern.pose_deg
        if pose is None:
            return None
        return Goniometer(
            pose[0], pose[1], self.frame, self.reach, self.sigma_deg, self.azimuth_sigma_deg
        )


@dataclass(frozen=True)
class Pictures:
    """Where to write what goes beside the JSON; with several patterns the id joins the name."""

    overlay: Path | None = None
    stereogram: Path | None = None
    orientation: Path | None = None


def read_patterns(path: Path, given: Calibration) -> Iterator[PatternInput]:
    """Yield the patterns of one file, in the order of the file.

    Raises
    ------
    AlignmentInputError
        The file is missing, of an unknown kind, or lacks its calibration.
    """
    if not path.is_file():
        raise AlignmentInputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in _STACKS:
        yield from _read_stack(path, given)
    elif suffix in _IMAGES:
        yield _image(path, given)
    else:
        raise AlignmentInputError(
            f"{path}: unknown kind '{suffix}'; expected an image "
            f"({', '.join(_IMAGES)}) or a pattern stack ({', '.join(_STACKS)})"
        )


def measure(pattern: PatternInput) -> TiltEstimate:
    """Estimate the tilt of one pattern as read from a file."""
    return estimate_tilt(
        pattern.counts,
        energy_keV=pattern.energy_keV,
        inv_A_per_px=pattern.inv_A_per_px,
        structure=pattern.structure,
        target_zone_uvw=pattern.target_zone_uvw,
        beam_stop=pattern.beam_stop,
    )


def align_files(
    paths: Sequence[Path],
    given: Calibration | None = None,
    *,
    overlay: Path | None = None,
    stage: StageGiven | None = None,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Measure every pattern of every file: the ``result`` of ``lodestem align --json``.

    Parameters
    ----------
    paths
        Images and pattern stacks.
    given
        Calibration from the command line.
    overlay
        Where to draw the patterns with their circles; short for ``pictures``.
    stage
        How the holder lies on the detector, and its reading: gives moves and zones.
    pictures
        Where to write overlays, stereograms and orientations; with several patterns the id is
        put before the suffix.

    Returns
    -------
    dict
        ``{"patterns": {id: record}}``, ids made unique by the file's stem where they clash; with
        ``"overlays"``, ``"stereograms"`` and ``"orientations"``, each ``{id: path}``, where such
        were written.  A pattern that cannot be measured is answered False with the reason.

    Raises
    ------
    AlignmentInputError
        A file cannot be read, or its calibration is missing.
    """
    wanted = pictures or Pictures(overlay=overlay)
    inputs = [
        (path, pattern) for path in paths for pattern in read_patterns(path, given or Calibration())
    ]
    records: dict[str, Any] = {}
    written: dict[str, dict[str, str]] = {}
    for path, pattern in inputs:
        key = pattern.id if pattern.id not in records else f"{path.stem}:{pattern.id}"
        try:
            estimate = measure(pattern)
        except PatternError as problem:
            records[key] = _refused(pattern, str(problem))
            continue
        goniometer = None if stage is None else stage.goniometer(pattern)
        findings = find_more(
            estimate,
            pattern.counts,
            energy_keV=pattern.energy_keV,
            structure=pattern.structure,
            goniometer=goniometer,
            source=str(path),
        )
        records[key] = estimate.as_record() | findings.as_record()
        show = _Shown(key, pattern, estimate, findings, goniometer, len(inputs) == 1)
        for kind, place in show.write(wanted):
            written.setdefault(kind, {})[key] = str(place)
    return {"patterns": records} | written


@dataclass(frozen=True)
class _Shown:
    """One measured pattern on its way to files."""

    key: str
    pattern: PatternInput
    estimate: TiltEstimate
    findings: Findings
    goniometer: Goniometer | None
    alone: bool

    def write(self, wanted: Pictures) -> Iterator[tuple[str, Path]]:
        """Write what is wanted and can be told; yields kind and path."""
        if wanted.overlay is not None:
            from controller.perception.alignment.overlay import save_overlay

            place = self._place(wanted.overlay)
            save_overlay(
                place,
                self.pattern.counts,
                self.estimate,
                energy_keV=self.pattern.energy_keV,
                caption=caption(
                    self.key, self.findings, self.pattern.structure, self.pattern.target_zone_uvw
                ),
            )
            yield "overlays", place
        if wanted.stereogram is not None and self.goniometer is not None and self.findings.zones:
            from controller.perception.alignment.stereogram import save_stereogram

            place = self._place(wanted.stereogram)
            save_stereogram(place, stereogram(self.key, self.findings, self.goniometer))
            yield "stereograms", place
        if wanted.orientation is not None and self.findings.orientation is not None:
            place = self._place(wanted.orientation)
            write_orientation(place, self.findings.orientation)
            yield "orientations", place

    def _place(self, path: Path) -> Path:
        return path if self.alone else path.with_stem(f"{path.stem}-{_filename(self.key)}")


def _filename(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in key)


def _refused(pattern: PatternInput, reason: str) -> dict[str, Any]:
    names = (
        "tilt_x_mrad", "tilt_y_mrad", "sigma_mrad", "centre_x_px", "centre_y_px",
        "in_plane_rotation_deg", "misorientation_deg", "circle_radius_inv_A", "thickness_nm",
        "explained_fraction",
    )  # fmt: skip
    record: dict[str, Any] = dict.fromkeys(names)
    return record | {
        "answered": False,
        "reason": reason,
        "mode": "structure-free" if pattern.structure is None else "structure",
        "inv_A_per_px": pattern.inv_A_per_px,
        "alternatives": [],
        "spots_used": 0,
        "spots_rejected": 0,
        "electrons_used": 0.0,
        "elapsed_ms": 0.0,
    }


def _image(path: Path, given: Calibration) -> PatternInput:
    if given.energy_keV is None or given.inv_A_per_px is None:
        missing = [
            flag
            for flag, value in (
                ("--energy-keV", given.energy_keV),
                ("--inv-A-per-px", given.inv_A_per_px),
            )
            if value is None
        ]
        raise AlignmentInputError(
            f"{path}: an image carries no calibration; give {' and '.join(missing)}"
        )
    return PatternInput(
        id=path.stem,
        counts=_read_image(path),
        energy_keV=given.energy_keV,
        inv_A_per_px=given.inv_A_per_px,
        beam_stop=bool(given.beam_stop),
        structure=given.structure,
        target_zone_uvw=given.target_zone_uvw,
    )


def _read_image(path: Path) -> Array:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            image = np.load(path, allow_pickle=False)
        elif suffix in (".mrc", ".mrcs"):
            import mrcfile

            with mrcfile.open(path, permissive=True) as mrc:
                image = np.array(mrc.data)
        elif suffix in (".tif", ".tiff"):
            import tifffile

            image = tifffile.imread(path)
        else:
            from PIL import Image

            with Image.open(path) as picture:
                image = np.array(picture)
    except (OSError, ValueError) as problem:
        raise AlignmentInputError(f"{path}: cannot be read as an image ({problem})") from problem
    image = np.squeeze(image)
    if suffix == ".png" and image.ndim == 3:
        image = image[..., :3].mean(axis=-1)
    if image.ndim != 2:
        raise AlignmentInputError(
            f"{path}: holds an array of shape {image.shape}; one 2-D pattern is expected, "
            f"put several into a pattern stack (HDF5)"
        )
    return np.asarray(image, dtype=float)


def _read_stack(path: Path, given: Calibration) -> Iterator[PatternInput]:
    import h5py

    try:
        stack = h5py.File(path, "r")
    except OSError as problem:
        raise AlignmentInputError(f"{path}: cannot be read as HDF5 ({problem})") from problem
    with stack:
        patterns = stack.get("patterns")
        if not isinstance(patterns, h5py.Group) or len(patterns) == 0:
            raise AlignmentInputError(f"{path}: no patterns in /patterns")
        for key, dataset in patterns.items():
            where = f"{path}:/patterns/{key}"
            attributes = dict(dataset.attrs)
            structure, zone = _stack_structure(stack, attributes, given, where)
            yield PatternInput(
                id=key,
                counts=np.asarray(dataset[()], dtype=float),
                energy_keV=_attribute(attributes, "energy_eV", 1e-3, given.energy_keV, where),
                inv_A_per_px=_attribute(attributes, "inv_A_per_px", 1.0, given.inv_A_per_px, where),
                beam_stop=bool(attributes.get("beam_stop", False))
                if given.beam_stop is None
                else given.beam_stop,
                structure=structure,
                target_zone_uvw=zone,
                pose_deg=_pose(attributes, where),
            )


def _pose(attributes: dict[str, Any], where: str) -> tuple[float, float] | None:
    if "alpha_deg" not in attributes:
        return None
    values = [float(np.ravel(attributes.get(name, 0.0))[0]) for name in ("alpha_deg", "beta_deg")]
    if not all(abs(value) <= 90 for value in values):
        raise AlignmentInputError(
            f"{where}: alpha_deg = {values[0]:g}, beta_deg = {values[1]:g}: a goniometer reads "
            f"within -90 .. 90 deg; correct the attributes"
        )
    return values[0], values[1]


def _attribute(
    attributes: dict[str, Any], name: str, factor: float, given: float | None, where: str
) -> float:
    if given is not None:
        return given
    if name not in attributes:
        raise AlignmentInputError(f"{where}: the attribute {name} is missing")
    value = float(np.asarray(attributes[name]).ravel()[0]) * factor
    if not (np.isfinite(value) and value > 0):
        raise AlignmentInputError(f"{where}: {name} = {value / factor:g} must be positive")
    return value


def _stack_structure(
    stack: "h5py.File", attributes: dict[str, Any], given: Calibration, where: str
) -> tuple[CrystalStructure | None, tuple[int, int, int] | None]:
    structure, zone = given.structure, given.target_zone_uvw
    name = attributes.get("structure")
    if structure is None and name is not None:
        name = name.decode() if isinstance(name, bytes) else str(name)
        if f"cif/{name}" not in stack:
            raise AlignmentInputError(f"{where}: structure '{name}' is not in /cif")
        text = stack[f"cif/{name}"][()]
        text = text.decode() if isinstance(text, bytes) else str(text)
        structure = structure_from_cif(text, name)
    if zone is None and "target_zone_uvw" in attributes:
        values = np.asarray(attributes["target_zone_uvw"]).ravel()
        if values.shape != (3,):
            raise AlignmentInputError(f"{where}: target_zone_uvw needs three integers")
        zone = (int(values[0]), int(values[1]), int(values[2]))
    if structure is None or zone is None:
        return None, None
    return structure, zone
