"""Whatever the dose, however wrong the header: a bounded picture, or a refusal with the reason."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from recon.errors import ReconError
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

QUICK = ReconstructionParams(
    calibration_passes=3, max_passes=3, threads=1, refine_patterns=32, half_set_frc=False
)


def endures(truth: "Truth", seed: int, params: ReconstructionParams) -> None:
    rng = np.random.default_rng(seed)
    dose = float(np.exp(rng.uniform(np.log(30), np.log(3000))))
    defocus_A = truth.header.defocus_A + float(rng.uniform(-200, 200))
    rotation_deg = truth.header.scan_rotation_deg + float(rng.uniform(-30, 30))
    data = truth.counted(dose, seed, defocus_A=defocus_A, scan_rotation_deg=rotation_deg)
    try:
        result = reconstruct(data, params, rng_seed=seed)
    except ReconError:
        return
    assert np.isfinite(result.phase_rad).all()
    assert np.abs(result.phase_rad).max() < 60
    assert np.isfinite(result.curves.held_out).all()
    assert result.curves.held_out[result.best_pass - 1] <= result.curves.held_out[0]
    assert 0 < result.calibration.thickness_A.value < 1000


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_header_and_any_dose_end_well(turned: "Truth", seed: int) -> None:
    endures(turned, seed, QUICK)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 150))
def test_fifty_wrong_headers_end_well(turned: "Truth", seed: int) -> None:
    endures(turned, seed, ReconstructionParams(threads=1))
