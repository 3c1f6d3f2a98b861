"""4D-STEM of whatever lies under the scan: crystal, film or nothing, position by position.

The scattering code knows one slab in the frame of the detector.  Here the slab is taken from the
crystal under the middle of the scan, with its thickness, bend and damage there; positions off the
crystal see the film or the bare probe.  A mirrored camera is simulated upright and its patterns
are turned over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Scan
from sim_microscope.layout import Crystal
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scattering.probe import ProbeOptics
from sim_microscope.scattering.scan4d import PhaseMap, Scan4DSimulator, ScanAccuracy, ScanDetector
from sim_microscope.scattering.specimen import ScanSpecimen
from sim_microscope.specimen import Specimen, TruePose
from sim_microscope.structures import load_structure
from sim_microscope.wear import Wear

Array = NDArray[np.float64]

_MOST_SLICES = 16
_LEAST_SLICE_A = 20.0
_THINNEST_NM = 2.0
_THICKEST_NM = 250.0
BATCH = 64


@dataclass(frozen=True, eq=False)
class Raster:
    """One scan made ready: where the probe goes and what it meets."""

    positions_A: Array
    """(n, 2) as (row, col) in the frame of the detector, from the middle of the scan."""
    on_crystal: NDArray[np.bool_]
    """(n,)"""
    crystal: Crystal | None
    orientation: Array
    """(3, 3), v_detector = orientation @ v_crystal; the identity without a crystal."""
    thickness_nm: float
    carbon_nm: float
    fluence_before_e_per_A2: float
    defocus_nm: float
    """Of the entrance surface, the height of the specimen included."""
    mirrored: bool
    slab: Scan4DSimulator | None
    bare: Scan4DSimulator

    def patterns(self) -> Iterator[NDArray[np.float32]]:
        """Expected patterns per incident electron, (n, det_y, det_x) in batches, in scan order."""
        slab = None if self.slab is None else self.slab.patterns(self._upright())
        still = None if self.on_crystal.all() else next(self.bare.patterns(np.zeros((1, 2))))[0]
        for first in range(0, len(self.positions_A), BATCH):
            here = self.on_crystal[first : first + BATCH]
            if slab is not None:
                batch = next(slab)
                if still is not None:
                    batch = np.where(here[:, None, None], batch, still)
            else:
                batch = np.repeat(np.asarray(still)[None], len(here), axis=0)
            yield _turned_over(batch) if self.mirrored else batch

    def phase(self) -> PhaseMap | None:
        """True projected phase, in the upright frame of the detector."""
        return None if self.slab is None else self.slab.projected_phase(self._upright())

    def _upright(self) -> Array:
        return self.positions_A * np.array([-1.0 if self.mirrored else 1.0, 1.0])


def _turned_over(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows reversed about pixel N // 2."""
    rows = (-(np.arange(batch.shape[1]) - batch.shape[1] // 2) + batch.shape[1] // 2) % (
        batch.shape[1]
    )
    return batch[:, rows]


def prepare_raster(
    specimen: Specimen,
    optics: SimulatedOptics,
    pose: TruePose,
    scan: Scan,
    shape: tuple[int, int],
    wear: Wear,
    *,
    seed: int,
    drift_um_per_s: Array,
) -> Raster:
    """Find what lies under a scan and set up its simulation."""
    rows, columns = scan.shape
    sy, sx = np.indices(scan.shape).reshape(2, -1)
    steps_A = scan.step_A * np.stack([sx - (columns - 1) / 2, sy - (rows - 1) / 2])
    time_s = np.arange(rows * columns) * scan.dwell_s + sy * scan.flyback_s
    # drift counts like a move of the stage: the point under the probe wanders with it
    drift_A = 1e4 * (pose.tilt()[:2, :2] @ drift_um_per_s)[:, None] * time_s[None]
    in_column_A = optics.column_from_scan() @ steps_A + drift_A
    to_detector = np.linalg.inv(optics.column_from_detector())
    in_detector = to_detector @ in_column_A
    middle = optics.beam_centre_um()
    column_x = middle[0] + in_column_A[0] * 1e-4
    column_y = middle[1] + in_column_A[1] * 1e-4
    crystal, thickness, on_crystal = _under(specimen, pose, column_x, column_y)
    x0, y0 = specimen.to_holder(np.array(middle[0]), np.array(middle[1]), pose)
    point = (float(x0), float(y0))
    carbon = float(specimen.solid_nm(np.array([point[0]]), np.array([point[1]]))[0])
    fluence = wear.fluence(point)
    height_nm = float(specimen.to_column(*point, pose)[2]) * 1e3
    defocus = optics.now.defocus_nm - height_nm
    probe = _probe(optics, defocus)
    detector = ScanDetector(shape, optics.sampling_mrad())
    mirrored = optics.true.diffraction_mirrored
    frame = np.eye(3)
    frame[:2, :2] = to_detector
    if mirrored:
        frame = np.diag([1.0, -1.0, 1.0]) @ frame
    slab = None
    orientation = np.eye(3)
    if crystal is not None:
        orientation = frame @ optics.beam_upright() @ pose.tilt() @ crystal.orientation_at(*point)
        model = wear.model(crystal.structure)
        thick = min(thickness, _THICKEST_NM)
        slab = Scan4DSimulator(
            ScanSpecimen(
                crystal.structure,
                orientation,
                thick,
                disorder_A=model.disorder_A(fluence),
                lost_fraction=model.mass_loss(fluence),
                carbon_nm=carbon if carbon > 1 else 0.0,
            ),
            probe,
            detector,
            seed=seed,
            accuracy=ScanAccuracy(
                slice_thickness_A=max(_LEAST_SLICE_A, 10 * thick / _MOST_SLICES), batch=BATCH
            ),
        )
    nothing = ScanSpecimen(
        load_structure("SrTiO3"),
        np.eye(3),
        0.1,
        missing_cells=1.0,
        carbon_nm=carbon if carbon > 1 else 0.0,
    )
    return Raster(
        positions_A=np.ascontiguousarray(in_detector[::-1].T),
        on_crystal=on_crystal,
        crystal=crystal,
        orientation=orientation,
        thickness_nm=thickness,
        carbon_nm=carbon,
        fluence_before_e_per_A2=fluence,
        defocus_nm=defocus,
        mirrored=mirrored,
        slab=slab,
        bare=Scan4DSimulator(nothing, probe, detector, seed=seed),
    )


def _under(
    specimen: Specimen, pose: TruePose, column_x_um: Array, column_y_um: Array
) -> tuple[Crystal | None, float, NDArray[np.bool_]]:
    """The crystal under most of the positions, its median thickness, and where it is met."""
    R = pose.tilt()
    best: tuple[Crystal | None, float, NDArray[np.bool_]] = (
        None,
        0.0,
        np.zeros(column_x_um.shape, bool),
    )
    for crystal in specimen.crystals:
        at = specimen.to_column(*crystal.centre_um, pose)
        t = crystal.shape.thickness_nm((column_x_um - at[0]) * 1e3, (column_y_um - at[1]) * 1e3, R)
        met = t > _THINNEST_NM
        if met.sum() > best[2].sum():
            best = (crystal, float(np.median(t[met])), met)
    return best


def _probe(optics: SimulatedOptics, defocus_nm: float) -> ProbeOptics:
    spec, true = optics.scenario.optics, optics.true
    return ProbeOptics(
        energy_keV=optics.scenario.energy_keV,
        convergence_semiangle_mrad=optics.now.convergence_semiangle_mrad,
        defocus_nm=defocus_nm,
        C12_A=10 * spec.C12_nm,
        phi12_rad=true.phi12_rad,
        C21_A=10 * spec.C21_nm,
        phi21_rad=true.phi21_rad,
        C30_A=1e7 * spec.C30_mm,
        source_fwhm_A=10 * spec.source_size_nm,
    )
