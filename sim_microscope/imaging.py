"""Low-magnification bright-field images: attenuation by thickness, with diffraction contrast.

Expected electrons per pixel = incident electrons x illumination x exp(-t_film/L_film) x
prod exp(-t/L) b(t), where b is the share of the Bragg intensity inside the objective aperture:
a crystal near a zone axis is darker than its neighbour, shows bend contours and thickness fringes,
and changes when it is tilted.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erfc

from sim_microscope.layout import Crystal
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scattering.bloch import beam_intensities, importance
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.ewald import beams_near_sphere
from sim_microscope.scattering.mean_free_path import carbon_mean_free_path_nm, mean_free_path_nm
from sim_microscope.scattering.structure_factors import structure_factors
from sim_microscope.specimen import Grid, Specimen, TruePose
from sim_microscope.structures import Structure

Array = NDArray[np.float64]

_BAR_TRANSMISSION = 1e-5
_FOCUS_SPREAD_MRAD = 1.0
"""A defocus of 1 µm blurs by 1 nm: aberrations and convergence of a low-magnification image."""
_CONTRAST_STEP_DEG = 0.05
_CONTRAST_BEAMS = 50
_G_MAX_PER_A = 1.2
_BENDS = 5
_THICKEST_NM = 400.0
_THICKNESSES = 81


class BrightField:
    """Renders images of a specimen through the optics as they are."""

    def __init__(self, specimen: Specimen, energy_keV: float, aperture_mrad: float) -> None:
        self._specimen = specimen
        self._energy_keV = energy_keV
        self._aperture_mrad = aperture_mrad
        self._film_nm = carbon_mean_free_path_nm(energy_keV, aperture_mrad=aperture_mrad)
        self._curves: dict[tuple[object, ...], Array] = {}

    def mean_free_path_nm(self, structure: Structure) -> float:
        """Attenuation length of one structure under the objective aperture."""
        return _mean_free_path_nm(structure, self._energy_keV, self._aperture_mrad)

    def transmission(self, grid: Grid, pose: TruePose) -> Array:
        """Share of the electrons that reach the image, at each point of `grid`."""
        seen = self._specimen.project(grid, pose)
        through = np.exp(-seen.film_nm / self._film_nm)
        through *= 1 - (1 - _BAR_TRANSMISSION) * seen.bar
        for crystal, rows, columns, thickness in seen.crystal_nm:
            length = self.mean_free_path_nm(crystal.structure)
            column_x, column_y = grid.points(rows, columns)
            left = self._passed_share_map(crystal, pose, column_x, column_y, thickness)
            through[rows, columns] *= np.exp(-thickness / length) * left
        return through

    def _passed_share_map(
        self,
        crystal: Crystal,
        pose: TruePose,
        column_x_um: Array,
        column_y_um: Array,
        thickness_nm: Array,
    ) -> Array:
        """Share of the Bragg intensity inside the aperture, with the crystal's bend."""
        tilt = pose.tilt()
        knots = np.linspace(0.0, _THICKEST_NM, _THICKNESSES)
        curves = np.stack(
            [self._curve(crystal, tilt, along, knots) for along in np.linspace(-1, 1, _BENDS)]
        )
        middle = self._specimen.to_column(*crystal.centre_um, pose)
        direction = tilt[:2, :2] @ np.array(crystal.bend_direction)
        along = (column_x_um - middle[0]) * direction[0] + (column_y_um - middle[1]) * direction[1]
        b = np.clip((along / crystal.radius_um + 1) / 2, 0, 1) * (_BENDS - 1)
        t = np.clip(thickness_nm / _THICKEST_NM, 0, 1) * (_THICKNESSES - 1)
        return np.asarray(ndimage.map_coordinates(curves, [b, t], order=1))

    def _curve(self, crystal: Crystal, tilt: Array, along: float, knots_nm: Array) -> Array:
        """Passed share at some thicknesses, at `along` radii from the middle; cached."""
        x, y = crystal.centre_um
        ux, uy = crystal.bend_direction
        here = along * crystal.radius_um
        orientation = tilt @ crystal.orientation_at(x + here * ux, y + here * uy)
        step = np.deg2rad(_CONTRAST_STEP_DEG)
        key = (crystal.id, *np.rint(orientation.ravel() / step).astype(int).tolist())
        if key not in self._curves:
            self._curves[key] = passed_share(
                crystal.structure,
                orientation,
                knots_nm,
                energy_keV=self._energy_keV,
                aperture_mrad=self._aperture_mrad,
            )
        return self._curves[key]

    def expected(
        self,
        shape: tuple[int, int],
        optics: SimulatedOptics,
        pose: TruePose,
        incident_electrons: float,
        shift_um: Array,
    ) -> Array:
        """Expected electrons per camera pixel.

        Parameters
        ----------
        incident_electrons
            All electrons of the beam during the exposure.
        shift_um
            Extra displacement of the image (charging), column frame.
        """
        axes = optics.image_axes_um()
        centre = optics.image_centre_um() + shift_um
        grid = Grid(shape, (float(centre[0]), float(centre[1])), axes)
        column_x, column_y = grid.points(slice(shape[0]), slice(shape[1]))
        middle = optics.beam_centre_um()
        radius = optics.beam_diameter_nm() * 5e-4
        edge = max(optics.scenario.beam.edge_share * radius, 1e-6)
        profile = 0.5 * erfc(
            (np.hypot(column_x - middle[0], column_y - middle[1]) - radius) / (np.sqrt(2) * edge)
        )
        per_um2 = incident_electrons / (np.pi * (radius**2 + edge**2))
        image = per_um2 * abs(float(np.linalg.det(axes))) * profile * self.transmission(grid, pose)
        height = float(self._specimen.to_column(pose.x_um, pose.y_um, pose)[2])
        # underfocus images a plane upstream: a specimen further downstream is more underfocused
        defocus_um = optics.now.defocus_nm * 1e-3 + height
        blur_px = abs(defocus_um) * _FOCUS_SPREAD_MRAD * 1e-3 / np.sqrt(abs(np.linalg.det(axes)))
        return ndimage.gaussian_filter(image, blur_px) if blur_px > 0.2 else image


def passed_share(
    structure: Structure,
    orientation: Array,
    thickness_nm: Array,
    *,
    energy_keV: float,
    aperture_mrad: float,
) -> Array:
    """Share of the Bragg intensity that passes the objective aperture, like `thickness_nm`.

    Diffracted beams inside the aperture count: at this magnification they fall where the
    direct beam does.
    """
    lam = wavelength_A(energy_keV)
    factors = structure_factors(structure)
    beams = beams_near_sphere(
        factors, orientation, wavelength_A=lam, g_max_per_A=_G_MAX_PER_A, s_max_per_A=0.02
    )
    t = np.maximum(10 * thickness_nm, 0.0)
    weight = importance(factors, beams, float(t.max()), energy_keV=energy_keV)
    beams = beams.take(np.argsort(-weight, kind="stable")[:_CONTRAST_BEAMS])
    intensity = beam_intensities(factors, beams, t, energy_keV=energy_keV, strong=_CONTRAST_BEAMS)
    inside = np.hypot(*beams.g_per_A.T) * lam * 1e3 <= aperture_mrad
    return np.asarray(np.clip(intensity[:, inside].sum(axis=1), 0.0, 1.0))


@lru_cache(maxsize=64)
def _mean_free_path_nm(structure: Structure, energy_keV: float, aperture_mrad: float) -> float:
    return mean_free_path_nm(structure, energy_keV, aperture_mrad=aperture_mrad)
