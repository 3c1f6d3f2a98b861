"""The last step near the optimum: Bloch-wave intensities against counted ones.

Thin or light crystals scatter kinematically: plain relrods are fitted beside, and the likelihood
chooses.  The kinematical optimum lies 0.05-0.2 deg beside the truth near a zone axis, the more the
thicker the crystal.  From there the tilt climbs the `Hill` of Bloch intensities: on few beams to
find the basin, on many to finish.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.bloch import BlochModel
from controller.perception.alignment.hill import Hill, Place
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.registration import turn_to_spots
from controller.perception.alignment.two_at_a_time import for_each

Array = NDArray[np.float64]

_AROUND_BEAMS = 120
_SCOUT_BEAMS = 80
_SCOUT_ERROR = 0.3
_STARTS = 3


@dataclass(frozen=True)
class Summit:
    """Optimum of the tilt with its curvature."""

    pose: Pose
    covariance: Array
    """Of the tilt (x, y) in rad^2, (2, 2): inverse Fisher information, thickness and scale free."""
    model_error: float
    """Relative error of the intensities at which the pattern is likeliest."""
    node_px: Array
    """Nodes of the model, (n, 2)."""
    expected: Array
    """Electrons predicted in each aperture, (n,)."""
    counted: Array
    """Electrons above background counted there, (n,)."""
    quality: float
    """Gain as part of that of a model that predicted every one of these nodes exactly."""
    thickness_spread: float = 0.0
    """Relative standard deviation of the thickness at which the pattern is likeliest."""
    setting: tuple[bool, bool] = (False, False)
    """Inverted, kinematical."""
    turn_sigma_rad: float = 0.0
    """Standard deviation of the in-plane rotation, from the positions of the spots."""


def scout(scene: Scene, model: BlochModel, poses: list[Pose], *, most: int) -> list[Pose]:
    """Short, forgiving climbs: few beams, wide steps, generous model error; the best at the end.

    For crystals so strongly dynamical that the two-beam optimum is no guide to the right basin.
    """
    hills = for_each(lambda p: Hill(scene, model, p, _SCOUT_BEAMS, model_error=_SCOUT_ERROR), poses)
    rough = for_each(lambda hill: _climbed(hill, (4.8e-3,), 2), hills)
    rough.sort(key=lambda p: -p.log_gain)
    hills = for_each(
        lambda p: Hill(scene, model, p, _SCOUT_BEAMS, model_error=_SCOUT_ERROR), rough[:most]
    )
    return for_each(lambda hill: _climbed(hill, (2.4e-3, 1.2e-3), 4), hills)


def approach(scene: Scene, model: BlochModel, pose: Pose, *, beams: int) -> Pose:
    """The larger steps of a climb, from a kinematical optimum to within about 0.05 deg."""
    return _climbed(Hill(scene, model, pose, beams), (2.4e-3, 1.2e-3), 8)


def _climbed(hill: Hill, steps: tuple[float, ...], most_moves: int) -> Pose:
    centre = hill.climb(steps, most_moves)
    gain, thickness = hill.scanned(centre)
    turned = hill.pose.rotated(np.array([centre[0], centre[1], 0.0]))
    return replace(turned, log_gain=gain, thickness_A=thickness)


def tops_around(
    scene: Scene, model: BlochModel, rough: Summit, *, radius_rad: float, step_rad: float, most: int
) -> list[Summit]:
    """Climb from the best tilts about a summit, every thickness and spread tried at each.

    For strong scatterers, whose likelihood has many tops within a third of a degree.  Relrods that
    fit best there prove nothing: away from the right top Bloch waves may explain less than they.
    """
    inverted, kinematical = rough.setting
    both = kinematical and not _is_real(model)
    settings = [(False, False), (True, False)] if both else [(inverted, False)]
    tops = [
        top
        for setting in settings
        for top in _tops_in(scene, model, rough, setting, radius_rad, step_rad, most)
    ]
    return sorted(tops, key=lambda s: -s.pose.log_gain)


def _tops_in(
    scene: Scene, model: BlochModel, rough: Summit, setting: tuple[bool, bool],
    radius_rad: float, step_rad: float, most: int,
) -> list[Summit]:  # fmt: skip
    """The tops about a summit in one setting (inverted, kinematical)."""
    inverted, kinematical = setting
    hill = Hill(scene, model, rough.pose, _AROUND_BEAMS, inverted=inverted,
                kinematical=kinematical)  # fmt: skip
    n = int(radius_rad / step_rad) + 1
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)))
    offsets = step_rad * np.stack([i + 0.5 * j, np.sqrt(0.75) * j], 1)
    offsets = offsets[np.hypot(offsets[:, 0], offsets[:, 1]) <= radius_rad]
    places = sorted(for_each(hill.scanned_sharply, offsets), key=lambda p: -p.log_gain)
    chosen: list[Place] = []
    for place in places:
        far = [np.hypot(*np.subtract(place.offset, k.offset)) for k in chosen]
        if all(d > 1.3 * step_rad for d in far):
            chosen.append(place)
        if len(chosen) == most:
            break

    def climbed(place: Place) -> Summit:
        turned = rough.pose.rotated(np.array([*place.offset, 0.0]))
        climber = Hill(scene, model, turned, _AROUND_BEAMS, inverted=inverted,
                       kinematical=kinematical)  # fmt: skip
        here = replace(place, offset=(0.0, 0.0))
        return _summit(*climber.top(here), setting, climber, turn=False)

    return for_each(climbed, chosen)


def summit(
    scene: Scene, model: BlochModel, pose: Pose, *, beams: int, thorough: bool = True
) -> Summit:
    """Tilt, thickness and curvature at the top of the Bloch-wave likelihood.

    Parameters
    ----------
    scene, model
        The pattern; the crystal.
    pose
        A pose near the top.
    beams
        How many beams are coupled.
    thorough
        Also from other thicknesses, kinematically, and in the inverted setting where there is one.
    """
    settings = [(False, False)]
    if thorough:
        settings += [(False, True)] if _is_real(model) else [(False, True), (True, False)]
    tops = []
    for setting in settings:
        inverted, kinematical = setting
        hill = Hill(scene, model, pose, beams, inverted=inverted, kinematical=kinematical)
        for start in hill.starts(_STARTS if thorough else 1):
            climber = Hill(scene, model, pose, beams, inverted=inverted, kinematical=kinematical)
            tops.append((*climber.top(start), setting, climber))
    best = max(tops, key=lambda item: item[0].log_gain)
    return _summit(*best, turn=thorough)


def finished(scene: Scene, model: BlochModel, rough: Summit, *, beams: int) -> Summit:
    """The same summit on more beams."""
    inverted, kinematical = rough.setting
    hill = Hill(scene, model, rough.pose, beams, inverted=inverted, kinematical=kinematical,
                model_error=rough.model_error)  # fmt: skip
    place, covariance = hill.top(Place((0.0, 0.0), rough.pose.thickness_A, rough.thickness_spread))
    return _summit(place, covariance, rough.setting, hill, turn=True)


def _summit(
    place: Place, covariance: Array, setting: tuple[bool, bool], hill: Hill, *, turn: bool
) -> Summit:
    turned = hill.pose.rotated(np.array([*place.offset, 0.0]))
    final = replace(turned, log_gain=place.log_gain, thickness_A=place.thickness_A)
    node_px, expected, counted, quality = hill.report(place)
    turn_sigma = 0.0
    if turn:
        final, turn_sigma = turn_to_spots(hill.scene, final, node_px, expected)
    # a rotation about (x, y) moves the zone axis by (y, -x): covariance in tilt components
    swap = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return Summit(
        final, swap @ covariance @ swap.T, hill.model_error, node_px, expected, counted, quality,
        place.spread, setting, turn_sigma,
    )  # fmt: skip


def _is_real(model: BlochModel) -> bool:
    table = model.factors.table
    return bool(np.abs(table.imag).max() < 1e-6 * np.abs(table.real).max())
