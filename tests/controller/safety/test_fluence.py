"""The charged fluence is never below what the specimen receives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.errors import LimitError
from controller.hardware.values import Calibration, Exposure, OpticsState, Scan
from controller.safety.fluence import ELECTRONS_PER_PA_S, current_bound_pA, fluence_bound
from tests.conformance.fake_adapter import OPTICS, capabilities
from tests.strategies import exposures, numbers, optics, scans

CELL_NM = 100.0


def bound(exposure: Exposure, state: OpticsState, **changes: object) -> float:
    caps = capabilities(**changes)
    return fluence_bound(
        exposure,
        state,
        caps,
        Calibration(),
        current_pA=current_bound_pA([state.probe_current_pA], caps),
        overhead_s=0.01,
        cell_nm=CELL_NM,
    ).fluence_e_per_A2


def test_one_picoampere_is_six_million_electrons_a_second() -> None:
    assert pytest.approx(6.2415e6, rel=1e-4) == ELECTRONS_PER_PA_S


@given(exposures(), optics(), numbers(-5, 5), numbers(-3, 3), numbers(0, 1))
def test_a_disc_is_charged_at_least_what_it_gets(
    exposure: Exposure, state: OpticsState, current_off: float, length_off: float, late: float
) -> None:
    caps, calibration = capabilities(), Calibration()
    true_pA = state.probe_current_pA * (1 + caps.current_relative_sigma * current_off)
    true_pA = min(true_pA, caps.max_current_pA)
    true_s = exposure.duration_s + 2 * caps.blank.latency_s * late
    true_nm = state.beam_diameter_nm * (1 + calibration.pixel_size_relative_sigma * length_off)
    true = true_pA * ELECTRONS_PER_PA_S * true_s / (math.pi / 4 * (10 * true_nm) ** 2)
    assert bound(exposure, state) >= true * (1 - 1e-12)


def densest_cell(
    scan: Scan, angle_deg: float, shift: tuple[float, float], cell_nm: float, positions: int
) -> int:
    """How many of the first `positions` of the raster, lying anyhow, fall into one cell."""
    rows, cols = np.mgrid[: scan.shape[0], : scan.shape[1]] * scan.step_A / 10
    angle = math.radians(angle_deg)
    x = math.cos(angle) * cols - math.sin(angle) * rows + shift[0] * cell_nm
    y = math.sin(angle) * cols + math.cos(angle) * rows + shift[1] * cell_nm
    cells = np.stack([np.floor(x / cell_nm), np.floor(y / cell_nm)]).reshape(2, -1)
    return int(np.unique(cells[:, :positions], axis=1, return_counts=True)[1].max())


@given(scans(25), numbers(0, 45), numbers(0, 1), numbers(0, 1), numbers(20, 100), numbers(0.01, 1))
def test_no_cell_of_a_scan_gets_more_than_charged(
    scan: Scan, angle_deg: float, shift_x: float, shift_y: float, cell_nm: float, share: float
) -> None:
    """Count the probe positions that really fall into each cell; the scan may end early."""
    positions = math.ceil(share * scan.positions)
    most = densest_cell(scan, angle_deg, (shift_x, shift_y), cell_nm, positions)
    state = OPTICS.replace(probe_current_pA=1.0)
    electrons = most * scan.dwell_s * ELECTRONS_PER_PA_S * state.probe_current_pA
    true = electrons / (10 * cell_nm) ** 2
    exposure = Exposure.model_validate(
        {
            "exposure_id": "00000000-0000-0000-0000-000000000001",
            "area": "T",
            "purpose": "data",
            "detector": "pixels",
            "duration_s": scan.duration_s,
            "scan": scan,
        }
    )
    caps = capabilities()
    charged = fluence_bound(
        exposure,
        state,
        caps,
        Calibration(),
        current_pA=current_bound_pA([state.probe_current_pA], caps),
        overhead_s=0.01,
        cell_nm=cell_nm,
    ).at(share * scan.duration_s)
    assert charged >= true


@given(exposures(st.none() | scans()), optics(), numbers(1, 3))
def test_a_margin_only_widens(exposure: Exposure, state: OpticsState, margin: float) -> None:
    wider = exposure.replace(margin=margin)
    assert bound(wider, state) == pytest.approx(margin * bound(exposure, state))


def test_the_charge_is_close_to_the_nominal_one_when_everything_is_well_known() -> None:
    """An upper bound that is twice the truth would cost half of every budget."""
    exposure = Exposure.model_validate(
        {
            "exposure_id": "00000000-0000-0000-0000-000000000001",
            "area": "T",
            "purpose": "align",
            "detector": "camera",
            "duration_s": 1.0,
        }
    )
    nominal = 10 * ELECTRONS_PER_PA_S / (math.pi / 4 * 2e4**2)
    assert 1.0 < bound(exposure, OPTICS) / nominal < 1.3


@pytest.mark.parametrize(
    ("readings", "expected"),
    [([10.0], 11.0), ([10.0, 13.0], 14.3), ([None, 10.0], 11.0), ([95.0], 100.0), ([None], 100.0)],
)
def test_the_current_is_the_largest_reading_plus_five_sigma_and_at_most_the_cap(
    readings: list[float | None], expected: float
) -> None:
    assert current_bound_pA(readings, capabilities()) == pytest.approx(expected)


def test_an_instrument_that_cannot_measure_its_current_is_charged_the_cap() -> None:
    assert current_bound_pA([1.0], capabilities(current_from="none")) == 100.0
    assert current_bound_pA([0.0], capabilities()) == 100.0


def test_lengths_without_calibration_bound_no_area() -> None:
    exposure = Exposure.model_validate(
        {
            "exposure_id": "00000000-0000-0000-0000-000000000001",
            "area": "T",
            "purpose": "align",
            "detector": "camera",
            "duration_s": 1.0,
        }
    )
    with pytest.raises(LimitError, match=r"calibrated to 40 % only.*nothing was exposed"):
        fluence_bound(
            exposure,
            OPTICS,
            capabilities(),
            Calibration(pixel_size_relative_sigma=0.4),
            current_pA=1.0,
            overhead_s=0.0,
            cell_nm=CELL_NM,
        )


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_reading_makes_the_bound_of_the_current_exceed_the_gun(reading: float) -> None:
    if reading >= 0:
        assert current_bound_pA([reading], capabilities()) <= 100.0
