"""4D-STEM of whatever lies under the scan: crystal, film or nothing, position by position.

The scattering code knows one slab in the frame of the detector.  Here the slab is cut from the
crystal under most of the positions, with its facets, and with the bend and damage of the middle of
the scan; positions off the crystal see the film or the bare probe.  A mirrored camera is simulated
upright and its patterns are turned over.
"""

from __future__ import annotations

import zlib
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

_THINNEST_NM = 2.0
_THICKEST_NM = 250.0
_WIDE_A = 800.0
_WIDE_WINDOW = 3.2
_COARSE_SLICE_A = 30.0
_LIBRARY = 48
_UNEVEN = 1.1
BATCH = 64


@dataclass(frozen=True, eq=False)
class Circumstances:
    """What else a scan meets."""

    wear: Wear
    seed: int
    """Of the specimen: the same atoms lie there in every scan."""
    drift_um_per_s: Array
    """Present velocity of the stage, (x, y)."""
    own_fluence_e_per_A2: float
    """What the scan itself will add; half of it counts as damage throughout."""


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
        still = None if self.on_crystal.all() else next(self.bare.patterns(np.zeros((1, 2))))[0]
        slab = None if self.slab is None else self._slab_patterns(self.slab)
        for first in range(0, len(self.positions_A), BATCH):
            here = self.on_crystal[first : first + BATCH]
            if slab is not None:
                batch = next(slab)
                if still is not None:
                    batch = np.where(here[:, None, None], batch, still)
            else:
                batch = np.repeat(np.asarray(still)[None], len(here), axis=0)
            yield _turned_over(batch) if self.mirrored else batch

    @property
    def is_wide(self) -> bool:
        """Too wide to hold every atom of the field: an overview, not a reconstruction."""
        return bool(np.ptp(self.positions_A, axis=0).max() > _WIDE_A)

    def _slab_patterns(self, slab: Scan4DSimulator) -> Iterator[NDArray[np.float32]]:
        upright = self._upright()
        if not self.is_wide:
            yield from slab.patterns(upright)
            return
        # neighbours of a wide raster share no atoms: draw from patterns of one small field
        rng = np.random.default_rng(len(upright))
        library = np.concatenate(list(slab.patterns(rng.uniform(-12, 12, (_LIBRARY, 2)))))
        choice = rng.integers(_LIBRARY, size=len(upright))
        for first in range(0, len(upright), BATCH):
            yield library[choice[first : first + BATCH]]

    def phase(self) -> PhaseMap | None:
        """True projected phase, in the upright frame of the detector."""
        if self.slab is None or self.is_wide:
            return None
        return self.slab.projected_phase(self._upright())

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
    circumstances: Circumstances,
) -> Raster:
    """Find what lies under a scan and set up its simulation; `shape` is the detector's."""
    wear, seed = circumstances.wear, circumstances.seed
    rows, columns = scan.shape
    sy, sx = np.indices(scan.shape).reshape(2, -1)
    steps_A = scan.step_A * np.stack([sx - (columns - 1) / 2, sy - (rows - 1) / 2])
    time_s = np.arange(rows * columns) * scan.dwell_s + sy * scan.flyback_s
    # drift counts like a move of the stage: the point under the probe wanders with it
    drift_A = 1e4 * (pose.tilt()[:2, :2] @ circumstances.drift_um_per_s)[:, None] * time_s[None]
    in_column_A = optics.column_from_scan() @ steps_A + drift_A
    to_detector = np.linalg.inv(optics.column_from_detector())
    in_detector = to_detector @ in_column_A
    middle = optics.beam_centre_um()
    column_x = middle[0] + in_column_A[0] * 1e-4
    column_y = middle[1] + in_column_A[1] * 1e-4
    under = _under(specimen, pose, column_x, column_y)
    x0, y0 = specimen.to_holder(np.array(middle[0]), np.array(middle[1]), pose)
    point = (float(x0), float(y0))
    carbon = float(specimen.solid_nm(np.array([point[0]]), np.array([point[1]]))[0])
    carbon = carbon if carbon > 1 else 0.0
    fluence = wear.fluence(point)
    # a crystal lies about the height of the film: its entrance surface is half a thickness upstream
    height_nm = float(specimen.to_column(*point, pose)[2]) * 1e3
    entrance_nm = height_nm - (0.0 if under is None else under.thickness_nm / 2)
    probe = _probe(optics, optics.now.defocus_nm - entrance_nm)
    detector = ScanDetector(shape, optics.sampling_mrad())
    mirrored = optics.true.diffraction_mirrored
    frame = np.eye(3)
    frame[:2, :2] = to_detector
    if mirrored:
        frame = np.diag([1.0, -1.0, 1.0]) @ frame
    slab = None
    orientation = np.eye(3)
    if under is not None:
        crystal = under.crystal
        orientation = frame @ optics.beam_upright() @ pose.tilt() @ crystal.orientation_at(*point)
        model = wear.model(crystal.structure)
        during = fluence + circumstances.own_fluence_e_per_A2 / 2 if wear.spec.enabled else 0.0
        thick = min(under.depth_nm, _THICKEST_NM)
        centre_A = 1e4 * np.array([*(under.centre_um - middle), 1e-3 * under.centre_nm])
        normals = crystal.shape.normals @ pose.tilt().T @ frame.T
        limits = 10 * crystal.shape.offsets_nm + normals @ (frame @ centre_A)
        cut_out = ScanSpecimen(
            crystal.structure,
            orientation,
            thick,
            disorder_A=model.disorder_A(during),
            lost_fraction=model.mass_loss(during),
            carbon_nm=carbon,
            faces=np.column_stack([normals, limits]) if under.is_uneven else None,
            origin_A=tuple((frame @ centre_A).tolist()),
        )
        own_seed = seed + zlib.crc32(crystal.id.encode()) % 100_000
        slab = Scan4DSimulator(
            cut_out, probe, detector, seed=own_seed, accuracy=ScanAccuracy(batch=BATCH)
        )
        if slab.window_px[0] > _WIDE_WINDOW * shape[0]:
            # far out of focus the window is large: a focus scan, where coarser slices will do
            accuracy = ScanAccuracy(slice_thickness_A=_COARSE_SLICE_A, batch=BATCH)
            slab = Scan4DSimulator(cut_out, probe, detector, seed=own_seed, accuracy=accuracy)
    nothing = ScanSpecimen(
        load_structure("SrTiO3"), np.eye(3), 0.1, missing_cells=1.0, carbon_nm=carbon
    )
    return Raster(
        positions_A=np.ascontiguousarray(in_detector[::-1].T),
        on_crystal=np.zeros(len(column_x), bool) if under is None else under.met,
        crystal=None if under is None else under.crystal,
        orientation=orientation,
        thickness_nm=0.0 if under is None else under.thickness_nm,
        carbon_nm=carbon,
        fluence_before_e_per_A2=fluence,
        defocus_nm=probe.defocus_nm,
        mirrored=mirrored,
        slab=slab,
        bare=Scan4DSimulator(nothing, probe, detector, seed=seed),
    )


