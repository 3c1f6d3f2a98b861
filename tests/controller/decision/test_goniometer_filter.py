"""The filter over patterns: what it must find of crystal and instrument, and how sure it may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.goniometer_filter import (
    PARAMETERS,
    Look,
    aim,
    beam_onto_zone,
    estimate,
    forecast,
    instrument_prior,
    surprise,
    where_it_stands,
)
from controller.hardware.values import Axis, AxisInfo, Calibration, Capabilities
from controller.perception.alignment import (
    HolderFrame,
    goniometer_for_zone,
    tilt_from_zone,
)
from controller.perception.alignment.geometry import double_tilt
from controller.record.events import GoniometerSetting, InstrumentState

PLAY_DEG, READ_NOISE_DEG, DRIVE_DEG = 0.2, 0.05, 0.015
TILTING = AxisInfo(
    low=-30, high=30, speed_per_s=1, backlash=PLAY_DEG, read_noise=READ_NOISE_DEG,
    repeatability=float(np.hypot(READ_NOISE_DEG, DRIVE_DEG)),
)  # fmt: skip
CAPABILITIES = Capabilities.model_construct(
    axes={Axis.ALPHA: TILTING, Axis.BETA: TILTING}, beam_tilt_mrad=30.0
)
SIGMA_MRAD = 0.2


def prior(azimuth_deg: float = -62.0, **changes: float) -> InstrumentState:
    return instrument_prior(
        Calibration(tilt_axis_azimuth_deg=azimuth_deg, azimuth_sigma_deg=0.8, **changes),
        CAPABILITIES,
    )


class Bench:
    """A crystal on a goniometer that lies, by plain vector algebra."""

    def __init__(
        self,
        rng: np.random.Generator,
        off_deg: float,
        *,
        azimuth_deg: float = -61.0,
        mirrored: bool = False,
        beta_gain: float = 1.0,
        noise: float = 1.0,
    ) -> None:
        angle, off = rng.uniform(0, 2 * np.pi), np.deg2rad(off_deg)
        self.zone = np.array(
            [np.sin(off) * np.cos(angle), np.sin(off) * np.sin(angle), np.cos(off)]
        )
        self.frame = HolderFrame(azimuth_deg, mirrored)
        self.beta_gain, self.noise, self.rng = beta_gain, noise, rng
        self.settings: list[GoniometerSetting] = []
        self.looks: list[Look] = []
        self.stands = (0.0, 0.0)
        self.beam_mrad = (0.0, 0.0)

    def go(self, alpha_deg: float, beta_deg: float) -> None:
        """Move there from below, and read where it says it is."""
        drive = np.array([alpha_deg, beta_deg]) + self.noise * self.rng.normal(0, DRIVE_DEG, 2)
        read = drive + self.noise * self.rng.normal(0, READ_NOISE_DEG, 2)
        self.stands = (drive[0] - PLAY_DEG / 2, self.beta_gain * drive[1] - PLAY_DEG / 2)
        self.beam_mrad = (0.0, 0.0)
        (a, da), (b, db) = (
            where_it_stands(
                asked, [float(r)], repeatability=TILTING.repeatability, read_noise=READ_NOISE_DEG
            )
            for asked, r in zip((alpha_deg, beta_deg), read, strict=True)
        )
        self.settings.append(
            GoniometerSetting(alpha_deg=a, beta_deg=b, sigma_alpha_deg=da, sigma_beta_deg=db)
        )

    def true_tilt(self) -> np.ndarray:
        stage = double_tilt(*self.stands) @ self.zone
        beam = np.array([*(1e-3 * np.array(self.beam_mrad)), 1.0])
        # rotate both so that the beam runs along z
        alpha, beta = goniometer_for_zone(beam)
        upright = double_tilt(alpha, beta)
        seen = self.frame.stage_from_detector().T @ (upright @ stage)
        return np.array(tilt_from_zone(seen))

    def off_deg(self) -> float:
        return float(np.rad2deg(1e-3 * np.hypot(*self.true_tilt())))

    def look(self) -> None:
        error = self.noise * self.rng.normal(0, SIGMA_MRAD / 1.515, 2)
        tilt = self.true_tilt() + error
        self.looks.append(
            Look(len(self.settings) - 1, self.beam_mrad, (tilt[0], tilt[1]), SIGMA_MRAD)
        )


@given(seed=st.integers(0, 10_000), off_deg=st.floats(1.0, 15.0))
def test_two_patterns_and_the_beam_bring_any_crystal_onto_its_axis(
    seed: int, off_deg: float
) -> None:
    bench = Bench(np.random.default_rng(seed), off_deg)
    bench.go(0, 0)
    bench.look()
    bench.go(*aim(estimate(bench.looks, bench.settings, prior())))
    bench.look()
    state = estimate(bench.looks, bench.settings, prior())
    beam = beam_onto_zone(state, 1, 30.0)
    assert beam is not None
    bench.beam_mrad = beam
    assert bench.off_deg() < 0.05


def test_the_first_tilt_calibrates_the_azimuth_in_place(rng: np.random.Generator) -> None:
    bench = Bench(rng, 12.0, azimuth_deg=-60.5)
    bench.go(0, 0)
    bench.look()
    first = estimate(bench.looks, bench.settings, prior())
    assert first.instrument.mean[0] == pytest.approx(-62.0)
    bench.go(*aim(first))
    bench.look()
    second = estimate(bench.looks, bench.settings, prior()).instrument
    sigma = np.sqrt(second.covariance[0][0])
    assert sigma < 0.35
    assert abs(second.mean[0] + 60.5) < 3 * sigma


def test_what_one_crystal_teaches_serves_the_next(rng: np.random.Generator) -> None:
    known, misses = prior(), []
    for _ in range(6):
        bench = Bench(rng, 12.0, azimuth_deg=-60.2)
        bench.go(0, 0)
        bench.look()
        bench.go(*aim(estimate(bench.looks, bench.settings, known)))
        misses.append(bench.off_deg())
        bench.look()
        known = estimate(bench.looks, bench.settings, known).instrument
    assert misses[0] > 0.25
    assert max(misses[2:]) < 0.15
    assert np.sqrt(known.covariance[0][0]) < 0.25


def test_a_mirrored_camera_is_found_out_after_one_tilt_and_put_right(
    rng: np.random.Generator,
) -> None:
    bench = Bench(rng, 8.0, azimuth_deg=-61.8, mirrored=True)
    bench.go(0, 0)
    bench.look()
    first = estimate(bench.looks, bench.settings, prior())
    assert not first.instrument.mirrored
    assert first.instrument.doubt == pytest.approx(0.02)
    bench.go(*aim(first))
    wrong = bench.off_deg()
    bench.look()
    second = estimate(bench.looks, bench.settings, prior())
    assert second.instrument.mirrored
    assert second.instrument.doubt < 1e-3
    bench.go(*aim(second))
    assert bench.off_deg() < 0.2 < wrong


def test_a_gain_of_the_beta_axis_is_learnt(rng: np.random.Generator) -> None:
    known = prior()
    for _ in range(8):
        bench = Bench(rng, 14.0, azimuth_deg=-62.0, beta_gain=1.006)
        bench.go(0, 0)
        bench.look()
        bench.go(*aim(estimate(bench.looks, bench.settings, known)))
        bench.look()
        known = estimate(bench.looks, bench.settings, known).instrument
    at = PARAMETERS.index("beta_gain")
    sigma = np.sqrt(known.covariance[at][at])
    assert sigma < 0.0025
    assert known.mean[at] == pytest.approx(1.006, abs=3 * sigma)


def test_forecasts_are_as_good_as_they_say() -> None:
    """68 % of what comes after a tilt lies within the forecast's sigma, 95 % within twice it."""
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(150):
        azimuth = -62.0 + rng.normal(0, 0.8)
        bench = Bench(rng, rng.uniform(1, 15), azimuth_deg=azimuth)
        bench.go(0, 0)
        bench.look()
        state = estimate(bench.looks, bench.settings, prior())
        bench.go(*aim(state))
        expected = forecast(state, bench.settings[-1], (0.0, 0.0))
        off = np.asarray(expected.tilt_mrad) - bench.true_tilt()
        ratios.append(np.hypot(*off) / expected.sigma_mrad)
    assert 0.58 < np.mean(np.array(ratios) < 1) < 0.85
    assert np.mean(np.array(ratios) < 2) > 0.9


