"""Values refuse nonsense, survive JSON, and say what they mean."""

from __future__ import annotations

import math
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.hardware.values import (
    Axis,
    DoseReading,
    Exposure,
    Frame,
    OpticsChange,
    OpticsState,
    PartialPose,
    Purpose,
    Scan,
    StageLimits,
    StagePose,
)
from tests.conformance.fake_adapter import OPTICS, capabilities, good_health
from tests.strategies import exposures, optics, poses, scans


@given(exposures(st.none() | scans()), poses(), optics())
def test_values_survive_json(exposure: Exposure, pose: StagePose, state: OpticsState) -> None:
    for value in (exposure, pose, state, good_health(), capabilities()):
        assert type(value).model_validate_json(value.model_dump_json()) == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_value_takes_what_is_not_a_number(bad: float) -> None:
    with pytest.raises(ValidationError):
        StagePose(x_um=bad, y_um=0, z_um=0, alpha_deg=0)
    with pytest.raises(ValidationError):
        OpticsChange(defocus_nm=bad)
    with pytest.raises(ValidationError):
        Scan(shape=(3, 3), step_A=bad, dwell_s=1e-3)
    assert StageLimits(ranges={Axis.X: (-1, 1)}).violation(PartialPose.model_construct(x_um=bad))


def test_values_are_frozen_and_refuse_unknown_keys() -> None:
    pose = PartialPose(x_um=1.0)
    with pytest.raises(ValidationError):
        pose.x_um = 2.0
    with pytest.raises(ValidationError, match="x_mm"):
        PartialPose.model_validate({"x_mm": 1.0})
    with pytest.raises(ValidationError):
        pose.replace(x_um=math.nan)


def test_a_scan_takes_its_dwell_times_and_flybacks() -> None:
    scan = Scan(shape=(3, 5), step_A=1.0, dwell_s=0.1, flyback_s=0.5)
    assert scan.positions == 15
    assert scan.duration_s == pytest.approx(3.0)


def test_an_exposure_cannot_be_shorter_than_its_scan() -> None:
    with pytest.raises(ValidationError, match=r"duration_s = 1 s is shorter than the scan of 1.5"):
        Exposure(
            exposure_id=UUID(int=1),
            area="T",
            purpose=Purpose.DATA,
            detector="d",
            duration_s=1.0,
            scan=Scan(shape=(3, 5), step_A=1.0, dwell_s=0.1),
        )


@given(exposures(), st.just(math.nan) | st.floats(max_value=0.999))
def test_a_caller_may_widen_its_dose_but_never_lower_it(exposure: Exposure, margin: float) -> None:
    with pytest.raises(ValidationError):
        exposure.replace(margin=margin)


def test_an_area_is_a_name_and_not_a_path() -> None:
    for bad in ("", "a/b", "a b", "x" * 65, "Ä"):
        with pytest.raises(ValidationError):
            Exposure.model_validate(
                {
                    "exposure_id": UUID(int=1),
                    "area": bad,
                    "purpose": "align",
                    "detector": "d",
                    "duration_s": 1.0,
                }
            )


def test_limits_intersect_and_never_grow() -> None:
    one = StageLimits(ranges={Axis.X: (-5, 5), Axis.ALPHA: (-70, 70)})
    two = StageLimits(ranges={Axis.X: (-1, 9), Axis.BETA: (-20, 20)})
    both = one.intersect(two)
    assert both == two.intersect(one)
    assert both.ranges[Axis.X] == (-1, 5)
    with pytest.raises(ValidationError, match="is empty"):
        one.intersect(StageLimits(ranges={Axis.X: (6, 9)}))


def test_a_pose_without_beta_reads_zero() -> None:
    pose = StagePose(x_um=1, y_um=2, z_um=3, alpha_deg=4)
    assert [pose.get(axis) for axis in Axis] == [1, 2, 3, 4, 0]


def test_electrons_are_counts_without_offset_by_gain() -> None:
    frame = Frame(
        exposure_id=UUID(int=1),
        sequence=0,
        data=np.array([[130, 120], [175, 119]], np.uint16),
        gain=11.0,
        offset=120.0,
        exposure_s=1.0,
        utc="",
        pose=StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0),
        optics=OPTICS,
        charged_e_per_A2=0.0,
    )
    np.testing.assert_allclose(frame.electrons(), [[10 / 11, 0], [5, -1 / 11]], rtol=1e-6)


def test_an_unknown_detector_is_answered_with_what_there_is() -> None:
    with pytest.raises(KeyError, match=r"no detector 'eye'; there are \['camera', 'pixels'\]"):
        capabilities().detector("eye")


def test_a_dose_reading_adds_up() -> None:
    reading = DoseReading({Purpose.ALIGN: 0.2, Purpose.TRACK: 0.1, Purpose.DATA: 90.0})
    assert reading.total_e_per_A2 == pytest.approx(90.3)
    assert reading.before_scan_e_per_A2 == pytest.approx(0.3)
