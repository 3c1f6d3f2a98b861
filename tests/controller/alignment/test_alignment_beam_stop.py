"""Where a beam stop hides the direct beam, and pixels that fire among few spots."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alignment_corpus import corpus, pattern_of
from controller.perception.alignment.beam_stop import find_beam_stop
from controller.perception.alignment.pattern import check_pattern


def halo(
    centre: tuple[float, float], *, stop_px: float, electrons: float, side: int = 256, seed: int = 1
) -> np.ndarray:
    """A Lorentzian halo with a stop and its arm, (side, side)."""
    y, x = np.mgrid[:side, :side]
    r = np.hypot(x - centre[0], y - centre[1]) * 256 / side
    rate = (1 + r**2 / 625.0) ** -1.5
    rate *= electrons / rate.sum()
    arm = (np.abs(y - centre[1]) < 0.4 * stop_px * side / 256) & (x > centre[0])
    rate[(r < stop_px) | arm] = 0.0
    return np.random.default_rng(seed).poisson(rate)


@settings(max_examples=25)
@given(
    x=st.floats(108, 148), y=st.floats(108, 148), stop_px=st.floats(5, 9),
    electrons=st.sampled_from([3e3, 3e4]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_stop_is_found_wherever_the_beam_is(
    x: float, y: float, stop_px: float, electrons: float, seed: int
) -> None:
    counts = halo((x, y), stop_px=stop_px, electrons=electrons, seed=seed)
    stop = find_beam_stop(counts.astype(float))
    assert stop is not None
    assert np.hypot(stop.centre_px[0] - x, stop.centre_px[1] - y) < 4.0
    assert stop.shadow[round(y), round(x)]


def test_a_stop_in_a_larger_frame_is_larger() -> None:
    counts = halo((250.0, 270.0), stop_px=7.0, electrons=1e5, side=512)
    stop = find_beam_stop(counts.astype(float))
    assert stop is not None
    assert np.hypot(stop.centre_px[0] - 250.0, stop.centre_px[1] - 270.0) < 5.0
    assert stop.shadow.sum() > np.pi * 10.0**2


def test_the_gap_between_reflections_is_no_stop() -> None:
    """Gold on its zone: dark places between bright spots, and a faint halo about the stop."""
    cases = list(corpus(1, 1130, varied=True))
    case = cases[int(np.random.default_rng(1130).permutation(len(cases))[49])]
    assert (case.structure, case.beam_stop, case.electrons) == ("Au", True, 1e4)
    stop = find_beam_stop(pattern_of(case))
    assert stop is not None
    assert case.detector.centre_px is not None
    assert np.hypot(*np.subtract(stop.centre_px, case.detector.centre_px)) < 3.0


@pytest.mark.parametrize("electrons", [0.0, 40.0])
def test_where_nothing_is_seen_no_stop_is_invented(electrons: float) -> None:
    counts = np.random.default_rng(0).poisson(electrons / 256**2, (256, 256)).astype(float)
    assert find_beam_stop(counts) is None


HOT = {(40, 60): 1400.0, (90, 200): 75.0, (200, 31): 50.0, (210, 220): 32.0}


def sparse_pattern(sigma_px: float) -> np.ndarray:
    """Three faint spots and pixels that fire alone: most of the peaks are not the pattern's."""
    y, x = np.mgrid[:256, :256]
    rate = np.full((256, 256), 0.01)
    for at, electrons in (((100.3, 120.4), 70.0), ((150.2, 90.7), 45.0), ((128.0, 131.0), 60.0)):
        spot = np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / sigma_px**2)
        rate += electrons * spot / spot.sum()
    counts = np.random.default_rng(5).poisson(rate).astype(float)
    for place, value in HOT.items():
        counts[place] = value
    return counts


def test_hot_pixels_are_told_by_the_width_of_the_few_spots() -> None:
    checked = check_pattern(sparse_pattern(1.0))
    assert set(checked.hot_px) == set(HOT)


def test_where_spots_are_as_sharp_as_a_pixel_none_is_masked() -> None:
    assert check_pattern(sparse_pattern(0.1)).hot_px == ()
