"""A warm start shows the object in place, before the first pass and from the fitted electrons."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from recon.calibrate import calibrate
from recon.direct.warm_start import warm_phase
from recon.params import ReconstructionParams
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import make_canvas
from recon.reconstruct import reconstruct

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

QUICK = ReconstructionParams(
    max_passes=2, threads=1, refine=(), rotation_deg=11.0, defocus_A=120.0, half_set_frc=False
)


def test_the_warm_object_lies_where_the_truth_lies(turned: "Truth") -> None:
    data = turned.counted(400.0)
    calibrated = calibrate(data, QUICK)
    experiment = Experiment.of(data.header, calibrated.patterns, calibrated.calibration, 3)
    canvas = make_canvas(
        experiment.positions_A(), experiment.grid.sampling_A, calibrated.patterns.n
    )
    phase = warm_phase(calibrated.patterns, experiment, canvas).numpy()
    assert phase.min() == 0.0
    inside = phase > 0
    truth = turned.phase_on(canvas.shape, experiment.grid.sampling_A, canvas.scan_centre_px)
    assert np.corrcoef(truth[inside], phase[inside])[0, 1] > 0.75
    turned_over = phase[::-1, ::-1]
    assert np.corrcoef(truth[inside], turned_over[inside])[0, 1] < 0.5


@pytest.mark.parametrize("solver", ["lsq", "lbfgs", "epie"])
def test_a_warm_start_is_ahead_after_a_pass(turned: "Truth", solver: str) -> None:
    data = turned.counted(400.0, nominal_thickness_A=turned.thickness_A)
    cold, warm = (
        reconstruct(data, QUICK.updated(solver=solver, warm_start=start)).curves.held_out[0]
        for start in ("none", "icom")
    )
    assert warm < cold
