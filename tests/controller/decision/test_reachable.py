"""Which zone axis a crystal is sent to: from its orientation, with the holder's limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.reachable import Reach, candidates, choose, in_words
from controller.hardware.values import Axis, AxisInfo, Capabilities, StageLimits
from controller.perception.alignment import HolderFrame, tilt_from_zone
from controller.perception.alignment.geometry import double_tilt, rotation_from_vector
from controller.plan.run import RunPlan
from controller.record.events import GoniometerSetting, TiltFitted, ZoneAxis

PLAN = RunPlan.from_mapping({"sample": {"material": "UiO-66"}}, base=Path(), source="p")
NEAREST = PLAN.replace(alignment=PLAN.alignment.replace(targets="nearest"))
TILTING = AxisInfo(low=-30, high=30, speed_per_s=1, repeatability=0.02)
CAPABILITIES = Capabilities.model_construct(axes={Axis.ALPHA: TILTING, Axis.BETA: TILTING})
FRAME = HolderFrame(-62.0)
FAMILIES = {
    (0, 0, 1): [(0, 0, 1), (0, 1, 0), (1, 0, 0)],
    (1, 1, 0): [(1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)],
    (1, 1, 1): [(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)],
}


def limits(alpha: float, beta: float) -> StageLimits:
    return StageLimits(ranges={Axis.ALPHA: (-alpha, alpha), Axis.BETA: (-beta, beta)})


def seen(holder_from_crystal: np.ndarray, setting: GoniometerSetting, **changes: Any) -> TiltFitted:
    """What a pattern of a cubic crystal of this orientation tells at a setting."""
    stage = double_tilt(setting.alpha_deg, setting.beta_deg) @ holder_from_crystal
    detector = FRAME.stage_from_detector().T @ stage
    axes = []
    for zone, members in FAMILIES.items():
        for member in members:
            v = detector @ (np.array(member) / np.linalg.norm(member))
            sense = 1 if v[2] > 0 else -1
            u, w = sense * v, tuple(sense * m for m in member)
            axes.append(ZoneAxis(zone_uvw=zone, member_uvw=w, direction=tuple(u.tolist())))
    best = max(axes, key=lambda a: a.direction[2])
    tilt = tilt_from_zone(np.asarray(best.direction))
    given = {
        "target": "T01", "frame": "f", "answered": True, "reason": "", "zone_uvw": best.zone_uvw,
        "tilt_mrad": tilt, "sigma_mrad": 0.3, "centre_px": (128, 128), "inv_A_per_px": 0.01,
        "misorientation_deg": float(np.rad2deg(1e-3 * np.hypot(*tilt))), "mode": "structure",
        "setting": setting, "axes": tuple(axes),
    }  # fmt: skip
    return TiltFitted.model_validate(given | changes)


def setting(alpha: float = 0.0, beta: float = 0.0) -> GoniometerSetting:
    return GoniometerSetting(
        alpha_deg=alpha, beta_deg=beta, sigma_alpha_deg=0.01, sigma_beta_deg=0.01
    )


@given(
    st.tuples(*[st.floats(-1.5, 1.5)] * 3), st.floats(-20, 20), st.floats(-15, 15),
)  # fmt: skip
def test_the_angles_of_every_candidate_lay_it_along_the_beam(
    turn: tuple[float, float, float], alpha: float, beta: float
) -> None:
    orientation = rotation_from_vector(np.array(turn))
    here = setting(alpha, beta)
    reach = Reach(PLAN, here, limits(30, 20), CAPABILITIES, 200.0)
    found = candidates(reach, seen(orientation, here), FRAME)
    assert len(found) == 13
    assert [c.off_deg for c in found] == sorted(c.off_deg for c in found)
    for c in found:
        member = np.array(c.member_uvw) / np.linalg.norm(c.member_uvw)
        along = double_tilt(c.alpha_deg, c.beta_deg) @ orientation @ member
        assert abs(along[2]) == pytest.approx(1, abs=1e-9)
        inside = abs(c.alpha_deg) <= 30 and abs(c.beta_deg) <= 20
        assert c.reachable <= inside
        assert c.reachable or c.why_not


def test_the_nearest_is_taken_where_it_can_be_reached() -> None:
    orientation = rotation_from_vector(np.array([0.1, -0.05, 0.3]))
    reach = Reach(PLAN, setting(), limits(30, 20), CAPABILITIES, 200.0)
    found = candidates(reach, seen(orientation, setting()), FRAME)
    chosen = choose(PLAN, found)
    assert chosen is found[0]
    assert chosen.zone_uvw == (0, 0, 1)
    assert "not [" in in_words(chosen, found)


def test_another_zone_is_taken_where_the_nearest_is_out_of_reach_and_the_words_say_why() -> None:
    # [0 0 1] needs alpha = -20, [0 1 1] alpha = +25
    orientation = rotation_from_vector(np.array([np.deg2rad(20.0), 0.0, 0.0]))
    lame = StageLimits(ranges={Axis.ALPHA: (-10, 30), Axis.BETA: (-10, 10)})
    reach = Reach(PLAN, setting(), lame, CAPABILITIES, 200.0)
    found = candidates(reach, seen(orientation, setting()), FRAME)
    chosen = choose(PLAN, found)
    assert not found[0].reachable
    assert choose(NEAREST, found) is None
    assert chosen is not None
    assert chosen.zone_uvw == (1, 1, 0)
    assert chosen.alpha_deg == pytest.approx(25)
    assert chosen.beta_deg == pytest.approx(0)
    words = in_words(chosen, found)
    assert "not [0 0 1] (alpha_deg = -20 is outside -10 .. 30)" in words
    assert "25.0 deg away" in words


def test_a_step_beyond_the_plans_is_no_candidate() -> None:
    orientation = rotation_from_vector(np.array([0.3, 0.0, 0.0]))
    short = PLAN.replace(alignment=PLAN.alignment.replace(max_step_deg=10.0))
    reach = Reach(short, setting(), limits(60, 60), CAPABILITIES, 200.0)
    found = candidates(reach, seen(orientation, setting()), FRAME)
    assert choose(short, found) is None
    assert "max_step_deg" in found[0].why_not
