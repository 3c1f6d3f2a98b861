from __future__ import annotations

import numpy as np
import pytest

from controller.hardware.errors import LimitError, UnsupportedError
from controller.hardware.values import Mode, OpticsChange
from sim_microscope.faults import FaultBoard
from sim_microscope.geometry import plane_rotation
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scenario import OpticsSpec, Scenario


def optics(seed: int = 1, *faults: str, **spec: object) -> SimulatedOptics:
    scenario = Scenario(optics=OpticsSpec(**spec))  # type: ignore[arg-type]
    return SimulatedOptics(scenario, seed, FaultBoard(faults, seed))


def apply(o: SimulatedOptics, **change: object) -> None:
    o.write(OpticsChange(**change), 0.0, 1.0)  # type: ignore[arg-type]


def test_each_mode_remembers_its_settings() -> None:
    o = optics()
    apply(o, mode=Mode.DIFFRACTION, beam_diameter_nm=150.0, defocus_nm=40.0)
    apply(o, mode=Mode.IMAGE)
    assert o.state(1.0).defocus_nm == 0.0
    apply(o, mode=Mode.DIFFRACTION)
    assert o.state(1.0).beam_diameter_nm == 150.0
    assert o.state(1.0).defocus_nm == 40.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probe_current_pA": 1e4}, "probe_current_pA = 10000 is outside 0.0001 .. 300"),
        ({"beam_diameter_nm": 1.0}, "beam_diameter_nm = 1 is outside 50 .. 50000"),
        ({"image_shift_nm": (0.0, 9e9)}, r"image_shift_nm = \(0, 9e\+09\) is outside ±5000"),
        ({"beam_tilt_mrad": (99.0, 0.0)}, "outside ±30"),
        ({"scan_rotation_deg": 400.0}, "scan_rotation_deg = 400"),
    ],
)
def test_what_the_lenses_cannot_do_is_refused_as_a_whole(
    change: dict[str, object], said: str
) -> None:
    o = optics()
    before = o.state(1.0)
    with pytest.raises(LimitError, match=said) as error:
        apply(o, pixel_size_nm=3.0, **change)
    assert "nothing was" in str(error.value)
    assert o.state(1.0) == before


def test_settings_of_another_mode_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="cannot be set in mode image, only in stem"):
        apply(optics(), convergence_semiangle_mrad=12.0)


def test_the_stored_calibration_misses_the_truth_by_its_sigma() -> None:
    found = [optics(seed) for seed in range(200)]
    off = [o.true.tilt_axis_azimuth_deg - o.calibration.tilt_axis_azimuth_deg for o in found]
    assert np.std(off) == pytest.approx(found[0].calibration.azimuth_sigma_deg, rel=0.2)
    scale = [o.true.pixel_size_factor - 1 for o in found]
    assert np.std(scale) == pytest.approx(0.015, rel=0.2)
    assert np.abs(scale).max() <= 0.03 + 1e-12


@pytest.mark.parametrize("mirrored", [False, True])
def test_detector_and_column_are_turned_by_the_azimuth(mirrored: bool) -> None:
    """X of the column lies at the azimuth in the pattern; Y at +90, or -90 where mirrored."""
    o = optics(diffraction_mirrored=mirrored, tilt_axis_azimuth_deg=30.0, azimuth_error_deg=0.0)
    to_detector = np.linalg.inv(o.column_from_detector())
    x_axis, y_axis = to_detector @ [1, 0], to_detector @ [0, 1]
    assert np.rad2deg(np.arctan2(x_axis[1], x_axis[0])) == pytest.approx(30)
    assert np.rad2deg(np.arctan2(y_axis[1], y_axis[0])) == pytest.approx(-60 if mirrored else 120)


def test_a_picture_vector_is_flipped_then_turned() -> None:
    turned = plane_rotation(90.0) @ [1.0, 0.0]
    np.testing.assert_allclose(turned, [0, 1], atol=1e-12)
    np.testing.assert_allclose(plane_rotation(0.0, mirrored=True) @ [2.0, 3.0], [2, -3])
    np.testing.assert_allclose(plane_rotation(90.0, mirrored=True) @ [0.0, 1.0], [1, 0], atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_raster_is_turned_against_the_detector_as_row_col_vectors(mirrored: bool) -> None:
    o = optics(
        diffraction_mirrored=mirrored,
        scan_rotation_deg=20.0,
        azimuth_error_deg=0.0,
        pixel_size_error=0.0,
    )
    apply(o, mode=Mode.STEM, scan_rotation_deg=5.0)
    t = np.deg2rad(25.0)
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    row_col = rotation @ [1.0, 0.0]  # one step along +scan_y
    column = o.column_from_scan() @ [0.0, 1.0]
    in_detector = np.linalg.inv(o.column_from_detector()) @ column
    np.testing.assert_allclose(in_detector, row_col[::-1], atol=1e-12)


def test_a_defocused_probe_widens_by_the_cone() -> None:
    o = optics()
    apply(o, mode=Mode.STEM, convergence_semiangle_mrad=10.0, defocus_nm=1000.0)
    assert o.beam_diameter_nm() == pytest.approx(20.0, rel=0.02)
    apply(o, defocus_nm=0.0)
    assert o.beam_diameter_nm() == pytest.approx(0.3, abs=0.1)


def test_a_shift_lands_where_it_is_sent_up_to_the_cross_talk() -> None:
    o = optics(mode_offset_nm=0.0)
    apply(o, beam_shift_nm=(400.0, -300.0), image_shift_nm=(100.0, 50.0))
    np.testing.assert_allclose(o.beam_centre_um(), [0.4, -0.3], atol=0.05)
    np.testing.assert_allclose(o.image_centre_um(), [0.1, 0.05], atol=0.02)
    assert not np.allclose(o.beam_centre_um(), [0.4, -0.3], atol=1e-6)


def test_beam_tilt_and_specimen_tilt_undo_each_other() -> None:
    o = optics()
    apply(o, beam_tilt_mrad=(8.0, -5.0))
    incident = np.array([8e-3, -5e-3, 1.0])
    upright = o.beam_upright() @ incident
    np.testing.assert_allclose(upright[:2], 0, atol=1e-12)


def test_a_current_that_is_set_up_on_the_meter_holds_now() -> None:
    o = optics()
    o.write(OpticsChange(probe_current_pA=2.0), 0.0, emission=0.8)
    assert o.now.probe_current_pA * 0.8 == pytest.approx(2.0)


def test_a_mode_change_may_resize_the_beam_and_the_read_back_shows_it() -> None:
    o = optics(1, "beam-resized@0")
    apply(o, mode=Mode.DIFFRACTION)
    assert o.state(1.0).beam_diameter_nm != pytest.approx(300.0)
    apply(o, mode=Mode.IMAGE)
    assert o.state(1.0).beam_diameter_nm == 8000.0


def test_a_clipped_image_shift_is_read_back_as_it_is() -> None:
    o = optics(1, "image-shift-clip@0")
    apply(o, image_shift_nm=(700.0, -30.0))
    assert o.state(1.0).image_shift_nm == (100.0, -30.0)
