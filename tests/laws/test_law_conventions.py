"""docs/conventions.md, held across packages that share no code.

Simulator, controller and recon each have their own rotations, wavelengths and probes; a sign that
one of them had the wrong way round would pass every test of its own and fail here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.values import Calibration, Mode, StagePose
from controller.perception import tilt
from controller.perception.alignment import geometry as alignment
from controller.perception.view import View
from controller.record.report.patterns import wavenumber_inv_A
from controller.record.report.survey import picture_from_stage
from controller.safety.footprint import projection
from recon import geometry as recon
from sim_microscope import geometry as simulated
from sim_microscope.faults import FaultBoard
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scenario import load_scenario

tilts = st.floats(-60, 60)
azimuths = st.floats(-180, 180)
vectors = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(alpha=tilts, beta=tilts)
def test_alpha_and_beta_mean_the_same_to_everybody(alpha: float, beta: float) -> None:
    """v_column = Rx(alpha) Ry(beta) v_holder, active and right-handed."""
    theirs = simulated.tilt_matrix(alpha, beta)
    np.testing.assert_allclose(alignment.double_tilt(alpha, beta), theirs, atol=1e-12)
    np.testing.assert_allclose(projection(alpha, beta), theirs[:2, :2], atol=1e-12)


def test_positive_alpha_takes_y_downstream_and_positive_beta_takes_z_to_x() -> None:
    R = simulated.tilt_matrix(10, 0)
    assert (R @ [0, 1, 0])[2] > 0
    R = simulated.tilt_matrix(0, 10)
    assert (R @ [0, 0, 1])[0] > 0


@given(vector=vectors)
def test_the_goniometer_lays_a_holder_direction_along_the_beam_of_the_simulator(
    vector: tuple[float, float, float],
) -> None:
    v = np.array(vector) / np.linalg.norm(vector)
    alpha, beta = alignment.goniometer_for_zone(v)
    assert abs((simulated.tilt_matrix(alpha, beta) @ v)[2]) == pytest.approx(1, abs=1e-12)


@given(rotation=azimuths, mirrored=st.booleans(), col=st.floats(-50, 50), row=st.floats(-50, 50))
def test_camera_and_stage_are_turned_alike_by_controller_simulator_and_report(
    rotation: float, mirrored: bool, col: float, row: float
) -> None:
    calibration = Calibration(image_rotation_deg=rotation, image_mirrored=mirrored)
    pose = StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)
    expected = simulated.plane_rotation(rotation, mirrored=mirrored) @ (col, row)
    view = View((101, 77), 1.0, calibration, pose)
    np.testing.assert_allclose(view.column_nm(col, row), expected, atol=1e-9)
    back = picture_from_stage(calibration) @ expected
    np.testing.assert_allclose(back, (col, row), atol=1e-9)


@given(alpha=st.floats(-40, 40), beta=st.floats(-40, 40), x=st.floats(-2, 2), y=st.floats(-2, 2))
def test_stage_coordinates_ride_with_the_tilt(
    alpha: float, beta: float, x: float, y: float
) -> None:
    """A grid point keeps its (x, y); what the camera shows is foreshortened."""
    pose = StagePose(x_um=0.3, y_um=-0.2, z_um=0, alpha_deg=alpha, beta_deg=beta)
    view = View((101, 77), 5.0, Calibration(image_rotation_deg=37), pose)
    column = simulated.tilt_matrix(alpha, beta) @ (x - 0.3, y + 0.2, 0)
    seen = np.linalg.inv(simulated.plane_rotation(37)) @ column[:2] * 200
    assert view.pixel(x, y) == pytest.approx((77 // 2 + seen[0], 101 // 2 + seen[1]), abs=1e-6)
    assert view.specimen_um(*view.pixel(x, y)) == pytest.approx((x, y), abs=1e-9)


@given(azimuth=azimuths, mirrored=st.booleans())
def test_the_alpha_axis_lies_at_its_azimuth_in_the_pattern(azimuth: float, mirrored: bool) -> None:
    frame = alignment.HolderFrame(azimuth, mirrored)
    detector_from_column = simulated.plane_rotation(azimuth, mirrored=mirrored)
    np.testing.assert_allclose(
        frame.stage_from_detector()[:2, :2] @ detector_from_column, np.eye(2), atol=1e-12
    )
    alpha_axis = detector_from_column @ (1, 0)
    assert math.cos(math.atan2(alpha_axis[1], alpha_axis[0]) - math.radians(azimuth)) > 1 - 1e-12


@pytest.mark.parametrize("added_deg", [0.0, 33.0, -118.0])
def test_the_raster_is_turned_alike_in_simulator_and_reconstruction(added_deg: float) -> None:
    optics = SimulatedOptics(load_scenario("easy"), 3, FaultBoard((), 3))
    optics.mode = Mode.STEM
    optics.settings[Mode.STEM] = replace(optics.now, scan_rotation_deg=added_deg)
    rotation_deg = optics.true.scan_rotation_deg + added_deg
    np.testing.assert_allclose(
        optics.detector_from_scan(), recon.rotation_matrix(rotation_deg), atol=1e-12
    )


@given(energy_keV=st.floats(60, 1000))
def test_all_wavelengths_agree(energy_keV: float) -> None:
    reference = wavelength_A(energy_keV)
    assert recon.wavelength_A(energy_keV) == pytest.approx(reference, rel=1e-6)
    assert tilt.wavelength_A(energy_keV) == pytest.approx(reference, rel=1e-6)
    assert 1 / wavenumber_inv_A(energy_keV) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize(
    "tilt_mrad", [(30.0, 0.0), (0.0, 30.0), (-22.0, 17.0)], ids=["x", "y", "oblique"]
)
def test_the_laue_circle_of_a_simulated_crystal_lies_where_its_zone_axis_points(
    tilt_mrad: tuple[float, float],
) -> None:
    """t points from the direct beam to the centre of the circle; |t| is the angle."""
    from sim_microscope.scattering.diffraction import CrystalInBeam, bragg_spots
    from sim_microscope.structures import load_structure

    to_zone = np.array(alignment.zone_from_tilt(tilt_mrad))
    orientation = simulated.carry_onto_z(to_zone).T
    crystal = CrystalInBeam(load_structure("SrTiO3"), orientation, thickness_nm=40, mosaic_deg=0.05)
    spots = bragg_spots(crystal, energy_keV=300, strong_beams=120)
    K = 1 / wavelength_A(300)
    g = K * np.sin(spots.angle_mrad * 1e-3)
    far = np.hypot(*g.T) > 0.8
    g, weight = g[far], spots.intensity[far] / spots.intensity[far].sum()

    def distance_from_circle(t: np.ndarray) -> float:
        """Mean excitation error |t.g - h| of what is bright, h = K - sqrt(K^2 - g^2)."""
        slope = np.tan(np.hypot(*t) * 1e-3) / np.hypot(*t)
        return float(weight @ np.abs(g @ t * slope - K + np.sqrt(K**2 - (g**2).sum(1))))

    t = np.array(tilt_mrad)
    there = distance_from_circle(t)
    turned = [-t, t[::-1], -t[::-1], t * (1, -1), t * (-1, 1)]
    assert all(distance_from_circle(w) > 3 * there for w in turned if not np.allclose(w, t))
    assert min(distance_from_circle(0.5 * t), distance_from_circle(1.5 * t)) > there


@pytest.mark.parametrize("defocus_A", [250.0, -250.0])
def test_positive_defocus_focuses_downstream_for_simulator_and_reconstruction(
    defocus_A: float,
) -> None:
    """Carried along by the defocus, either probe is in focus, with the other's propagator too."""
    import torch

    from recon.ptychography import optics as rebuilt
    from sim_microscope.scattering import multislice, probe

    n, sampling_A, lam = 96, 0.25, wavelength_A(300)
    k_step = 1 / (n * sampling_A)
    grid = rebuilt.Grid(n, sampling_A, lam)

    def simulated_probe(focus_A: float) -> torch.Tensor:
        described = probe.ProbeOptics(300, 12.0, defocus_nm=focus_A / 10)
        return torch.from_numpy(probe.probe_spectrum(described, (n, n), (k_step, k_step)))

    def rebuilt_probe(focus_A: float) -> torch.Tensor:
        return rebuilt.probe_spectrum(grid, rebuilt.ProbeOptics(0.012 / lam, C10_A=-focus_A))

    downstream = [
        multislice.fresnel_propagator(
            (n, n),
            k_step_per_A=(k_step, k_step),
            wavelength_A=lam,
            distance_A=defocus_A,
            band_limit=1.0,
        ),
        rebuilt.propagator(grid, defocus_A, (0.0, 0.0)),
    ]
    for make in (simulated_probe, rebuilt_probe):
        in_focus = make(0.0)
        for carry in downstream:
            torch.testing.assert_close(make(defocus_A) * carry, in_focus, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        simulated_probe(defocus_A), rebuilt_probe(defocus_A), atol=1e-5, rtol=0
    )
