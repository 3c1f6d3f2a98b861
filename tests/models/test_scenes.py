"""Laws of the drawn scenes: physics, truth and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest

from models.classes import RegionClass
from models.evaluation_scenes import draw_evaluation_scene
from models.imaging import Detector, ImagingConfig, detect, draw_scene, take_image
from models.polyhedra import Polyhedron, draw_polyhedron
from models.scenes import SceneConfig, Specimen, draw_specimen
from models.truth import Footprint, Truth, judge_picks, truth_of

SHAPE = (96, 128)


def _specimen(crystal_mfp: np.ndarray, film_mfp: float = 0.0) -> Specimen:
    film = np.full(crystal_mfp.shape, film_mfp, np.float32)
    none = np.zeros_like(film)
    bars = np.zeros(film.shape, bool)
    truth = truth_of([], film_mfp=film, dirt_mfp=none, bars=bars, pixel_size_nm=8.0)
    return Specimen(8.0, film, crystal_mfp.astype(np.float32), none, bars, none, truth=truth)


def _square(y0: int, x0: int, *, side: int = 30, mfp: float = 0.4) -> Footprint:
    return Footprint(y0, x0, np.full((side, side), mfp, np.float32))


def _truth(crystals: list[Footprint], *, bar_rows: int = 0) -> Truth:
    film = np.full(SHAPE, 0.1, np.float32)
    bars = np.zeros(SHAPE, bool)
    bars[:bar_rows] = True
    dirt = np.zeros(SHAPE, np.float32)
    return truth_of(crystals, film_mfp=film, dirt_mfp=dirt, bars=bars, pixel_size_nm=10.0)


def test_the_same_seed_draws_the_same_scene_and_another_does_not() -> None:
    config = SceneConfig(shape=SHAPE)
    a, b, c = (draw_scene(np.random.default_rng(s), config).image.values for s in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_counting_detector_counts_with_poisson_mean_and_variance() -> None:
    expected = np.full((257, 301), 0.37, np.float32)
    values, gain, offset = detect(np.random.default_rng(0), expected, "counting")
    assert (gain, offset) == (1.0, 0.0)
    error = 5 * np.sqrt(0.37 / values.size)
    assert values.mean() == pytest.approx(0.37, abs=error)
    assert values.var() == pytest.approx(0.37, rel=0.03)
    assert (values == np.round(values)).all()


@pytest.mark.parametrize("detector", ["integrating", "scan"])
@pytest.mark.parametrize("electrons", [0.02, 100.0])
def test_calibrated_values_give_the_electrons_back(detector: Detector, electrons: float) -> None:
    expected = np.full((200, 210), electrons, np.float32)
    values, gain, offset = detect(np.random.default_rng(3), expected, detector)
    measured = float(((values - offset) / gain).mean())
    assert measured == pytest.approx(electrons, rel=0.12, abs=0.01)


def test_bright_field_falls_exponentially_with_thickness() -> None:
    steps = np.zeros(SHAPE)
    steps[:, 40:80], steps[:, 80:] = 0.5, 1.0
    config = ImagingConfig(uneven_light=0.0, randomise_detector=False)
    image = take_image(
        np.random.default_rng(2), _specimen(steps), config, mode="BF", electrons_per_px=400.0
    ).electrons
    vacuum, half, one = (
        image[5:-5, c].mean() for c in (slice(9, 31), slice(49, 71), slice(89, 119))
    )
    assert half / vacuum == pytest.approx(np.exp(-0.5), rel=0.02)
    assert one / vacuum == pytest.approx(np.exp(-1.0), rel=0.02)


def test_dark_field_grows_with_thickness() -> None:
    steps = np.zeros(SHAPE)
    steps[:, 40:80], steps[:, 80:] = 0.3, 0.9
    config = ImagingConfig(uneven_light=0.0, randomise_detector=False)
    image = take_image(
        np.random.default_rng(2), _specimen(steps), config, mode="HAADF", electrons_per_px=50.0
    ).electrons
    assert image[:, 5:35].mean() < image[:, 45:75].mean() < image[:, 85:].mean()


@pytest.mark.parametrize("dose", [0.02, 3.0, 100.0])
def test_the_mean_of_the_electrons_is_the_dose(dose: float) -> None:
    scene = draw_scene(np.random.default_rng(8), SceneConfig(shape=SHAPE), electrons_per_px=dose)
    assert scene.image.electrons.mean() == pytest.approx(dose, rel=0.12, abs=0.01)


def test_a_cube_along_the_beam_has_its_edge_as_thickness() -> None:
    cube = Polyhedron(np.concatenate([np.eye(3), -np.eye(3)]), np.full(6, 50.0))
    x, y = np.linspace(-80, 80, 81, dtype=np.float32), np.linspace(-60, 60, 61, dtype=np.float32)
    t = cube.thickness_nm(x, y)
    inside = (np.abs(y)[:, None] < 50) & (np.abs(x)[None, :] < 50)
    np.testing.assert_allclose(t[inside], 100.0, rtol=1e-5)
    assert (t[(np.abs(y)[:, None] > 50.1) | (np.abs(x)[None, :] > 50.1)] == 0).all()


def test_drawn_crystals_have_about_the_wanted_size() -> None:
    rng = np.random.default_rng(4)
    grid = np.arange(-1500, 1501, 10, dtype=np.float32)
    bodies = [draw_polyhedron(rng, lateral_size_nm=500, thickness_nm=120) for _ in range(40)]
    maps = [b.thickness_nm(grid, grid) for b in bodies]
    diameters = [2 * np.sqrt((m > 1).sum() * 100 / np.pi) for m in maps]
    assert 330 < np.median(diameters) < 700
    assert 70 < np.median([m.max() for m in maps]) < 200


def test_labels_agree_with_the_maps_they_come_from() -> None:
    rng = np.random.default_rng(12)
    for _ in range(12):
        s = draw_specimen(rng, SceneConfig(shape=SHAPE))
        labels, t = s.truth.labels, s.truth
        assert (labels[s.bars] == RegionClass.BAR).all()
        crystal = labels == RegionClass.CRYSTAL
        assert (t.instances[crystal] > 0).all()
        assert (s.crystal_mfp[crystal] <= 0.8).all()
        assert (s.film_mfp[labels == RegionClass.VACUUM] == 0).all()
        assert (s.crystal_mfp[labels <= RegionClass.SUPPORT] == 0).all()
        assert crystal[t.usable > 0].all()
        assert ((t.usable_distance_nm > 0) == (t.usable > 0)).all()


@pytest.mark.parametrize(("gap_px", "single"), [(3, False), (9, True)])
def test_a_crystal_is_usable_only_60_nm_from_the_next(gap_px: int, single: bool) -> None:
    truth = _truth([_square(20, 10), _square(20, 40 + gap_px)])
    assert bool((truth.usable > 0).any()) == single


def test_crystals_at_the_edge_on_a_bar_or_thick_are_not_usable() -> None:
    assert not (_truth([_square(0, 20)]).usable > 0).any()
    assert not (_truth([_square(20, 20)], bar_rows=25).usable > 0).any()
    assert not (_truth([_square(20, 20, mfp=0.9)]).usable > 0).any()
    assert (_truth([_square(20, 20)]).usable > 0).any()


def test_a_pick_is_right_by_the_rules() -> None:
    truth = _truth([_square(30, 20), _square(30, 80)])
    centre, other = (44.5, 34.5, 60.0), (44.5, 94.5, 60.0)
    assert judge_picks(truth, [centre, other]) == [True, True]
    assert judge_picks(truth, [centre, (46.0, 36.0, 60.0)]) == [True, False]  # taken
    assert judge_picks(truth, [(44.5, 34.5, 40.0)]) == [False]  # disc too small
    assert judge_picks(truth, [(44.5, 34.5, 250.0)]) == [False]  # disc leaves the crystal
    assert judge_picks(truth, [(10.0, 34.5, 60.0), (-4.0, 500.0, 60.0)]) == [False, False]


def test_the_second_generator_reproduces_and_fills_every_class() -> None:
    draw = [
        draw_evaluation_scene(np.random.default_rng([7, k]), electrons_per_px=1.0, shape=(161, 203))
        for k in (*range(20), 0)
    ]
    np.testing.assert_array_equal(draw[0].image.values, draw[-1].image.values)
    seen = np.unique(np.concatenate([s.specimen.truth.labels.ravel() for s in draw]))
    assert set(seen) == set(RegionClass)
