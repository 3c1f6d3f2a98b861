"""Patterns of a calibration as a file: an alignment stack with the pose and the beam tilt of each.

``/patterns/<id>`` holds counts, with the attributes that `lodestem align` reads (``energy_eV``,
``inv_A_per_px``, ``structure``, ``target_zone_uvw``, ``alpha_deg``, ``beta_deg``), and besides
``beam_tilt_x_mrad``, ``beam_tilt_y_mrad``, ``detector_sampling_mrad``, ``utc`` and
``charged_e_per_A2``.  The root names the ``instrument``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.calibration.entries import UNNAMED, Conditions
from controller.hardware.values import Mode
from controller.perception.alignment import AlignmentInputError, Calibration, read_patterns
from controller.perception.alignment.optics import wavelength_A

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """One pattern with everything a calibration needs to know of it."""

    id: str
    counts: Array
    """Electrons per pixel, NaN where a pixel is no measurement, (row, col)."""
    energy_keV: float
    inv_A_per_px: float
    """Nominal."""
    alpha_deg: float = 0.0
    beta_deg: float = 0.0
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    utc: str = ""
    charged_e_per_A2: float = 0.0

    @property
    def conditions(self) -> Conditions:
        """As far as they matter to a calibration."""
        sampling = 1e3 * self.inv_A_per_px * wavelength_A(self.energy_keV)
        return Conditions(
            mode=Mode.DIFFRACTION, energy_keV=self.energy_keV, detector_sampling_mrad=sampling
        )


@dataclass(frozen=True)
class Recording:
    """The patterns of one calibration."""

    patterns: tuple[Recorded, ...]
    instrument: str
    source: str = ""

    @property
    def charged_e_per_A2(self) -> float:
        """Booked on the standard for all of them."""
        return sum(p.charged_e_per_A2 for p in self.patterns)


def write_recording(path: Path, recording: Recording, *, cif: Path | None = None) -> None:
    """Write patterns so that `read_recording` and `lodestem align` can read them.

    ``cif`` is the structure of the crystal that they show.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["instrument"] = recording.instrument
        if cif is not None:
            file[f"cif/{cif.stem}"] = cif.read_text(encoding="utf-8")
        for p in recording.patterns:
            data = np.nan_to_num(p.counts).astype(np.float32)
            pattern = file.create_dataset(f"patterns/{p.id}", data=data, compression="gzip")
            pattern.attrs.update(
                energy_eV=1e3 * p.energy_keV,
                inv_A_per_px=p.inv_A_per_px,
                alpha_deg=p.alpha_deg,
                beta_deg=p.beta_deg,
                beam_tilt_x_mrad=p.beam_tilt_mrad[0],
                beam_tilt_y_mrad=p.beam_tilt_mrad[1],
                detector_sampling_mrad=p.conditions.detector_sampling_mrad,
                utc=p.utc,
                charged_e_per_A2=p.charged_e_per_A2,
            )
            if cif is not None:
                pattern.attrs["structure"] = cif.stem


def read_recording(paths: Sequence[Path], given: Calibration) -> Recording:
    """Read the patterns of some files; ``given`` replaces calibration that a file lacks.

    Raises
    ------
    AlignmentInputError
        A file cannot be read, or lacks its calibration.
    """
    import h5py

    patterns: list[Recorded] = []
    instrument = ""
    for path in paths:
        extra: dict[str, dict[str, object]] = {}
        if path.suffix.lower() in (".h5", ".hdf5", ".nxs") and path.is_file():
            with h5py.File(path, "r") as file:
                named = file.attrs.get("instrument", "")
                instrument = instrument or str(named)
                extra = {k: dict(v.attrs) for k, v in file.get("patterns", {}).items()}
        for number, pattern in enumerate(read_patterns(path, given)):
            about = extra.get(pattern.id, {})
            pose = pattern.pose_deg or (0.0, 0.0)
            patterns.append(
                Recorded(
                    id=f"{path.stem}-{number:02d}",
                    counts=pattern.counts,
                    energy_keV=pattern.energy_keV,
                    inv_A_per_px=pattern.inv_A_per_px,
                    alpha_deg=pose[0],
                    beta_deg=pose[1],
                    beam_tilt_mrad=(
                        _number(about, "beam_tilt_x_mrad", path),
                        _number(about, "beam_tilt_y_mrad", path),
                    ),
                    utc=str(about.get("utc", "")),
                    charged_e_per_A2=_number(about, "charged_e_per_A2", path),
                )
            )
    if not patterns:
        raise AlignmentInputError("no patterns were given")
    return Recording(tuple(patterns), instrument or UNNAMED, ", ".join(p.name for p in paths))


def _number(attributes: dict[str, object], name: str, path: Path) -> float:
    value = float(np.ravel(np.asarray(attributes.get(name, 0.0), dtype=float))[0])
    if not np.isfinite(value):
        raise AlignmentInputError(f"{path}: the attribute {name} is {value}; give a number")
    return value
