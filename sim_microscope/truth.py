"""The truth of a night: what lay on the grid, where it really was, what it really received.

Tests and reports read it; nothing that decides or perceives does.  ``truth.h5`` holds::

    /crystals/<id>        outline_um (n, 2), orientation (3, 3) and attributes
    /crystals/<id>/zones  uvw, tilt_deg, alpha_deg, beta_deg of the wanted zones, nearest first
    /exposures            one row per exposure: purpose of the optics, true and read pose, electrons
    /exposures_crystals   what each diffraction exposure illuminated
    /scans/<exposure>     true phase, thickness, orientation, defocus, rotation, and the angle
                          between zone axis and incident beam
    /fluence_e_per_A2     true fluence, (row = y, col = x): the largest in each 100 nm cell
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import OpticsState, StagePose
from sim_microscope.dose import TrueDose
from sim_microscope.optics import TrueOptics
from sim_microscope.pattern import DiscContents, nearest_zone
from sim_microscope.raster import Raster
from sim_microscope.specimen import Specimen, TruePose

Array = NDArray[np.float64]

_ZONES_KEPT = 5


@dataclass(frozen=True, eq=False)
class ExposureTruth:
    """One exposure as it really was."""

    number: int
    exposure_id: str
    detector: str
    from_s: float
    electrons: float
    """That left for the detector."""
    pose: TruePose
    read: StagePose
    optics: OpticsState
    beam_um: tuple[float, float]
    """Holder point on the beam's axis."""
    disc: DiscContents | None = None
    raster: Raster | None = None


@dataclass
class Truth:
    """Everything the simulator knows and the controller must not."""

    specimen: Specimen
    optics: TrueOptics
    dose: TrueDose
    faults: list[tuple[float, str]]
    exposures: list[ExposureTruth] = field(default_factory=list)

    def fluence_at(self, x_um: float, y_um: float) -> float:
        """True fluence of a specimen point so far, e/Å²."""
        return float(self.dose.fluence_at(np.array([x_um]), np.array([y_um]))[0])

    def write(self, path: Path) -> None:
        """Write everything to an HDF5 file."""
        import h5py

        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.attrs["what"] = "truth of a simulated night: for tests and reports only"
            file.attrs["faults"] = json.dumps(self.faults)
            for name, value in _plain(self.optics).items():
                file.attrs[f"optics_{name}"] = value
            self._write_crystals(file.create_group("crystals"))
            self._write_exposures(file)
            scans = file.create_group("scans")
            for exposure in self.exposures:
                if exposure.raster is not None:
                    _write_scan(scans.create_group(exposure.exposure_id), exposure.raster)
            half = self.specimen.field_um / 2 + 2
            fluence = file.create_dataset("fluence_e_per_A2", data=self.dose.peak_map(half))
            fluence.attrs["half_um"], fluence.attrs["cell_um"] = half, 0.1

    def _write_crystals(self, group: object) -> None:
        for crystal in self.specimen.crystals:
            own = group.create_group(crystal.id)  # type: ignore[attr-defined]
            own.attrs["structure"] = crystal.structure.name
            own.attrs["class"] = crystal.role
            own.attrs["centre_um"] = crystal.centre_um
            own.attrs["thickness_nm"] = crystal.thickness_nm
            own.attrs["radius_um"] = crystal.radius_um
            own.attrs["mosaic_deg"] = crystal.mosaic_deg
            own.attrs["bend_deg"] = crystal.bend_deg
            own.attrs["fluence_e_per_A2"] = self.fluence_at(*crystal.centre_um)
            own["orientation"] = crystal.orientation
            own["outline_um"] = crystal.shape.outline_nm() * 1e-3 + np.array(crystal.centre_um)
            zones = crystal.nearest_zones()[:_ZONES_KEPT]
            own["zones"] = np.array([[*uvw, *numbers] for uvw, *numbers in zones], dtype=float)
            own["zones"].attrs["columns"] = "u v w tilt_deg alpha_deg beta_deg"

    def _write_exposures(self, file: object) -> None:
        rows, lit = [], []
        for e in self.exposures:
            true = [e.pose.x_um, e.pose.y_um, e.pose.z_um, e.pose.alpha_deg, e.pose.beta_deg]
            r = e.read
            read = [r.x_um, r.y_um, r.z_um, r.alpha_deg, r.beta_deg or 0.0]
            rows.append([e.number, e.from_s, e.electrons, *e.beam_um, *true, *read])
            for part in e.disc.crystals if e.disc is not None else ():
                index = [c.id for c in self.specimen.crystals].index(part.crystal.id)
                lit.append(
                    [
                        e.number,
                        index,
                        part.share,
                        part.thickness_nm,
                        part.misorientation_deg,
                        *part.zone,
                        *part.tilt_mrad,
                    ]
                )
        table = file.create_dataset(  # type: ignore[attr-defined]
            "exposures", data=np.array(rows, dtype=float).reshape(-1, 15)
        )
        table.attrs["columns"] = (
            "number from_s electrons beam_x_um beam_y_um "
            "true_x_um true_y_um true_z_um true_alpha_deg true_beta_deg "
            "read_x_um read_y_um read_z_um read_alpha_deg read_beta_deg"
        )
        table.attrs["exposure_id"] = json.dumps([e.exposure_id for e in self.exposures])
        table.attrs["detector"] = json.dumps([e.detector for e in self.exposures])
        table.attrs["mode"] = json.dumps([e.optics.mode.value for e in self.exposures])
        crystals = file.create_dataset(  # type: ignore[attr-defined]
            "exposures_crystals", data=np.array(lit, dtype=float).reshape(-1, 10)
        )
        crystals.attrs["columns"] = (
            "number crystal share thickness_nm misorientation_deg u v w tilt_x_mrad tilt_y_mrad"
        )


def _write_scan(group: object, raster: Raster) -> None:
    g = group
    attributes = g.attrs  # type: ignore[attr-defined]
    attributes["crystal"] = "" if raster.crystal is None else raster.crystal.id
    attributes["thickness_nm"] = raster.thickness_nm
    attributes["carbon_nm"] = raster.carbon_nm
    attributes["defocus_nm"] = raster.defocus_nm
    attributes["fluence_before_e_per_A2"] = raster.fluence_before_e_per_A2
    attributes["mirrored"] = raster.mirrored
    if raster.crystal is not None:
        _, uvw, off_deg = nearest_zone(raster.crystal, raster.orientation)
        attributes["zone_uvw"] = uvw
        attributes["misorientation_deg"] = off_deg
    g["orientation"] = raster.orientation  # type: ignore[index]
    g["positions_A"] = raster.positions_A  # type: ignore[index]
    phase = raster.phase()
    if phase is not None:
        g["phase_rad"] = phase.phase_rad  # type: ignore[index]
        g["phase_rad"].attrs["sampling_A"] = phase.sampling_A  # type: ignore[index]
        g["phase_rad"].attrs["centre_px"] = phase.centre_px  # type: ignore[index]


def _plain(optics: TrueOptics) -> dict[str, object]:
    """Fields that HDF5 attributes can hold."""
    found: dict[str, object] = {}
    for name, value in vars(optics).items():
        if isinstance(value, dict):
            found |= {f"{name}_{key.value}": np.asarray(v) for key, v in value.items()}
        else:
            found[name] = value
    return found
