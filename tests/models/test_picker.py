"""The shipped picker: right on scenes it never saw, silent where there is nothing, never fooled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.classes import Mode, RegionClass
from models.evaluate import confusion, intersection_over_union, pick_scene
from models.evaluation_scenes import draw_evaluation_scene
from models.frames import ImageError, mend_bad_pixels
from models.imaging import ImagingConfig, Scene, take_image
from models.picker import RegionPicker
from models.picking import split_instances
from models.scenes import SceneConfig, draw_specimen
from models.truth import judge_picks


@pytest.fixture(scope="module")
def picker() -> RegionPicker:
    torch.set_num_threads(1)
    return RegionPicker.load()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Bright-field and dark-field scenes of the second generator at 5 electrons per pixel."""
    return [
        draw_evaluation_scene(
            np.random.default_rng([99, k]), electrons_per_px=5.0, shape=(320, 352)
        )
        for k in range(12)
    ]


def _otsu_labels(scene: Scene) -> np.ndarray:
    """The classical finder: blur, Otsu's threshold, crystals are the dark (bright) areas."""
    smooth = ndimage.gaussian_filter(scene.image.electrons, 2.0)
    if scene.image.mode == "BF":
        smooth = -smooth
    counts, edges = np.histogram(smooth, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    moment = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = moment / below - (moment[-1] - moment) / above
        between = np.nan_to_num(below * above * gap**2)
    labels = np.full(smooth.shape, RegionClass.SUPPORT, np.uint8)
    labels[smooth > centres[between.argmax()]] = RegionClass.CRYSTAL
    return labels


def test_the_network_beats_otsu_at_5_electrons_per_pixel(
    picker: RegionPicker, scenes: list[Scene]
) -> None:
    ours, otsu = 0, 0
    for scene in scenes:
        truth = scene.specimen.truth.labels
        ours = ours + confusion(pick_scene(picker, scene).labels, truth)
        otsu = otsu + confusion(_otsu_labels(scene), truth)
    crystal = RegionClass.CRYSTAL
    assert intersection_over_union(ours)[crystal] > 1.3 * intersection_over_union(otsu)[crystal]
    assert (intersection_over_union(ours)[[0, 1, 2, 5]] > [0.6, 0.6, 0.25, 0.1]).all()


def test_scores_promise_no_more_than_they_keep(picker: RegionPicker, scenes: list[Scene]) -> None:
    """The number of right picks is within three standard deviations of the sum of the scores."""
    promised, spread, kept = 0.0, 0.0, 0
    for scene in scenes:
        picks = pick_scene(picker, scene).picks
        verdicts = judge_picks(scene.specimen.truth, [(p.y_px, p.x_px, p.radius_nm) for p in picks])
        kept += sum(verdicts)
        promised += sum(p.score for p in picks)
        spread += sum(p.score * (1 - p.score) for p in picks)
    assert promised > 0.5
    assert kept > promised - 3 * spread**0.5


def test_a_result_keeps_its_promises(picker: RegionPicker, scenes: list[Scene]) -> None:
    image = scenes[0].image
    result = pick_scene(picker, scenes[0])
    assert result.labels.shape == result.thickness_mfp.shape == image.values.shape
    assert result.labels.dtype == np.uint8
    np.testing.assert_allclose(result.probability.sum(axis=0), 1, atol=1e-4)
    np.testing.assert_array_equal(result.probability.argmax(axis=0), result.labels)
    scores = [p.score for p in result.picks]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= s <= 1 for s in scores)
    assert all(p.radius_nm >= 50 for p in result.picks)
    assert result.electrons_per_px == pytest.approx(image.electrons.mean(), rel=1e-4)


def test_frames_of_a_field_count_as_their_sum(picker: RegionPicker, scenes: list[Scene]) -> None:
    values = np.random.default_rng(0).poisson(scenes[1].image.electrons.clip(0)).astype(np.uint16)
    frames = np.random.default_rng(1).multinomial(values.ravel(), [0.25] * 4).T
    frames = frames.reshape(4, *values.shape)
    known = {"mode": scenes[1].image.mode, "pixel_size_nm": 8.0}
    whole = picker.pick(values, **known)
    parts = picker.pick(list(frames * 3 + 7), gain=3, offset=7, **known)
    np.testing.assert_array_equal(whole.labels, parts.labels)
    assert [p.score for p in whole.picks] == pytest.approx([p.score for p in parts.picks], abs=1e-3)


@pytest.mark.parametrize("mode", ["BF", "HAADF"])
@pytest.mark.parametrize("dose", [0.05, 5.0])
def test_it_abstains_on_empty_fields(picker: RegionPicker, mode: Mode, dose: float) -> None:
    config = SceneConfig(shape=(224, 256), empty_share=1.0, dirty_share=0.0, bar_share=0.0)
    for seed in range(3):
        rng = np.random.default_rng([seed, 5])
        specimen = draw_specimen(rng, config, pixel_size_nm=9.0)
        image = take_image(rng, specimen, ImagingConfig(), electrons_per_px=dose, mode=mode)
        result = pick_scene(picker, Scene(specimen, image))
        assert result.abstained, (seed, result.picks[:1])
        assert result.reason


