"""Whatever the dose, the optics, the scan and the header: a bounded picture, or a refusal.

Half of the settings are ones that no microscopist would choose: probes that do not overlap, defocus
off by 100 nm, a disc larger than the detector, a scan of 16 x 16 points.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from recon.errors import ReconError
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct
from tests.recon.conftest import Truth, simulate

QUICK = {"calibration_passes": 3, "max_passes": 3, "refine_patterns": 32, "half_set_frc": False}
LARGEST_PHASE_RAD = 60.0


@dataclass(frozen=True)
class Setting:
    """How the data were taken, and what the header and the user say about it."""

    semiangle_mrad: float
    scan_shape: tuple[int, int]
    step_A: float
    pixels: int
    defocus_A: float
    rotation_deg: float
    dose_e_per_A2: float
    defocus_error_A: float
    rotation_error_deg: float
    warm_start: str
    seed: int

    @classmethod
    def drawn(cls, seed: int, *, largest_scan: int = 64) -> "Setting":
        """Doses over two decades; every third defocus is off by up to 100 nm."""
        rng = np.random.default_rng(seed)
        sides = np.exp(rng.uniform(np.log(16), np.log(largest_scan), 2)).round().astype(int)
        error_A = 1000.0 if seed % 3 == 0 else 200.0
        return cls(
            semiangle_mrad=float(rng.uniform(5, 35)),
            scan_shape=(int(sides[0]), int(sides[1])),
            step_A=float(np.exp(rng.uniform(np.log(0.4), np.log(3.0)))),
            pixels=int(rng.choice([48, 64, 80])),
            defocus_A=float(rng.uniform(-200, 300)),
            rotation_deg=float(rng.uniform(-180, 180)),
            dose_e_per_A2=float(np.exp(rng.uniform(np.log(30), np.log(3000)))),
            defocus_error_A=float(rng.uniform(-error_A, error_A)),
            rotation_error_deg=float(rng.uniform(-30, 30)),
            warm_start=str(rng.choice(["none", "icom"])),
            seed=seed,
        )

    def simulated(self) -> Truth:
        return simulate(
            scan_shape=self.scan_shape, rotation_deg=self.rotation_deg, defocus_A=self.defocus_A,
            semiangle_mrad=self.semiangle_mrad, step_A=self.step_A, pixels=self.pixels,
        )  # fmt: skip


def endures(setting: Setting, truth: Truth, **params: object) -> str:
    """Reconstruct and check; what was refused."""
    data = truth.counted(
        setting.dose_e_per_A2, setting.seed,
        defocus_A=setting.defocus_A + setting.defocus_error_A,
        scan_rotation_deg=setting.rotation_deg + setting.rotation_error_deg,
    )  # fmt: skip
    chosen = ReconstructionParams(threads=1).updated(warm_start=setting.warm_start, **params)
    try:
        result = reconstruct(data, chosen, rng_seed=setting.seed)
    except ReconError as refusal:
        reason = str(refusal)
        assert len(reason) > 40, "a refusal names the reason and the remedy"
        assert "nan" not in reason
        return reason
    assert np.isfinite(result.phase_rad).all()
    assert np.abs(result.phase_rad).max() < LARGEST_PHASE_RAD
    held = np.array(result.curves.held_out)
    assert np.isfinite(held).all()
    assert held[result.best_pass - 1] == held.min()
    assert 0 < result.calibration.thickness_A.value < 1000
    assert result.verdict
    return ""


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_header_and_any_dose_end_well(turned: Truth, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = Setting.drawn(seed)
    header = turned.header
    as_taken = Setting(
        header.convergence_semiangle_mrad, header.scan_shape, header.scan_step_A, 48,
        header.defocus_A, header.scan_rotation_deg, drawn.dose_e_per_A2,
        float(rng.uniform(-200, 200)), drawn.rotation_error_deg, drawn.warm_start, seed,
    )  # fmt: skip
    endures(as_taken, turned, **QUICK)


@pytest.mark.parametrize("seed", range(3, 6))
def test_other_optics_and_scans_end_well(seed: int) -> None:
    setting = Setting.drawn(seed, largest_scan=24)
    endures(setting, setting.simulated(), **QUICK)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 150))
def test_fifty_settings_end_well(seed: int) -> None:
    setting = Setting.drawn(seed)
    endures(setting, setting.simulated())