@dataclass(frozen=True, eq=False)
class _Under:
    """The crystal under most of the positions of a scan."""

    crystal: Crystal
    met: NDArray[np.bool_]
    """Which positions meet it."""
    thickness_nm: float
    """Median."""
    depth_nm: float
    """From the first entrance to the last exit."""
    centre_um: Array
    """Of the crystal, column X and Y."""
    centre_nm: float
    """Of the crystal below the first entrance."""

    @property
    def is_uneven(self) -> bool:
        """Whether facets matter within the scan."""
        return self.depth_nm > _UNEVEN * self.thickness_nm or not self.met.all()


def _under(
    specimen: Specimen, pose: TruePose, column_x_um: Array, column_y_um: Array
) -> _Under | None:
    R = pose.tilt()
    best: _Under | None = None
    for crystal in specimen.crystals:
        at = specimen.to_column(*crystal.centre_um, pose)
        entrance, exit_ = crystal.shape.faces_nm(
            (column_x_um - at[0]) * 1e3, (column_y_um - at[1]) * 1e3, R
        )
        met = exit_ - entrance > _THINNEST_NM
        if met.any() and (best is None or met.sum() > best.met.sum()):
            top, bottom = float(entrance[met].min()), float(exit_[met].max())
            best = _Under(
                crystal,
                met,
                float(np.median((exit_ - entrance)[met])),
                bottom - top,
                np.asarray(at[:2]),
                -top,
            )
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
