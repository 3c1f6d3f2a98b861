"""What is not known of the scan raster limits an image, whatever its halves agree on."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.calibration import Calibration, Measured
from recon.judge import distortion_limit_A, judge_verdict
from recon.result import Resolution

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

FIELD_A = (50.0, 70.0)


def known_to(part: float, rotation_deg: float = 0.0) -> Calibration:
    names = (
        "beam_centre_row_px", "beam_centre_col_px", "disc_radius_px", "defocus_A", "C12a_A",
        "C12b_A", "tilt_row_mrad", "tilt_col_mrad", "thickness_A",
    )  # fmt: skip
    others = {name: Measured(1.0, 0.1, "joint") for name in names}
    turn = Measured(0.0, rotation_deg, "joint")
    return Calibration(**others, rotation_deg=turn, affine_sigma=part)


def test_half_of_the_contrast_is_left_at_the_limit(rng: np.random.Generator) -> None:
    """Distortions as likely as their sigma says, averaged over field, directions and draws."""
    part, draws = 0.01, 4000
    limit_A = distortion_limit_A(known_to(part), FIELD_A)
    scale, stretch, shear = part / math.sqrt(3) * rng.normal(size=(3, draws))
    row, col = ((rng.uniform(-side / 2, side / 2, draws)) for side in FIELD_A)
    angle = rng.uniform(0, 2 * np.pi, draws)
    moved = np.stack([(scale + stretch) * row + shear * col, shear * row + (scale - stretch) * col])
    along = moved[0] * np.cos(angle) + moved[1] * np.sin(angle)
    assert np.cos(2 * np.pi * along / limit_A).mean() == pytest.approx(0.5, abs=0.1)


@given(st.floats(1e-4, 0.05), st.floats(0.01, 3))
def test_the_limit_grows_with_field_and_doubt(part: float, turn_deg: float) -> None:
    limit_A = distortion_limit_A(known_to(part), FIELD_A)
    twice = distortion_limit_A(known_to(part), (2 * FIELD_A[0], 2 * FIELD_A[1]))
    assert twice == pytest.approx(2 * limit_A)
    assert distortion_limit_A(known_to(2 * part), FIELD_A) == pytest.approx(2 * limit_A)
    assert distortion_limit_A(known_to(part, turn_deg), FIELD_A) > limit_A
    turned = distortion_limit_A(known_to(math.nan, math.degrees(part)), FIELD_A)
    assert turned == pytest.approx(limit_A)


def test_without_a_sigma_there_is_no_limit() -> None:
    assert math.isnan(distortion_limit_A(known_to(math.nan, math.nan), FIELD_A))


@given(st.floats(0.5, 9), st.floats(0.1, 9))
def test_no_resolution_is_said_that_the_raster_does_not_carry(
    turned: "Truth", frc_A: float, limit_A: float
) -> None:
    raw = Resolution(frc_half_A=frc_A, frc_0143_A=frc_A)
    said = raw.as_distorted(limit_A)
    assert said.frc_half_A == max(frc_A, limit_A)
    assert said.frc_0143_A == frc_A
    words = judge_verdict(turned.header, known_to(0.013), said)
    assert ("its scan raster is known (to 1.3 %)" in words) == (limit_A >= frc_A)


def test_a_limit_is_no_resolution() -> None:
    assert math.isnan(Resolution().as_distorted(2.0).frc_half_A)
    assert Resolution(frc_half_A=1.1).as_distorted(math.nan).frc_half_A == 1.1
