"""What is proposed and drawn follows from the tilt exactly, and never goes past the holder."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.perception.alignment import (
    Goniometer,
    HolderFrame,
    HolderReach,
    Marks,
    TiltEstimate,
    misorientation_deg,
    propose_move,
    zone_from_tilt,
)
from controller.perception.alignment.geometry import double_tilt
from controller.perception.alignment.laue_outline import (
    error_band,
    laue_circle_outline,
    lit_outlines,
)

K = 39.87
NOTHING = np.empty((0, 2))


def answer(tilt: tuple[float, float], sigma_mrad: float = 0.3) -> TiltEstimate:
    return TiltEstimate(
        *tilt, sigma_mrad, True, "", "structure", 128.0, 128.0, 0.012, 0.0, 0.0, 50.0, (), 1e4, 1.0,
        Marks(NOTHING, NOTHING, NOTHING),
    )  # fmt: skip


tilts = st.tuples(st.floats(-200, 200), st.floats(-200, 200))
readings = st.floats(-25, 25)


@given(
    tilt=tilts, alpha=readings, beta=readings, azimuth=st.floats(-180, 180), mirrored=st.booleans()
)
def test_the_proposed_move_lays_the_zone_axis_along_the_beam(
    tilt: tuple[float, float], alpha: float, beta: float, azimuth: float, mirrored: bool
) -> None:
    frame = HolderFrame(azimuth, mirrored)
    everywhere = HolderReach((-90, 90), (-90, 90))
    move = propose_move(answer(tilt), Goniometer(alpha, beta, frame, everywhere))
    assert move is not None
    assert move.reachable

    in_holder = double_tilt(alpha, beta).T @ frame.stage_from_detector() @ zone_from_tilt(tilt)
    after = double_tilt(move.alpha_deg, move.beta_deg) @ in_holder

    assert misorientation_deg(after) < 1e-6
    assert move.change_alpha_deg == pytest.approx(move.alpha_deg - alpha)


def test_a_zone_beyond_the_holder_is_said_to_be_so_with_what_is_left() -> None:
    gonio = Goniometer(8.0, 0.0, HolderFrame(0.0), HolderReach((-10, 10), (-10, 10)))
    move = propose_move(answer((0.0, -150.0)), gonio)
    other = propose_move(answer((0.0, 150.0)), gonio)
    assert move is not None
    assert other is not None
    assert {move.reachable, other.reachable} == {True, False}
    beyond = other if move.reachable else move
    assert beyond.alpha_deg == 10.0
    left = np.rad2deg(1e-3 * np.hypot(*beyond.residual_tilt_mrad))
    assert left == pytest.approx(abs(beyond.wanted_alpha_deg) - 10.0, abs=1e-6)
    assert beyond.as_record()["residual_misorientation_deg"] == pytest.approx(left)


def test_the_expected_residual_counts_pattern_goniometer_and_azimuth() -> None:
    exact = Goniometer(0, 0, HolderFrame(0.0), sigma_deg=0.0, azimuth_sigma_deg=0.0)
    move = propose_move(answer((140.0, 0.0), sigma_mrad=0.3), exact)
    assert move is not None
    assert move.residual_sigma_mrad == pytest.approx(0.3)
    turned = propose_move(answer((140.0, 0.0)), dataclasses.replace(exact, azimuth_sigma_deg=1.0))
    assert turned is not None
    # 8 degrees off and 1 degree of azimuth: 0.14 degrees
    assert np.rad2deg(turned.residual_sigma_mrad * 1e-3) == pytest.approx(0.14, abs=0.005)


def test_no_answer_proposes_no_move() -> None:
    silent = dataclasses.replace(answer((1.0, 1.0)), answered=False, reason="blank")
    assert propose_move(silent, Goniometer(0, 0, HolderFrame(0.0))) is None


@pytest.mark.parametrize(
    "limits", [((10, -10), (0, 0)), ((-100, 10), (0, 0)), ((0, np.nan), (0, 0))]
)
def test_a_reach_that_is_none_is_refused(limits: tuple) -> None:
    with pytest.raises(ValueError, match="ascending range"):
        HolderReach(*limits)


@pytest.mark.parametrize("tilt", [(5.0, 3.0), (-40.0, 33.0), (130.0, -110.0)])
def test_every_circle_within_sigma_lies_in_the_band_and_the_beam_on_its_edges(
    tilt: tuple[float, float],
) -> None:
    sigma = 0.4
    inner, outer = error_band(tilt, sigma, K)
    assert np.hypot(*inner.T).min() < 0.02 * np.hypot(*tilt) * 1e-3 * K
    middle = laue_circle_outline(tilt, K).mean(axis=0)
    rng = np.random.default_rng(4)
    for _ in range(40):
        step = sigma * np.sqrt(rng.uniform()) * np.exp(2j * np.pi * rng.uniform())
        ring = laue_circle_outline((tilt[0] + step.real, tilt[1] + step.imag), K)
        for edge, sign in ((inner, -1.0), (outer, 1.0)):
            azimuth = np.arctan2(*(ring - middle).T[::-1])
            own = np.arctan2(*(edge - middle).T[::-1])
            order = np.argsort(own)
            limit = np.interp(
                azimuth, own[order], np.hypot(*(edge - middle).T)[order], period=2 * np.pi
            )
            assert (sign * (limit - np.hypot(*(ring - middle).T)) > -2e-3).all()


def test_no_band_is_drawn_where_the_error_is_as_large_as_the_tilt() -> None:
    assert len(error_band((1.0, 0.0), 1.0, K)[0]) == 0
    assert len(error_band((0.0, 0.0), 0.1, K)[0]) == 0


@pytest.mark.parametrize("layer", [0.0, -0.048, -0.1])
def test_outlines_are_where_the_sphere_cuts_the_laue_zone(layer: float) -> None:
    tilt = (60.0, -35.0)
    ring = laue_circle_outline(tilt, K, layer_inv_A=layer)
    g_z = np.sqrt(K**2 - (ring**2).sum(1)) - K
    np.testing.assert_allclose(
        np.column_stack([ring, g_z]) @ zone_from_tilt(tilt), layer, atol=1e-9
    )


def test_on_the_axis_spots_are_lit_within_one_circle_about_the_beam() -> None:
    (edge,) = lit_outlines((0.0, 0.0), 50.0, K)
    np.testing.assert_allclose(np.hypot(*edge.T), np.sqrt(2 * K * 0.8 / 500), rtol=2e-3)
