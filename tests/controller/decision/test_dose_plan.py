"""The dose plan: few electrons far from the axis, what the wanted sigma asks for on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.dose_plan import (
    FLOOR_DEG,
    SigmaLaw,
    fluence_e_per_A2,
    law_of,
    next_electrons,
)
from controller.record.events import TiltFitted

PLAN = {"near_deg": 1.0, "coarse": 6e3, "most": 1.2e5, "wanted_sigma_deg": 0.0135}


def fit(off_deg: float, sigma_deg: float, electrons: float, **changes: Any) -> TiltFitted:
    given = {
        "target": "T01", "frame": "f", "answered": True, "reason": "", "zone_uvw": (0, 0, 1),
        "tilt_mrad": (math.pi / 0.18 * off_deg, 0.0), "sigma_mrad": math.pi / 0.18 * sigma_deg,
        "misorientation_deg": off_deg, "centre_px": (128, 128), "inv_A_per_px": 0.01,
        "mode": "structure", "electrons": electrons,
    }  # fmt: skip
    return TiltFitted.model_validate(given | changes)


@given(st.floats(0.0095, 0.2), st.floats(0.6, 5.0))
def test_electrons_and_sigma_undo_each_other(sigma_deg: float, counting_deg: float) -> None:
    law = SigmaLaw(counting_deg)
    assert law.sigma_deg(law.electrons_for(sigma_deg)) == pytest.approx(sigma_deg, rel=1e-6)


def test_below_the_floor_no_number_of_electrons_helps() -> None:
    assert SigmaLaw().electrons_for(0.9 * FLOOR_DEG) == math.inf
    assert SigmaLaw().electrons_for(0.03, off_deg=12.0) == math.inf
    assert next_electrons(
        [], None, expected_off_deg=0.0, **(PLAN | {"wanted_sigma_deg": 1e-3})
    ) == pytest.approx(1.2e5)


def test_most_electrons_go_to_the_pattern_on_the_axis() -> None:
    far = next_electrons([], None, expected_off_deg=None, **PLAN)
    also_far = next_electrons([], None, expected_off_deg=8.0, **PLAN)
    near = next_electrons([fit(8.0, 0.04, 6e3)], None, expected_off_deg=0.3, **PLAN)
    assert far == also_far == 6e3
    assert near > 2 * far


def test_a_crystal_that_tells_less_per_electron_gets_more_of_them() -> None:
    poor = law_of([fit(0.2, 0.025, 1e4)])
    rich = law_of([fit(0.2, 0.012, 1e4)])
    assert poor.electrons_for(0.0135) > 2 * rich.electrons_for(0.0135)
    far = law_of([fit(9.0, 0.08, 1e4)])
    assert far == SigmaLaw(), "far patterns hold other spots"


def test_what_was_counted_is_not_paid_twice() -> None:
    dark = fit(0.0, 1.0, 6e3, answered=False)
    wanted = dark.replace(electrons_wanted=3e4)
    assert next_electrons([dark], dark, expected_off_deg=None, **PLAN) == pytest.approx(1.2e4)
    assert next_electrons([wanted], wanted, expected_off_deg=None, **PLAN) == pytest.approx(2.4e4)


def test_fluence_is_electrons_over_area() -> None:
    assert fluence_e_per_A2(2e4, 200.0) == pytest.approx(2e4 / (math.pi * 1000.0**2))
