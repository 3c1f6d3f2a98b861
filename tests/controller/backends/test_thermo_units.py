"""Metres, radians and overfocus against um, deg, nm and underfocus: one place, both ways."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.thermo.units import (
    NAMES,
    defocus_nm,
    ours_from_si,
    overfocus,
    pose_from_si,
    range_from_si,
    si_from_ours,
)
from controller.hardware.values import Axis
from tests.strategies import numbers

axes = st.sampled_from(list(Axis))
signs = st.sampled_from([-1, 1])


@given(axis=axes, sign=signs, value=numbers(-2000, 2000))
def test_there_and_back_is_the_same_place(axis: Axis, sign: int, value: float) -> None:
    there = si_from_ours(axis, value, sign)
    assert ours_from_si(axis, there, sign) == pytest.approx(value, rel=1e-12, abs=1e-12)
    if value > 1e-6:
        assert math.copysign(1, there) == sign


@given(value=numbers(-1e5, 1e5), metres=st.sampled_from([1.0, 1e-6]), scale=numbers(0.5, 2))
def test_defocus_there_and_back_and_underfocus_is_negative_there(
    value: float, metres: float, scale: float
) -> None:
    there = overfocus(value, metres=metres, scale=scale)
    assert defocus_nm(there, metres=metres, scale=scale) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert value * there <= 0


def test_known_values() -> None:
    assert si_from_ours(Axis.X, 5.0, 1) == pytest.approx(5e-6)
    assert si_from_ours(Axis.ALPHA, 180.0, -1) == pytest.approx(-math.pi)
    assert overfocus(500.0, metres=1.0, scale=1.0) == pytest.approx(-5e-7)
    assert overfocus(500.0, metres=1e-6, scale=1.0) == pytest.approx(-0.5)


@given(values=st.fixed_dictionaries({name: numbers(-1e-3, 1e-3) for name in NAMES.values()}))
def test_a_pose_converts_every_axis_with_its_own_sign(values: dict[str, float]) -> None:
    flip = dict(zip(Axis, (1, -1, -1, 1, -1), strict=True))
    pose = pose_from_si(values, flip)
    for axis, name in NAMES.items():
        assert pose.get(axis) == pytest.approx(ours_from_si(axis, values[name], flip[axis]))


def test_a_holder_without_beta_reads_none() -> None:
    four = dict.fromkeys((Axis.X, Axis.Y, Axis.Z, Axis.ALPHA), 1)
    assert pose_from_si({"x": 1e-6, "y": 0, "z": 0, "a": 0, "b": 0.1}, four).beta_deg is None


@given(axis=axes, sign=signs, low=numbers(-1e-3, 0), high=numbers(0, 1e-3))
def test_a_range_stays_in_rising_order(axis: Axis, sign: int, low: float, high: float) -> None:
    ours = range_from_si(axis, low, high, sign)
    assert ours[0] <= ours[1]
    back = sorted(si_from_ours(axis, end, sign) for end in ours)
    assert back == pytest.approx([low, high], abs=1e-15)
