"""Zones within reach, the exported orientation: checked by turning the crystal there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, record
from controller.perception.alignment import (
    CrystalStructure,
    Goniometer,
    HolderFrame,
    HolderReach,
    OrientationFileError,
    Stereogram,
    TiltEstimate,
    crystal_orientation,
    estimate_tilt,
    place_zones,
    read_orientation,
    save_stereogram,
    structure_from_cif,
    write_orientation,
)
from controller.perception.alignment.geometry import double_tilt, rotation_from_vector
from controller.perception.alignment.holder_orientation import (
    detector_from_crystal,
    holder_from_crystal,
)
from controller.perception.alignment.stereogram import project, zone_table
from controller.perception.alignment.zones import (
    family_name,
    laue_layer_inv_A,
    low_index_zones,
    zone_label,
)

DATA = Path(__file__).parent / "data"
FRAMES = [HolderFrame(-62.0), HolderFrame(17.0, mirrored=True)]
REACH = HolderReach((-30, 30), (-20, 20))


def structure(name: str) -> CrystalStructure:
    return structure_from_cif(DATA / f"{name}.cif")


def some_rotation(seed: int) -> np.ndarray:
    return rotation_from_vector(np.random.default_rng(seed).normal(size=3))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", ["UiO-66", "MFI", "NU-1000"])
def test_each_zone_lies_along_the_beam_where_the_table_says(name: str, frame: HolderFrame) -> None:
    crystal = structure(name)
    in_holder = some_rotation(3)
    seen = detector_from_crystal(in_holder, 4.0, -7.0, frame)

    placed = place_zones(
        crystal, seen, alpha_deg=4.0, beta_deg=-7.0, frame=frame, reach=REACH, max_index=2
    )

    assert placed
    for zone in placed:
        stage = double_tilt(zone.alpha_deg, zone.beta_deg) @ in_holder
        np.testing.assert_allclose(stage @ crystal.direction(zone.uvw), [0, 0, 1], atol=1e-9)
        assert zone.reachable == (abs(zone.alpha_deg) <= 30 and abs(zone.beta_deg) <= 20)


@pytest.mark.parametrize("frame", FRAMES)
def test_orientations_stay_proper_through_a_mirrored_camera_and_come_back(
    frame: HolderFrame,
) -> None:
    seen = some_rotation(8)
    in_holder = holder_from_crystal(seen, 12.0, -5.0, frame)
    assert np.linalg.det(in_holder) == pytest.approx(1.0)
    np.testing.assert_allclose(
        detector_from_crystal(in_holder, 12.0, -5.0, frame), seen, atol=1e-12
    )


def test_families_are_whole_and_named_once() -> None:
    cubic = low_index_zones(structure("UiO-66"), 1)
    sizes = {name: sum(f == name for _, f in cubic) for name in {f for _, f in cubic}}
    assert sizes == {(1, 0, 0): 3, (1, 1, 0): 6, (1, 1, 1): 4}
    hexagonal = structure("NU-1000")
    assert family_name(hexagonal, (0, 1, 0)) == family_name(hexagonal, (-1, -1, 0)) == (1, 1, 0)
    assert family_name(structure("MFI"), (0, 1, 0)) == (0, 1, 0)
    assert zone_label((1, -1, 0)) == "[11\u03050]"


def test_laue_layers_leave_out_what_centring_forbids() -> None:
    crystal = structure("UiO-66")
    a = float(np.linalg.norm(crystal.direct[0]))
    assert laue_layer_inv_A(crystal, (0, 0, 1)) == pytest.approx(1 / a)
    # half of [110] is a lattice vector of a face-centred cell
    assert laue_layer_inv_A(crystal, (1, 1, 0)) == pytest.approx(np.sqrt(2) / a)


@pytest.mark.parametrize("frame", FRAMES)
def test_an_exported_orientation_predicts_the_pattern_at_another_reading(
    tmp_path: Path, frame: HolderFrame
) -> None:
    """Measured at one reading, written, read, and held against a pattern of another reading."""
    crystal, known = Crystal.from_cif(DATA / "UiO-66.cif"), structure("UiO-66")
    # a physical crystal near [001] in the holder; a mirrored camera shows it reflected
    in_holder = rotation_from_vector(np.array([0.09, -0.05, 0.4]))

    def measured(alpha: float, beta: float) -> TiltEstimate:
        to_camera = frame.stage_from_detector().T @ double_tilt(alpha, beta) @ in_holder
        g, intensity = diffraction(crystal, to_camera, 200, 45, g_max=1.2, beams=220)
        image = record(g, intensity, Detector(), 3e4, np.random.default_rng(5))
        return estimate_tilt(
            image,
            energy_keV=200,
            inv_A_per_px=0.0121,
            structure=known,
            target_zone_uvw=(0, 0, 1),
        )

    first = measured(2.0, -3.0)
    exported = crystal_orientation(first, known, Goniometer(2.0, -3.0, frame), energy_keV=200)
    assert exported is not None
    write_orientation(tmp_path / "crystal.json", exported)
    back = read_orientation(tmp_path / "crystal.json")
    assert back == exported

    second = measured(-3.5, 1.5)
    expected = back.tilt_at((0, 0, 1), -3.5, 1.5)
    assert first.answered
    assert second.answered
    error = np.hypot(second.tilt_x_mrad - expected[0], second.tilt_y_mrad - expected[1])
    assert error < 3 * np.hypot(first.sigma_mrad, second.sigma_mrad)
    assert np.hypot(first.tilt_x_mrad - expected[0], first.tilt_y_mrad - expected[1]) > 50
    prior = back.prior_at((0, 0, 1), -3.5, 1.5)
    assert error < 3 * prior.tilt_sigma_mrad < 15
    # g of the text's UB has the length of 1/d
    ub = np.array([line.split() for line in exported.as_text().splitlines()[3:6]], dtype=float)
    assert np.linalg.norm(ub @ [2, 0, 0]) == pytest.approx(2 / 20.7004, rel=1e-4)


def test_a_file_that_contradicts_itself_is_refused_by_name(tmp_path: Path) -> None:
    from tests.controller.alignment.test_alignment_moves import answer

    known = structure("UiO-66")
    measured = answer((3.0, 4.0))
    measured = type(measured)(**{**vars(measured), "orientation": some_rotation(2)})
    exported = crystal_orientation(
        measured, known, Goniometer(1.0, 2.0, HolderFrame(5.0)), energy_keV=300
    )
    assert exported is not None
    path = tmp_path / "crystal.json"
    write_orientation(path, exported)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"alpha_deg": 3.0}))
    with pytest.raises(OrientationFileError, match="ub_holder_inv_A differs"):
        read_orientation(path)
    path.write_text(json.dumps(content | {"orientation": [[1, 0, 0], [0, 1, 0], [0, 1, 1]]}))
    with pytest.raises(OrientationFileError, match="no rotation"):
        read_orientation(path)
    with pytest.raises(OrientationFileError, match="cannot be read"):
        read_orientation(tmp_path / "none.json")


def test_the_stereogram_keeps_angles_and_says_what_is_within_reach(tmp_path: Path) -> None:
    # conformal: small steps in alpha and beta stay at right angles, with equal scale at the origin
    here, right, up = project(0.0, 0.0), project(0.0, 0.01), project(0.01, 0.0)
    np.testing.assert_allclose(right - here, [np.deg2rad(0.01), 0], atol=1e-9)
    np.testing.assert_allclose(up - here, [0, np.deg2rad(0.01)], atol=1e-9)

    zones = place_zones(
        structure("UiO-66"), np.eye(3), alpha_deg=0, beta_deg=0, frame=HolderFrame(0), reach=REACH
    )
    text = zone_table(zones)
    assert "[0 0 1]" in text
    assert len(text.splitlines()) == 1 + sum(z.reachable for z in zones)
    path = tmp_path / "reach.svg"
    save_stereogram(path, Stereogram(tuple(zones), 3.0, -2.0, REACH, (0.0, 0.0), "UiO-66"))
    assert "<svg" in path.read_text()
    with pytest.raises(ValueError, match=r"not '\.gif'"):
        save_stereogram(tmp_path / "reach.gif", Stereogram((), 0, 0, REACH))
