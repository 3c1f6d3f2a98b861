"""Data of a scenario as files: survey images, diffraction patterns, 4D scans, and the truth.

`write_dataset` drives a simulated microscope as a careful person would who knows where the crystals
lie, and writes what comes out in the formats that the command line reads:

- ``images.h5``: ``/images/<id>`` raw camera values for ``lodestem segment``;
- ``patterns.h5``: ``/patterns/<id>`` counts and ``/cif/<name>`` for ``lodestem align``;
- ``scan-<id>.h5``: ``/counts`` for ``lodestem reconstruct``;
- ``truth.h5``, and PNGs to look at.

Each data set carries the ``exposure_id`` by which the truth file knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from controller.hardware.errors import DetectorError, StaleFrameError
from controller.hardware.values import Axis, DetectorJob, Mode, OpticsChange, Scan
from sim_microscope.adapter import SimulatedAdapter, open_adapter
from sim_microscope.geometry import plane_rotation
from sim_microscope.layout import Crystal
from sim_microscope.preview import write_png
from sim_microscope.scenario import Scenario

_SPACE = UUID("7c1e2f0a-4a53-5d0e-9b6f-0d7f4d2c9a11")
_SETTLE_S = 5.0
_TIMEOUT_S = 60.0
_ATTEMPTS = 2
_TILE_OVERLAP = 0.08
_PATTERN_LEFTOVER_DEG = (1.0, 0.4)
"""How far from the zone, in alpha and beta, the second pattern of a crystal is taken."""


@dataclass(frozen=True)
class DatasetSize:
    """How much to write."""

    most_tiles: int = 9
    pattern_crystals: int = 8
    scans: int = 2
    scan: Scan = field(default_factory=lambda: Scan(shape=(32, 32), step_A=2.1, dwell_s=1e-3))
    image_s: float = 0.2
    image_electrons_per_px: float = 8.0
    pattern_electrons: float = 1e5
    scan_fluence_e_per_A2: float = 100.0


def write_dataset(
    scenario: str,
    out: Path,
    *,
    seed: int,
    faults: tuple[str, ...] = (),
    size: DatasetSize | None = None,
) -> dict[str, Any]:
    """Write a scenario's data into the folder `out`; return what was written.

    Raises
    ------
    ValueError
        The scenario, the seed or a fault cannot be used; nothing was written.
    """
    size = size or DatasetSize()
    adapter = open_adapter({"scenario": scenario, "seed": seed, "faults": faults})
    out.mkdir(parents=True, exist_ok=True)
    operator = _Operator(adapter, f"{scenario} {seed}")
    usable = [c for c in adapter.truth.specimen.crystals if c.role == "usable"]
    images = _write_images(operator, out, size)
    patterns = _write_patterns(operator, out, size, usable[: size.pattern_crystals])
    scans = [
        str(_write_scan(operator, out, size, crystal, number))
        for number, crystal in enumerate(usable[: size.scans])
    ]
    adapter.close()
    adapter.write_truth(out / "truth.h5")
    return {
        "scenario": scenario,
        "seed": seed,
        "images": str(out / "images.h5"),
        "patterns": str(out / "patterns.h5"),
        "scans": scans,
        "truth": str(out / "truth.h5"),
        "image_count": images,
        "pattern_count": patterns,
    }


class _Operator:
    """Moves, waits and exposes, one thing after the other."""

    def __init__(self, adapter: SimulatedAdapter, name: str) -> None:
        self.adapter = adapter
        self._name = name
        self._count = 0

    def go(self, **targets: float) -> None:
        """Send axes to targets and wait until they are there."""
        for name, target in targets.items():
            axis = Axis(name)
            self.adapter.start_move(axis, target)
            for _ in range(10_000):
                self.adapter.clock.sleep(0.1)
                if not self.adapter.axis_state(axis).moving:
                    break
        self.adapter.clock.sleep(_SETTLE_S)

    def centre_on(self, crystal: Crystal, alpha_deg: float, beta_deg: float) -> None:
        """Tilt, then lay the crystal's middle under the beam; the truth helps."""
        self.go(alpha_deg=alpha_deg, beta_deg=beta_deg)
        x, y = crystal.centre_um
        for _ in range(2):
            read = self.adapter.read_pose()
            middle = self.adapter.true_beam_um()
            self.go(x_um=read.x_um + x - middle[0], y_um=read.y_um + y - middle[1])

    def _job(self, detector: str, frame_s: float, scan: Scan | None = None) -> DetectorJob:
        self._count += 1
        name = uuid5(_SPACE, f"{self._name} {self._count}")
        return DetectorJob(name, detector, frame_s, 1 if scan is None else scan.positions, scan)

    def frame(self, detector: str, frame_s: float) -> tuple[UUID, NDArray[np.generic]]:
        """One frame with its exposure id; a detector that fails once is asked again.

        Raises
        ------
        DetectorError
            It failed several times in a row.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._one_frame(detector, frame_s)
            except DetectorError:
                self.adapter.abort()
        return self._one_frame(detector, frame_s)

    def _one_frame(self, detector: str, frame_s: float) -> tuple[UUID, NDArray[np.generic]]:
        job = self._job(detector, frame_s)
        self.adapter.arm(job)
        self.adapter.open_beam()
        try:
            self.adapter.clock.sleep(frame_s)
        finally:
            self.adapter.blank_beam()
        frame = self.adapter.collect(_TIMEOUT_S)
        if frame.job_id != job.exposure_id:
            raise StaleFrameError(
                f"{detector} delivered the frame of another exposure; the beam is blanked. "
                f"Expose again"
            )
        return job.exposure_id, frame.data

    def scan(self, scan: Scan) -> tuple[UUID, NDArray[np.generic]]:
        """Counts (scan_y, scan_x, det_y, det_x) with their exposure id."""
        job = self._job("scan4d", scan.dwell_s, scan)
        self.adapter.arm(job)
        self.adapter.open_beam()
        shape = self.adapter.capabilities.detector("scan4d").shape
        counts = np.zeros((scan.positions, *shape), np.uint16)
        try:
            for batch in self.adapter.stream(_TIMEOUT_S):
                counts[batch.first_sequence : batch.first_sequence + len(batch.data)] = batch.data
        finally:
            self.adapter.blank_beam()
        return job.exposure_id, counts.reshape(*scan.shape, *shape)


def _write_images(operator: _Operator, out: Path, size: DatasetSize) -> int:
    import h5py

    adapter = operator.adapter
    info = adapter.capabilities.detector("camera")
    pixel_um = 0.01
    diameter_nm = 1.05e3 * pixel_um * float(np.hypot(*info.shape))
    per_pixel = size.image_electrons_per_px / (1e3 * pixel_um) ** 2
    current = per_pixel * np.pi / 4 * diameter_nm**2 / size.image_s / 6.241509e6
    adapter.write_optics(
        OpticsChange(
            mode=Mode.IMAGE,
            pixel_size_nm=1e3 * pixel_um,
            beam_diameter_nm=diameter_nm,
            probe_current_pA=current,
        )
    )
    tile_um = pixel_um * min(info.shape) * (1 - _TILE_OVERLAP)
    across = int(np.ceil(adapter.truth.specimen.field_um / tile_um))
    across = min(across, int(np.sqrt(size.most_tiles)))
    calibration = adapter.calibration
    turn = plane_rotation(calibration.image_rotation_deg, mirrored=calibration.image_mirrored)
    steps = (np.arange(across) - (across - 1) / 2) * tile_um
    with h5py.File(out / "images.h5", "w") as file:
        group = file.create_group("images")
        for row in range(across):
            for column in range(across):
                x, y = turn @ np.array([steps[column], steps[row]])
                operator.go(x_um=float(x), y_um=float(y))
                name = f"S{row * across + column:02d}"
                exposure, data = operator.frame("camera", size.image_s)
                image = group.create_dataset(name, data=data, compression="gzip")
                image.attrs.update(
                    mode="BF",
                    pixel_size_nm=1e3 * pixel_um,
                    gain=info.gain,
                    offset=info.offset,
                    detector="integrating",
                    incident_electrons_per_px=size.image_electrons_per_px,
                    energy_keV=adapter.read_optics().energy_keV,
                    exposure_id=str(exposure),
                    x_um=float(x),
                    y_um=float(y),
                )
                write_png(out / f"image-{name}.png", data)
    return across * across


def _write_patterns(
    operator: _Operator, out: Path, size: DatasetSize, crystals: list[Crystal]
) -> int:
    import h5py

    from sim_microscope.scattering.electron import wavelength_A

    adapter = operator.adapter
    energy_keV = adapter.read_optics().energy_keV
    sampling_mrad, frame_s = 0.2, 0.5
    adapter.write_optics(
        OpticsChange(
            mode=Mode.DIFFRACTION,
            detector_sampling_mrad=sampling_mrad,
            beam_diameter_nm=200.0,
            probe_current_pA=size.pattern_electrons / frame_s / 6.241509e6,
        )
    )
    count = 0
    with h5py.File(out / "patterns.h5", "w") as file:
        group, texts = file.create_group("patterns"), file.create_group("cif")
        for crystal in crystals:
            structure = crystal.structure
            if structure.name not in texts:
                texts[structure.name] = _cif_text(adapter.scenario, structure.name)
            _, _, alpha, beta = crystal.nearest_zones()[0]
            near = (alpha + _PATTERN_LEFTOVER_DEG[0], beta - _PATTERN_LEFTOVER_DEG[1])
            for which, angles in (("flat", (0.0, 0.0)), ("near", near)):
                operator.centre_on(crystal, *angles)
                exposure, data = operator.frame("diffraction", frame_s)
                lit = adapter.truth.exposures[-1].disc
                families = [part.family for part in lit.crystals] if lit is not None else []
                name = f"{crystal.id}-{which}"
                pattern = group.create_dataset(name, data=data, compression="gzip")
                pattern.attrs.update(
                    energy_eV=1e3 * energy_keV,
                    inv_A_per_px=sampling_mrad * 1e-3 / wavelength_A(energy_keV),
                    structure=structure.name,
                    target_zone_uvw=families[0] if families else crystal.zones[0],
                    exposure_id=str(exposure),
                )
                write_png(out / f"pattern-{name}.png", data, logarithmic=True)
                count += 1
    return count


def _cif_text(scenario: Scenario, name: str) -> str:
    """Text of the CIF that a structure of the scenario came from."""
    for group in scenario.specimen.crystals:
        if group.structure.lower().endswith(".cif") and Path(group.structure).stem == name:
            return Path(group.structure).read_text(encoding="utf-8")
    shipped = files("sim_microscope.structures") / f"{name}.cif"
    return shipped.read_text(encoding="utf-8")


def _write_scan(
    operator: _Operator, out: Path, size: DatasetSize, crystal: Crystal, number: int
) -> Path:
    import h5py

    adapter, scan = operator.adapter, size.scan
    electrons = size.scan_fluence_e_per_A2 * scan.step_A**2
    semiangle_mrad, sampling_mrad, defocus_nm = 10.0, 1.0, 20.0
    adapter.write_optics(
        OpticsChange(
            mode=Mode.STEM,
            convergence_semiangle_mrad=semiangle_mrad,
            detector_sampling_mrad=sampling_mrad,
            defocus_nm=defocus_nm,
            probe_current_pA=electrons / scan.dwell_s / 6.241509e6,
        )
    )
    _, _, alpha, beta = crystal.nearest_zones()[0]
    operator.centre_on(crystal, alpha, beta)
    exposure, counts = operator.scan(scan)
    path = out / f"scan-{number:02d}-{crystal.id}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("counts", data=counts, compression="gzip", compression_opts=1)
        file.attrs.update(
            energy_eV=1e3 * adapter.read_optics().energy_keV,
            semiangle_mrad=semiangle_mrad,
            defocus_A=10 * defocus_nm,
            scan_step_A=scan.step_A,
            k_pixel_mrad=sampling_mrad,
            dose_e_per_A2=size.scan_fluence_e_per_A2,
            scan_rotation_deg=adapter.calibration.scan_to_detector_rotation_deg,
            flip_ud=False,
            flip_lr=False,
            transpose=False,
            exposure_id=str(exposure),
        )
    write_png(path.with_suffix(".png"), counts.mean(axis=(0, 1)), logarithmic=True)
    return path
