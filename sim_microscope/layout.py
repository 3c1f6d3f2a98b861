"""Where the crystals lie and how they point, drawn from a scenario.

A crystal that lies on a facet has one of its zone axes nearly along the beam, at a random angle in
the plane; film buckling tilts it by the scenario's misorientation.  "Usable" means that the
holder reaches at least the nearest wanted zone, with room for an approach from below;
"unreachable" that it reaches none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim_microscope.film import Film, make_film
from sim_microscope.geometry import about, carry_onto_z, goniometer_angles, random_rotation
from sim_microscope.randomness import stream
from sim_microscope.scenario import CrystalGroup, Scenario, ScenarioError, StageSpec, Zone
from sim_microscope.shape import Shape, grow
from sim_microscope.structures import Structure, load_structure
from sim_microscope.zones import family

Array = NDArray[np.float64]

_REACH_MARGIN_DEG = 2.5
_GAP_UM = 0.16
_HELD_SHARE = 0.3
_TRIES = 400


@dataclass(frozen=True, eq=False)
class Crystal:
    """One crystal on the grid."""

    id: str
    structure: Structure = field(repr=False)
    role: str
    """usable, unreachable, thick or overlap."""
    centre_um: tuple[float, float]
    shape: Shape
    """In the holder frame."""
    orientation: Array
    """(3, 3): v_holder = orientation @ v_crystal, at the centre."""
    zones: tuple[Zone, ...]
    mosaic_deg: float
    bend_deg: float
    bend_direction: tuple[float, float]
    """Unit vector in the holder plane along which the orientation changes."""
    radius_um: float
    thickness_nm: float

    def orientation_at(self, x_um: float, y_um: float) -> Array:
        """Orientation at a holder point: the bend added to that of the centre, (3, 3)."""
        ux, uy = self.bend_direction
        along = (x_um - self.centre_um[0]) * ux + (y_um - self.centre_um[1]) * uy
        angle = np.deg2rad(self.bend_deg) * along / (2 * self.radius_um)
        return np.asarray(about(np.array([-uy, ux, 0.0]), angle) @ self.orientation)

    def nearest_zones(self) -> list[tuple[Zone, float, float, float]]:
        """Members of the wanted families by (uvw, tilt_deg, alpha_deg, beta_deg), nearest first."""
        found = []
        for wanted in self.zones:
            for member in family(self.structure, wanted):
                axis = self.orientation @ self.structure.direction(member)
                if axis[2] < 0:
                    continue
                tilt = float(np.rad2deg(np.arccos(np.clip(axis[2], -1, 1))))
                found.append((member, tilt, *goniometer_angles(axis)))
        return sorted(found, key=lambda zone: zone[1])


def lay_out(scenario: Scenario, seed: int) -> list[Crystal]:
    """Draw all crystals of `scenario`.

    Raises
    ------
    ScenarioError
        A structure is unknown, the field is too small, or no orientation fits the role.
    """
    rng = stream(seed, "layout")
    taken: list[tuple[float, float, float]] = []
    crystals: list[Crystal] = []
    for number, group in enumerate(scenario.specimen.crystals):
        where = f"specimen.crystals.{number}"
        structure = _structure(group, where)
        for _ in range(group.count):
            members = int(rng.integers(2, 5)) if group.role == "aggregate" else 1
            drawn = [_draw(group, structure, scenario.stage, where, rng) for _ in range(members)]
            places = _heap([d[2] for d in drawn], rng)
            reach = max(np.hypot(x, y) + d[2] for (x, y), d in zip(places, drawn, strict=True))
            cx, cy = _free_place(scenario, reach, taken, where, rng, seed)
            taken.append((cx, cy, reach))
            for (dx, dy), (orientation, shape, radius, thickness) in zip(
                places, drawn, strict=True
            ):
                angle = rng.uniform(0, 2 * np.pi)
                crystals.append(
                    Crystal(
                        id=f"K{len(crystals):02d}",
                        structure=structure,
                        role="overlap" if group.role == "aggregate" else group.role,
                        centre_um=(cx + dx, cy + dy),
                        shape=shape,
                        orientation=orientation,
                        zones=group.zones,
                        mosaic_deg=group.mosaic_deg,
                        bend_deg=group.bend_deg,
                        bend_direction=(float(np.cos(angle)), float(np.sin(angle))),
                        radius_um=radius,
                        thickness_nm=thickness,
                    )
                )
    return crystals


def _structure(group: CrystalGroup, where: str) -> Structure:
    try:
        return load_structure(group.structure)
    except ValueError as problem:
        raise ScenarioError(f"{where}.structure: {problem}") from problem


def _draw(
    group: CrystalGroup,
    structure: Structure,
    stage: StageSpec,
    where: str,
    rng: np.random.Generator,
) -> tuple[Array, Shape, float, float]:
    """Orientation, shape in the holder frame, radius in µm and thickness in nm of one crystal."""
    orientation, lies_along = _orientation(group, structure, stage, where, rng)
    thickness = float(rng.uniform(*group.thickness_nm))
    width = float(rng.uniform(*group.width_nm))
    normals, offsets = grow(
        structure.habit(),
        width_nm=width,
        thickness_nm=thickness if group.flake else None,
        lies_along=lies_along,
        rng=rng,
    )
    shape = Shape(normals @ orientation.T, offsets)
    outline = shape.outline_nm()
    middle = float(shape.thickness_nm(np.zeros(1), np.zeros(1), np.eye(3))[0])
    return orientation, shape, float(np.hypot(*outline.T).max()) * 1e-3, middle


def _orientation(
    group: CrystalGroup,
    structure: Structure,
    stage: StageSpec,
    where: str,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """(v_holder from v_crystal, direction in the crystal frame that lies along holder z)."""
    for _ in range(_TRIES):
        if group.role == "unreachable":
            orientation = random_rotation(rng)
            lies_along = orientation.T @ np.array([0.0, 0.0, 1.0])
        else:
            zone = group.zones[int(rng.integers(len(group.zones)))]
            lies_along = structure.direction(zone)
            azimuth = rng.uniform(0, 2 * np.pi)
            tilt = np.deg2rad(rng.uniform(*group.misorientation_deg))
            orientation = (
                about(np.array([np.cos(azimuth), np.sin(azimuth), 0.0]), tilt)
                @ about(np.array([0.0, 0.0, 1.0]), rng.uniform(0, 2 * np.pi))
                @ carry_onto_z(lies_along)
            )
        reach = reachable(orientation, structure, group.zones, stage)
        if group.role == "aggregate" or reach == (group.role != "unreachable"):
            return orientation, lies_along
    raise ScenarioError(
        f"{where}.role = {group.role!r}: no orientation within {_TRIES} draws is {group.role} for "
        f"zones {group.zones} with alpha {stage.alpha.low:g} .. {stage.alpha.high:g} and beta "
        f"{stage.beta.low:g} .. {stage.beta.high:g} degrees; change the zones, "
        f"misorientation_deg, or the limits of the stage"
    )


def reachable(
    orientation: Array, structure: Structure, zones: tuple[Zone, ...], stage: StageSpec
) -> bool:
    """Whether the holder lays any member of `zones` along the beam, with room for an approach."""
    for zone in zones:
        for member in family(structure, zone):
            alpha, beta = goniometer_angles(orientation @ structure.direction(member))
            if (
                stage.alpha.low + _REACH_MARGIN_DEG <= alpha <= stage.alpha.high - _REACH_MARGIN_DEG
                and stage.beta.low + _REACH_MARGIN_DEG
                <= beta
                <= stage.beta.high - _REACH_MARGIN_DEG
            ):
                return True
    return False


def _heap(radii: list[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Offsets in µm: the first in the middle, the others leaning on it."""
    places = [(0.0, 0.0)]
    for radius in radii[1:]:
        angle = rng.uniform(0, 2 * np.pi)
        distance = rng.uniform(0.35, 0.8) * (radii[0] + radius)
        places.append((float(distance * np.cos(angle)), float(distance * np.sin(angle))))
    return places


