"""The parallax of a thick crystal may take the wrong side of focus; the patterns know better."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recon.calibrate import calibrate
from recon.engine import solver_settings, wanted
from recon.focus_side import better_side, other_side
from recon.joint_calibration import Bench
from recon.params import ReconstructionParams
from recon.ptychography.experiment import Experiment
from recon.ptychography.solver import worker_threads
from tests.recon.test_global_parameters import EXPERIMENT

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

PARAMS = ReconstructionParams(threads=1, refine_patterns=48)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_patterns_tell_the_side_of_focus(turned: "Truth", side: float) -> None:
    """Nominal defocus zero: it rules out neither side."""
    calibrated = calibrate(turned.counted(400.0), PARAMS)
    start = Experiment.of(turned.header, calibrated.patterns, calibrated.calibration, 2)
    start = replace(start, defocus_A=side * 120.0, thickness_A=turned.thickness_A)
    with worker_threads(1) as executor:
        rng = np.random.default_rng(2)
        bench = Bench(solver_settings(PARAMS), torch.device("cpu"), executor, rng)
        chosen = better_side(start, 0.0, calibrated.patterns, wanted(PARAMS, 2), bench, PARAMS)
    assert chosen.defocus_A == 120.0


def test_a_side_that_the_header_rules_out_is_not_tried() -> None:
    start = replace(EXPERIMENT, defocus_A=176.0)
    assert other_side(start, 150.0) is None
    assert other_side(start, None) is None
    rival = other_side(start, 20.0)
    assert rival is not None
    assert rival.defocus_A == -176.0
