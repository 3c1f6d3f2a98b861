"""The dose ledger against what the simulated specimen truly received, cell by cell.

The simulator counts electrons with its own physics, at the true pose: play, drift, wrong
calibration, current noise and shutter latency included.  The controller knows none of this.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest

from controller.hardware.errors import MicroscopeError
from controller.hardware.values import (
    Approach,
    Exposure,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    Scan,
    ScanReceipt,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from sim_microscope.adapter import SimulatedAdapter, open_adapter
from tests.conformance.fake_adapter import MemorySink

SPACE = UUID("5b0a1f54-0000-5000-8000-00000000d05e")
LIMITS = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)
HALF_UM = 7.0
TAILS = 1e-4
"""Of the largest single charge: what the ledger may ignore."""


def random_night(
    adapter: SimulatedAdapter, ledger: DoseLedger, rng: np.random.Generator, exposures: int
) -> None:
    """Tilt, change the beam, expose; now and then scan.  Whatever fails, fails."""
    microscope = GuardedMicroscope(adapter, ledger, sink=MemorySink())
    for number in range(exposures):
        mode = (Mode.IMAGE, Mode.DIFFRACTION, Mode.STEM)[number % 3]
        change = {
            Mode.IMAGE: OpticsChange(
                mode=mode,
                beam_diameter_nm=float(rng.uniform(500, 4000)),
                beam_shift_nm=(float(rng.uniform(-300, 300)), float(rng.uniform(-300, 300))),
            ),
            Mode.DIFFRACTION: OpticsChange(
                mode=mode, beam_diameter_nm=float(rng.uniform(150, 600))
            ),
            Mode.STEM: OpticsChange(
                mode=mode,
                probe_current_pA=1.0,
                defocus_nm=float(rng.uniform(10, 60)),
                scan_rotation_deg=float(rng.uniform(-90, 90)),
            ),
        }[mode]
        scan = Scan(shape=(2, 5), step_A=float(rng.uniform(10, 40)), dwell_s=1e-3)
        try:
            microscope.stage.move(
                PartialPose(
                    x_um=float(rng.uniform(-3, 3)),
                    y_um=float(rng.uniform(-3, 3)),
                    alpha_deg=float(rng.uniform(-25, 25)),
                    beta_deg=float(rng.uniform(-15, 15)),
                ),
                approach=Approach.FROM_BELOW if number % 2 else Approach.DIRECT,
            )
            microscope.optics.apply(change)
            detectors = microscope.capabilities.detectors
            microscope.expose(
                Exposure(
                    exposure_id=uuid5(SPACE, str(number)),
                    area="S00",
                    purpose=Purpose.DATA if mode is Mode.STEM else Purpose.ALIGN,
                    detector=next(d.name for d in detectors if mode in d.modes),
                    duration_s=scan.duration_s if mode is Mode.STEM else float(rng.uniform(0.1, 1)),
                    scan=scan if mode is Mode.STEM else None,
                )
            )
        except MicroscopeError:
            continue


def one_scan(adapter: SimulatedAdapter, ledger: DoseLedger) -> None:
    """Forty rows, in many batches."""
    microscope = GuardedMicroscope(adapter, ledger, sink=MemorySink())
    microscope.optics.apply(OpticsChange(mode=Mode.STEM, probe_current_pA=1.0, defocus_nm=40.0))
    scan = Scan(shape=(40, 40), step_A=100.0, dwell_s=1e-3)
    detectors = microscope.capabilities.detectors
    receipt = microscope.expose(
        Exposure(
            exposure_id=uuid5(SPACE, "scan"),
            area="S00",
            purpose=Purpose.DATA,
            detector=next(d.name for d in detectors if d.can_scan),
            duration_s=scan.duration_s,
            scan=scan,
        )
    )
    assert isinstance(receipt, ScanReceipt)
    assert not receipt.complete


def check(scenario: str, seed: int, faults: tuple[str, ...], folder: Path, exposures: int) -> None:
    adapter = open_adapter({"scenario": scenario, "seed": seed, "faults": faults})
    with DoseLedger(folder / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        random_night(adapter, ledger, np.random.default_rng(seed), exposures)
        check_charged(adapter, ledger)


def check_charged(adapter: SimulatedAdapter, ledger: DoseLedger) -> None:
    """No cell received more than it was charged; closes the adapter."""
    extent = (-HALF_UM, HALF_UM - 1e-6, -HALF_UM, HALF_UM - 1e-6)
    charged = ledger.map(extent).total_e_per_A2
    peak = max(record.charged_e_per_A2 for record in ledger.records())
    true = adapter.truth.dose.map(HALF_UM, 0.1)
    adapter.close()
    assert true.shape == charged.shape
    assert true.max() > 0
    excess = true - charged
    row, col = np.unravel_index(excess.argmax(), excess.shape)
    assert excess.max() <= TAILS * peak, (
        f"cell at x = {0.1 * col - HALF_UM:.2f}, y = {0.1 * row - HALF_UM:.2f} um truly received "
        f"{true[row, col]:.4g} e/A2 and was charged {charged[row, col]:.4g}"
    )


def test_a_scan_that_ends_early_has_given_its_first_rows_all_of_their_dose(tmp_path: Path) -> None:
    adapter = open_adapter({"scenario": "easy", "seed": 3, "faults": ("short-scan@0",)})
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        one_scan(adapter, ledger)
        check_charged(adapter, ledger)


@pytest.mark.parametrize(
    ("scenario", "seed", "faults"),
    [
        ("easy", 1, ()),
        ("typical", 2, ("current-jump@step:2", "camera-timeout@step:4", "arm-fails@step:5")),
    ],
)
def test_no_cell_received_more_than_it_was_charged(
    scenario: str, seed: int, faults: tuple[str, ...], tmp_path: Path
) -> None:
    check(scenario, seed, faults, tmp_path, exposures=7)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_no_cell_received_more_than_it_was_charged_on_many_nights(
    seed: int, tmp_path: Path
) -> None:
    check("typical", seed, ("blanker-stuck@step:20",) if seed % 2 else (), tmp_path, exposures=25)