def test_patterns_that_contradict_each_other_leave_the_newest(rng: np.random.Generator) -> None:
    bench = Bench(rng, 6.0)
    bench.go(0, 0)
    bench.look()
    wrong = bench.looks[0]
    bench.looks[0] = Look(0, (0.0, 0.0), (wrong.tilt_mrad[0] + 60, wrong.tilt_mrad[1]), SIGMA_MRAD)
    bench.go(*aim(estimate(bench.looks, bench.settings, prior())))
    bench.look()
    state = estimate(bench.looks, bench.settings, prior())
    assert state.dropped == 1
    assert state.instrument.mean[0] == pytest.approx(-62.0)
    bench.go(*aim(state))
    assert bench.off_deg() < 0.3


def test_one_wrong_reading_is_found_out_by_the_others(rng: np.random.Generator) -> None:
    for wrong in range(3):
        bench = Bench(rng, 6.0)
        bench.go(0, 0)
        bench.look()
        bench.go(*aim(estimate(bench.looks, bench.settings, prior())))
        bench.look()
        bench.look()
        x, y = bench.looks[wrong].tilt_mrad
        looks = list(bench.looks)
        looks[wrong] = Look(looks[wrong].setting, (0.0, 0.0), (x + 40, y - 30), SIGMA_MRAD)
        state = estimate(looks, bench.settings, prior())
        assert state.dropped == 1
        beam = beam_onto_zone(state, 1, 30.0)
        assert beam is not None
        bench.beam_mrad = beam
        assert bench.off_deg() < 0.05


def test_a_reading_far_from_its_forecast_surprises(rng: np.random.Generator) -> None:
    bench = Bench(rng, 5.0, noise=0.0)
    bench.go(0, 0)
    bench.look()
    state = estimate(bench.looks, bench.settings, prior())
    expected = forecast(state, 0, (0.0, 0.0))
    x, y = expected.tilt_mrad
    assert surprise(expected, (x, y), SIGMA_MRAD) == pytest.approx(0)
    assert surprise(expected, (x + 20 * expected.sigma_mrad, y), SIGMA_MRAD) > 10


def test_a_noisy_reading_yields_to_the_command_and_a_sharp_one_does_not() -> None:
    noisy, _ = where_it_stands(5.0, [5.1], repeatability=0.052, read_noise=0.05)
    sharp, _ = where_it_stands(5.0, [5.1], repeatability=0.052, read_noise=0.0)
    assert abs(noisy - 5.0) < 0.02
    assert abs(sharp - 5.1) < 0.02


def test_the_beam_is_not_asked_for_more_than_it_can(rng: np.random.Generator) -> None:
    bench = Bench(rng, 3.0)
    bench.go(0, 0)
    bench.look()
    state = estimate(bench.looks, bench.settings, prior())
    assert beam_onto_zone(state, 0, 10.0) is None
    assert beam_onto_zone(state, 0, 80.0) is not None
