"""Limits intersect, refuse, and say who set them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.errors import LimitError, UnsupportedError
from controller.hardware.values import Axis, PartialPose, StageLimits
from controller.safety.limits import Envelope, checked_target
from tests.strategies import numbers

spans = st.tuples(numbers(-100, 0), numbers(0, 100))


def box(**spans_by_axis: tuple[float, float]) -> StageLimits:
    return StageLimits(ranges={Axis(name): span for name, span in spans_by_axis.items()})


@given(spans, spans, st.none() | spans, st.none() | spans, numbers(-120, 120))
def test_a_target_is_allowed_if_and_only_if_everybody_allows_it(
    vendor: tuple[float, float],
    holder: tuple[float, float],
    site: tuple[float, float] | None,
    plan: tuple[float, float] | None,
    value: float,
) -> None:
    given_spans = [span for span in (vendor, holder, site, plan) if span is not None]
    envelope = Envelope(
        box(alpha_deg=vendor),
        box(alpha_deg=holder),
        None if site is None else box(alpha_deg=site),
        None if plan is None else box(alpha_deg=plan),
    )
    target = PartialPose(alpha_deg=value)
    if all(low <= value <= high for low, high in given_spans):
        envelope.check(target)
    else:
        with pytest.raises(LimitError):
            envelope.check(target)


def test_the_message_names_value_range_and_who_set_it() -> None:
    envelope = Envelope(
        box(alpha_deg=(-70, 70), x_um=(-1000, 1000)),
        box(alpha_deg=(-40, 40)),
        site=box(alpha_deg=(-60, 30)),
    )
    with pytest.raises(LimitError) as e:
        envelope.check(PartialPose(x_um=3.0, alpha_deg=50.0))
    assert "alpha_deg = 50 is outside -40 .. 30" in str(e.value)
    assert "(limits of: holder, site)" in str(e.value)
    assert "nothing moved" in str(e.value)


def test_an_axis_that_the_stage_has_not_is_refused_whatever_the_holder_says() -> None:
    envelope = Envelope(box(alpha_deg=(-70, 70)), box(beta_deg=(-30, 30)))
    assert Axis.BETA not in envelope.box().ranges
    with pytest.raises(UnsupportedError, match="this stage has no axis beta_deg"):
        envelope.check(PartialPose(beta_deg=1.0))


def test_limits_that_exclude_each_other_are_found_before_the_session() -> None:
    envelope = Envelope(box(z_um=(-100, 100)), box(), plan=box(z_um=(200, 300)))
    with pytest.raises(LimitError, match=r"z_um: the plan limits 200 .. 300 and the vendor limits"):
        envelope.box()


def test_a_computed_target_must_be_finite() -> None:
    assert checked_target(x_um=1.0, alpha_deg=2.0) == PartialPose(x_um=1.0, alpha_deg=2.0)
    with pytest.raises(LimitError, match=r"must be finite, got x_um = 1, alpha_deg = nan"):
        checked_target(x_um=1.0, alpha_deg=math.nan)