def test_a_dim_abstention_says_how_many_electrons_it_wants(picker: RegionPicker) -> None:
    scene = draw_evaluation_scene(
        np.random.default_rng(2), electrons_per_px=0.02, shape=(256, 256), mode="BF"
    )
    result = pick_scene(picker, scene)
    assert result.abstained
    assert result.out_of_distribution or result.electrons_per_px_wanted > 0.04


def test_hot_and_dead_pixels_are_mended_and_honest_counts_are_not() -> None:
    rng = np.random.default_rng(0)
    for dose in (0.02, 1.0, 400.0):
        clean = rng.poisson(dose, (90, 70)).astype(np.float32)
        np.testing.assert_array_equal(mend_bad_pixels(clean), clean)
    broken = clean.copy()
    broken[40, 33], broken[0, 5] = 30000, 0
    mended = mend_bad_pixels(broken)
    assert abs(mended[40, 33] - 400) < 60
    assert abs(mended[0, 5] - 400) < 60
    assert (mended != broken).sum() == 2


def _photograph() -> np.ndarray:
    """A smooth, noise-free grey picture of 8 bits with a scale bar, as a screenshot has."""
    rows, cols = np.mgrid[0:240, 0:320]
    picture = 120 + 80 * np.sin(rows / 17) * np.cos(cols / 23) + 0.2 * cols
    picture[220:228, 20:120] = 255
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((128, 160), np.uint16),
        np.full((128, 160), 65535, np.uint16),
        np.full((128, 160), 7.0),
        _photograph(),
        np.minimum(np.random.default_rng(0).poisson(300, (160, 128)), 255),
        np.random.default_rng(1).poisson(4, (128, 160)) * 400,
    ],
    ids=["blank", "saturated", "constant", "photograph", "clipped", "wrong gain"],
)
@pytest.mark.parametrize("mode", ["BF", "HAADF"])
def test_foreign_images_are_flagged_and_never_picked(
    picker: RegionPicker, image: np.ndarray, mode: Mode
) -> None:
    result = picker.pick(image, mode=mode, pixel_size_nm=9.0)
    assert result.out_of_distribution
    assert result.abstained


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        (np.full((40, 50), np.nan), {}, "2000 of 2000 values are NaN"),
        (np.ones((40, 50, 3), np.uint8), {}, r"\(40, 50, 3\) looks like a colour photograph"),
        (np.ones((1, 1)), {}, "1 x 1 pixels are too small"),
        (np.ones(30), {}, r"shape \(30,\); wanted"),
        (np.ones((2, 2, 30, 30)), {}, r"shape \(2, 2, 30, 30\); wanted"),
        ([np.ones((30, 30)), np.ones((30, 31))], {}, "must have one shape"),
        (np.ones((30, 30), complex), {}, "complex128 values"),
        (np.ones((30, 30)), {"pixel_size_nm": 0.0}, "pixel_size_nm is 0"),
        (np.ones((30, 30)), {"pixel_size_nm": float("nan")}, "pixel_size_nm is nan"),
        (np.ones((30, 30)), {"pixel_size_nm": 8000.0}, "check the unit"),
        (np.ones((30, 30)), {"gain": -1.0}, "gain is -1"),
        (np.ones((30, 30)), {"offset": float("inf")}, "offset is inf"),
        (np.ones((30, 30)), {"mode": "DF"}, "'BF' or 'HAADF'"),
        (np.ones((30, 30)), {"incident_electrons_per_px": 0.0}, "incident_electrons_per_px is 0"),
    ],
)
def test_bad_input_is_refused_with_its_numbers(
    picker: RegionPicker, image: Any, changes: dict[str, Any], message: str
) -> None:
    known = {"mode": "BF", "pixel_size_nm": 8.0} | changes
    with pytest.raises(ImageError, match=message) as refusal:
        picker.pick(image, **known)
    assert "othing was picked" in str(refusal.value)


@pytest.mark.parametrize("shape", [(17, 61), (333, 200)])
@pytest.mark.parametrize("pixel_nm", [2.9, 14.7])
def test_any_shape_and_pixel_size_comes_back_as_it_went_in(
    picker: RegionPicker, shape: tuple[int, int], pixel_nm: float
) -> None:
    image = np.random.default_rng(0).poisson(3.0, shape)
    result = picker.pick(image, mode="BF", pixel_size_nm=pixel_nm)
    assert result.labels.shape == shape
    assert result.probability.shape == (6, *shape)


def test_touching_discs_are_two_instances_and_a_rough_one_is_one() -> None:
    rows, cols = np.mgrid[0:60, 0:110]
    two = np.hypot(rows - 30, cols - 30) < 20
    two |= np.hypot(rows - 30, cols - 68) < 20
    depth = ndimage.distance_transform_edt(two).astype(np.float32) * 10
    labels, count = split_instances(two, depth)
    assert count == 2
    assert labels[30, 30] != labels[30, 68]
    one = (np.abs(rows - 30) < 12) & (np.abs(cols - 50) < 40)
    one[18:21, 40:44] = False
    _, count = split_instances(one, ndimage.distance_transform_edt(one).astype(np.float32) * 10)
    assert count == 1
