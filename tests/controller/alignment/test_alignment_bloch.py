"""The Bloch waves of the aligner: slopes, sums, what screening may not change; the rotation."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from controller.perception.alignment import structure_from_cif
from controller.perception.alignment.apertures import Plate
from controller.perception.alignment.bloch import BlochModel, relrods, seen, select_beams, solve
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.hill import gains_of, likeliest_of
from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.likelihood import null_likelihood
from controller.perception.alignment.optics import relativistic_factor, wavenumber_inv_A
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.registration import turn_to_spots
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.structure_factors import reflections, structure_factors
from controller.perception.alignment.zone import ZoneFrame

DATA = Path(__file__).parent / "data"


def model_of(name: str) -> BlochModel:
    structure = structure_from_cif(DATA / f"{name}.cif")
    known = reflections(structure, 1.5)
    unit = relativistic_factor(200.0) / (np.pi * structure.volume)
    return BlochModel(
        structure_factors(structure, 3.0), unit, wavenumber_inv_A(200.0), known.hkl, known.g,
        unit * np.sqrt(known.strength), 0.15,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["SrTiO3", "SiO2-quartz"])
@pytest.mark.parametrize("spread", [0.0, 0.12])
@pytest.mark.parametrize("of", [solve, relrods])
def test_slopes_are_the_differences_of_neighbouring_tilts(
    name: str, spread: float, of: type
) -> None:
    """Also without an inversion centre, where the matrix is complex."""
    model = model_of(name)
    orientation = rotation_from_vector(np.array([0.02, 0.013, 0.3]))
    beams = select_beams(model, orientation, 40)
    assert np.iscomplexobj(beams.matrix) == (name == "SiO2-quartz")
    axis, step = np.array([0.6, -0.8, 0.0]), 1e-6
    there, back = (rotation_from_vector(sign * step * axis) @ orientation for sign in (1, -1))
    rows = seen(beams) if of is relrods else np.concatenate([beams.strong, beams.weak])
    s_slopes = (
        excitation(model.g[rows], there, model.wavenumber)[2]
        - excitation(model.g[rows], back, model.wavenumber)[2]
    ) / (2 * step)
    t = 613.0
    wanted = (
        of(model, beams, there).at(np.array([t]), spread)
        - of(model, beams, back).at(np.array([t]), spread)
    )[:, 0] / (2 * step)
    found = of(model, beams, orientation).slopes(t, spread, s_slopes[:, None])[:, 0]
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_all_electrons_leave_the_crystal() -> None:
    """Without absorption the intensities of all coupled beams add up to one, at any thickness."""
    model = model_of("SrTiO3")
    orientation = rotation_from_vector(np.array([0.01, 0.02, 0.0]))
    waves = solve(model, select_beams(model, orientation, 60), orientation)
    inside = np.abs(
        waves.vectors @ (waves.vectors[0].conj()[:, None] * np.exp(
            1j * np.pi * np.outer(waves.values, [300.0, 1200.0])
        ))
    ) ** 2  # fmt: skip
    np.testing.assert_allclose(inside.sum(0), 1.0, atol=1e-9)


def test_screening_at_coarse_scales_finds_the_likeliest_column() -> None:
    rng = np.random.default_rng(5)
    off = []
    for _ in range(40):
        truth = rng.exponential(30.0, 60) * (rng.random(60) < 0.3)
        b = np.full(60, 0.7)
        n = rng.poisson(b + truth).astype(float)
        columns = truth[:, None] * np.exp(rng.normal(0, 0.5, (60, 25))) * rng.uniform(0.2, 5.0, 25)
        unknown, null = null_likelihood(n, b, float(n.max()))
        f = np.ones(60)
        every = gains_of(n, b, f, columns, unknown, null, 0.12)
        _, best = likeliest_of(n, b, f, columns, unknown, null, 0.12)
        off.append(every.max() - best)
    assert max(off) < 0.5
    assert np.median(off) == 0.0


def test_the_error_of_the_rotation_is_that_of_repeated_patterns() -> None:
    """Spots of 40 electrons and 0.9 px, read two hundred times."""
    rng = np.random.default_rng(8)
    angle = rng.uniform(0, 2 * np.pi, 14)
    nodes = 128.0 + rng.uniform(25, 90, 14)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    counts, sigma_px = np.full(14, 40.0), 0.9
    turns, told = [], 0.0
    for _ in range(200):
        found = nodes + rng.normal(0, np.hypot(0.05, sigma_px / np.sqrt(40.0)), nodes.shape)
        spots = Spots(
            found[:, 0], found[:, 1], counts, sigma_px, np.ones((256, 256)), None, (128.0, 128.0)
        )
        scene = Scene(
            cast(Plate, None), spots, 40.0, np.zeros((1, 3)), np.ones(1), np.ones(1), 0.01, 0.01,
            0.5, 40.0,
        )  # fmt: skip
        pose = Pose(cast(ZoneFrame, None), np.eye(3), (128.0, 128.0), 0.01, 500.0, 0.0)
        turned, told = turn_to_spots(scene, pose, nodes, np.full(14, 40.0))
        turns.append(np.arctan2(turned.orientation[1, 0], turned.orientation[0, 0]))
    assert np.std(turns) == pytest.approx(told, rel=0.15)
    assert abs(np.mean(turns)) < 4 * told / np.sqrt(200)
