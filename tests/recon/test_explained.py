"""What the electrons say about the claims of a model."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recon.calibration import Calibration, Measured
from recon.joint_calibration import Bench, simulated_counts
from recon.judge import as_confirmed, judge_verdict, model_warnings, with_model_errors
from recon.ptychography.explained import explained_share
from recon.ptychography.solver import MultisliceSolver, worker_threads
from recon.result import Resolution
from tests.recon.test_global_parameters import solver_with

if TYPE_CHECKING:
    from tests.recon.conftest import Truth


def unseen(solver: MultisliceSolver, rng: np.random.Generator) -> MultisliceSolver:
    """The same solver over electrons that follow its own object and calibration."""
    with worker_threads(1) as executor:
        bench = Bench(solver.settings, torch.device("cpu"), executor, rng)
        drawn = simulated_counts(solver, bench)
    fresh = MultisliceSolver(solver.experiment, solver.canvas, drawn, None, solver.settings)
    fresh.take(solver.slices)
    return fresh


@pytest.fixture
def right(rng: np.random.Generator) -> MultisliceSolver:
    solver = solver_with(rng.poisson(3.0, size=(63, 32, 32)), tied=True, rng=rng)
    solver.slices = solver.slices.clamp(min=0) * 2
    return unseen(solver, rng)


def test_electrons_confirm_what_a_right_object_claims(right: MultisliceSolver) -> None:
    assert explained_share(right) == pytest.approx(1.0, abs=0.1)


def test_an_object_under_the_wrong_optics_claims_more_than_comes_true(
    right: MultisliceSolver,
) -> None:
    right.recalibrate(replace(right.experiment, defocus_A=right.experiment.defocus_A - 150))
    assert explained_share(right) < 0.6


def test_another_object_is_not_confirmed_at_all(
    right: MultisliceSolver,
) -> None:
    right.take(right.slices.flip(1))
    assert explained_share(right) < 0.3


def found(truth: "Truth") -> Calibration:
    joint = {
        name: Measured(value, sigma, "joint")
        for name, value, sigma in (
            ("defocus_A", 150.0, 3.0), ("C12a_A", 1.0, 1.0), ("C12b_A", 1.0, 1.0),
            ("rotation_deg", 4.0, 0.1), ("tilt_row_mrad", 0.5, 0.1), ("tilt_col_mrad", 0.5, 0.1),
            ("thickness_A", 400.0, 5.0),
        )
    }  # fmt: skip
    disc = Measured(32.0, 0.1, "disc")
    return Calibration(
        beam_centre_row_px=disc, beam_centre_col_px=disc, disc_radius_px=disc, **joint
    )


def test_sigmas_cover_what_the_model_leaves_out(turned: "Truth") -> None:
    calibration = with_model_errors(found(turned), 0.95)
    assert calibration.defocus_A.sigma == pytest.approx(math.hypot(3, 6))
    assert calibration.thickness_A.sigma == pytest.approx(math.hypot(5, 8, 20))
    assert calibration.rotation_deg.sigma == pytest.approx(0.1)
    assert calibration.beam_centre_row_px.sigma == 0.1


def test_a_model_that_explains_too_little_has_no_sigmas(turned: "Truth") -> None:
    calibration = with_model_errors(found(turned), 0.78)
    assert math.isnan(calibration.thickness_A.sigma)
    assert calibration.thickness_A.value == 400.0


def test_halves_that_share_a_doubtful_model_do_not_vouch_for_it(turned: "Truth") -> None:
    """They agree to 0.83 Å; nothing in the verdict may sound as if that were a resolution."""
    halves = Resolution(frc_0143_A=0.83, lattice_limit_A=1.19, n_spots=18)
    verdict = judge_verdict(turned.header, found(turned), halves, 0.67)
    assert verdict.startswith("Doubtful: the electrons confirm 67 % of what the image claims")
    assert "agree to 0.83 Å in what is wrong alike" in verdict
    assert "lattice visible" not in verdict
    assert "FRC" not in verdict
    (warning,) = model_warnings(0.67)
    assert "67 %" in warning
    assert "thinner" in warning
    assert not model_warnings(0.81)
    sound = judge_verdict(turned.header, found(turned), halves, 0.81)
    assert sound.startswith("Lattice visible to 1.19 Å")


@pytest.mark.parametrize(("share", "warned"), [(0.79, False), (0.87, True), (0.95, False)])
def test_a_model_that_is_not_wholly_confirmed_may_flatter(
    turned: "Truth", share: float, warned: bool
) -> None:
    verdict = judge_verdict(turned.header, found(turned), Resolution(frc_half_A=1.05), share)
    assert ("the FRC may be too good" in verdict) == warned
    assert not (warned and model_warnings(share))


@pytest.mark.parametrize(("share", "stated"), [(0.79, False), (0.81, True), (math.nan, True)])
def test_a_doubtful_model_states_no_resolution_against_the_truth(
    share: float, stated: bool
) -> None:
    halves = as_confirmed(Resolution(frc_half_A=1.1, frc_0143_A=0.9), share)
    assert math.isfinite(halves.frc_half_A) == stated
    assert halves.frc_0143_A == 0.9


def test_a_model_that_electrons_contradict_has_no_sigmas_and_is_not_trusted(
    turned: "Truth",
) -> None:
    calibration = with_model_errors(found(turned), 0.36)
    assert math.isnan(calibration.thickness_A.sigma)
    verdict = judge_verdict(turned.header, calibration, Resolution(frc_0143_A=0.9), 0.36)
    assert verdict.startswith("Not to be trusted: the electrons confirm 36 %")
    assert "±" not in verdict
    assert "FRC" not in verdict
    (warning,) = model_warnings(0.36)
    assert "36 %" in warning
    assert "thickness_A" in warning


@pytest.mark.parametrize("share", [0.95, math.nan])
def test_no_doubt_without_a_reason(share: float, turned: "Truth") -> None:
    assert not model_warnings(share)
    assert "trusted" not in judge_verdict(turned.header, found(turned), Resolution(), share)


def test_a_thickness_that_electrons_leave_open_is_not_named(turned: "Truth") -> None:
    open_ended = replace(found(turned), thickness_A=Measured(200.0, 150.0, "held-out"))
    verdict = judge_verdict(turned.header, open_ended, Resolution(), 0.95)
    assert "the thickness could not be told" in verdict
    unexplained = with_model_errors(found(turned), 0.78)
    verdict = judge_verdict(turned.header, unexplained, Resolution(), 0.78)
    assert "the thickness could not be told" in verdict
    closed = replace(open_ended, thickness_A=Measured(200.0, 15.0, "held-out"))
    assert "thickness 20 ± 1.5 nm (held-out)" in judge_verdict(
        turned.header, closed, Resolution(), 0.95
    )