def _is_held(film: Film, x_um: float, y_um: float, reach_um: float) -> bool:
    """Whether enough film lies under a crystal; where there is no film at all, anything goes."""
    if not film.map_nm.any():
        return True
    angle, radius = np.linspace(0, 2 * np.pi, 12, endpoint=False), 0.7 * reach_um
    solid = film.thickness_nm(x_um + radius * np.cos(angle), y_um + radius * np.sin(angle))
    return bool((solid > 1.0).mean() >= _HELD_SHARE)


def _free_place(
    scenario: Scenario,
    reach_um: float,
    taken: list[tuple[float, float, float]],
    where: str,
    rng: np.random.Generator,
    seed: int,
) -> tuple[float, float]:
    specimen = scenario.specimen
    half = specimen.field_um / 2
    low = np.array([-half, -half]) + reach_um
    high = np.array([half, half]) - reach_um
    if specimen.bar is not None:
        axis = 0 if specimen.bar.side in {"left", "right"} else 1
        if specimen.bar.side in {"left", "top"}:
            low[axis] += specimen.bar.inset_um + _GAP_UM
        else:
            high[axis] -= specimen.bar.inset_um + _GAP_UM
    film = make_film(specimen.film, seed)
    for _ in range(_TRIES if (high > low).all() else 0):
        x, y = rng.uniform(low, high)
        if _is_held(film, x, y, reach_um) and all(
            np.hypot(x - a, y - b) > reach_um + r + _GAP_UM for a, b, r in taken
        ):
            return float(x), float(y)
    raise ScenarioError(
        f"{where}.count: no room left for a crystal of radius {reach_um:.2f} µm in a field of "
        f"{specimen.field_um:g} µm with {len(taken)} others; enlarge specimen.field_um or lower "
        f"count or width_nm"
    )
