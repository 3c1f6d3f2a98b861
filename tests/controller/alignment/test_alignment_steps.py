"""The steps of a known-structure fit by themselves: centre, shadow, lattice, first answer."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import CrystalStructure, estimate_tilt, structure_from_cif
from controller.perception.alignment.bloch import relrods, seen, select_beams
from controller.perception.alignment.centre import rank_direct_beams
from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.lattice import fit_lattice
from controller.perception.alignment.pattern import check_pattern
from controller.perception.alignment.scale import match_lattice
from controller.perception.alignment.spots import find_spots
from controller.perception.alignment.task import Task, bloch_model_of
from controller.perception.alignment.zone import zone_frames

DATA = Path(__file__).parent / "data"
ZONE = (0, 0, 1)
TILT_MRAD = np.array([9.0, -5.0])


@cache
def uio66() -> CrystalStructure:
    return structure_from_cif(DATA / "UiO-66.cif")


def drawn(*, electrons: float, dynamical: bool = True, stop_px: float = 0.0) -> np.ndarray:
    crystal = Crystal.from_cif(DATA / "UiO-66.cif")
    turn = orientation(crystal, ZONE, TILT_MRAD, 0.7)
    g, intensity = diffraction(crystal, turn, 200.0, 60.0, dynamical=dynamical)
    seen = Detector(inv_A_per_px=0.01212, centre_px=(121.0, 133.0), beam_stop_px=stop_px)
    return record(g, intensity, seen, electrons, np.random.default_rng(4))


def estimate(counts: np.ndarray, **options: object) -> object:
    return estimate_tilt(
        counts, energy_keV=200.0, inv_A_per_px=0.012, structure=uio66(), target_zone_uvw=ZONE,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("factor", [0.975, 1.0, 1.03])
@pytest.mark.parametrize("turn_rad", [0.3, 2.0])
def test_the_lattice_gives_camera_constant_and_rotation(factor: float, turn_rad: float) -> None:
    frame = zone_frames(uio66(), ZONE)[0].frame
    step = 2.0 * uio66().reciprocal[0]
    a, b = (frame @ v for v in (step, 2.0 * uio66().reciprocal[1]))
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    i, j = (k.ravel() for k in np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)))
    nodes = (np.outer(i, a[:2]) + np.outer(j, b[:2])) @ np.array([[c, s], [-s, c]])
    x, y = 128.0 + nodes.T / (0.012 * factor)
    lattice = fit_lattice(x, y, np.full(len(x), 500.0), (128.0, 128.0), centre_is_node=True)
    assert lattice is not None
    match = match_lattice(lattice, uio66(), ZONE, 0.012)
    assert match is not None
    assert match.factor == pytest.approx(factor, rel=1e-3)
    off = np.angle(np.exp(1j * (match.rotations_rad(frame) - turn_rad)))
    assert np.abs(off).min() < 5e-3


def test_a_camera_constant_off_by_more_than_promised_is_not_matched() -> None:
    spots = find_spots(check_pattern(drawn(electrons=1e5)))
    lattice = fit_lattice(
        spots.x_px, spots.y_px, spots.counts, spots.centre_px, centre_is_node=True
    )
    assert lattice is not None
    assert match_lattice(lattice, uio66(), ZONE, 0.012) is not None
    assert match_lattice(lattice, uio66(), ZONE, 0.012 * 1.06) is None


def test_the_halo_tells_the_direct_beam_from_a_brighter_reflection() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:256, :256]
    halo = 3.0 * (1 + np.hypot(x - 118.0, y - 131.0) ** 2 / 400.0) ** -1.5
    direct = 40.0 * np.exp(-0.5 * ((x - 118.0) ** 2 + (y - 131.0) ** 2))
    reflection = 90.0 * np.exp(-0.5 * ((x - 140.0) ** 2 + (y - 120.0) ** 2))
    pattern = check_pattern(rng.poisson(halo + direct + reflection))
    masked = np.hypot(x - 118, y - 131) < 5
    masked |= np.hypot(x - 140, y - 120) < 5
    order = rank_direct_beams(
        pattern, masked, np.array([140.0, 118.0]), np.array([120.0, 131.0]),
        np.array([560.0, 250.0]),
    )  # fmt: skip
    assert order[0] == 1


@pytest.mark.parametrize("electrons", [1e4, 1e5])
def test_the_shadow_of_a_beam_stop_is_found_about_the_beam(electrons: float) -> None:
    counts = drawn(electrons=electrons, stop_px=8.0)
    stop = check_pattern(counts, beam_stop=True).stop_px
    assert stop is not None
    assert np.hypot(stop[0] - 121.0, stop[1] - 133.0) < 3.0


def test_a_first_answer_comes_before_the_full_one_with_its_own_sigma() -> None:
    counts = drawn(electrons=3e4)
    full, quick = estimate(counts), estimate(counts, effort="first")
    assert full.answered
    assert full.first is not None
    assert 0 < full.first.elapsed_ms < full.elapsed_ms
    assert quick.first is None
    early = np.array([full.first.tilt_x_mrad, full.first.tilt_y_mrad])
    assert early == pytest.approx([quick.tilt_x_mrad, quick.tilt_y_mrad])
    assert full.first.sigma_mrad == pytest.approx(quick.sigma_mrad)
    assert np.hypot(*(early - TILT_MRAD)) < 4.0 * quick.sigma_mrad
    assert full.as_record()["first"]["answered"] == quick.answered


def test_silence_for_want_of_electrons_says_how_many_are_missing() -> None:
    few = estimate(drawn(electrons=180.0))
    assert not few.answered
    assert few.further_electrons is not None
    assert few.further_electrons > 0
    enough = estimate(drawn(electrons=3e4))
    assert enough.answered
    assert enough.further_electrons is None


def test_kinematical_patterns_are_read_as_such() -> None:
    found = estimate(drawn(electrons=1e5, dynamical=False))
    assert found.answered
    off = np.array([found.tilt_x_mrad, found.tilt_y_mrad]) - TILT_MRAD
    assert np.rad2deg(1e-3 * np.hypot(*off)) < 0.01
    assert found.fit_quality > 0.6


def test_relrods_are_the_kinematical_law() -> None:
    pattern = check_pattern(drawn(electrons=1e4))
    task = Task(pattern, find_spots(pattern), uio66(), ZONE, 200.0, 0.012, None)
    model = bloch_model_of(task, 1.0)
    frame = zone_frames(uio66(), ZONE)[0].frame
    beams = select_beams(model, frame, 30)
    waves = relrods(model, beams, frame)
    rows = seen(beams)
    k, t = model.wavenumber, 400.0
    g_z = (model.g[rows] @ frame.T)[:, 2]
    s = np.sqrt(k**2 - waves.gx**2 - waves.gy**2) - k - g_z
    thin = (np.pi * t * model.potential[rows] / k * np.sinc(s * t)) ** 2
    on = np.abs(s) < 0.5 / t
    # in units of the coupling, which is lowered until scattering is kinematical
    assert 1e6 * waves.at(np.array([t]), 0.0)[on, 0] == pytest.approx(thin[on], rel=0.01)


def strontium_titanate(thickness_nm: float, *, spread: float, electrons: float = 1e5) -> object:
    crystal = Crystal.from_cif(DATA / "SrTiO3.cif")
    turn = orientation(crystal, ZONE, TILT_MRAD, 0.7)
    g, intensity = diffraction(crystal, turn, 200.0, thickness_nm, thickness_spread=spread)
    seen = Detector(inv_A_per_px=0.01212, centre_px=(121.0, 133.0))
    return estimate_tilt(
        record(g, intensity, seen, electrons, np.random.default_rng(4)),
        energy_keV=200.0, inv_A_per_px=0.012, structure=structure_from_cif(DATA / "SrTiO3.cif"),
        target_zone_uvw=ZONE,
    )  # fmt: skip


@pytest.mark.parametrize(("thickness_nm", "spread"), [(47.3, 0.0), (61.0, 0.12)])
def test_a_plate_and_a_wedge_of_a_strong_scatterer_are_both_explained(
    thickness_nm: float, spread: float
) -> None:
    found = strontium_titanate(thickness_nm, spread=spread)
    assert found.answered, found.reason
    off = np.array([found.tilt_x_mrad, found.tilt_y_mrad]) - TILT_MRAD
    assert np.rad2deg(1e-3 * np.hypot(*off)) < 0.01
    assert found.thickness_nm == pytest.approx(thickness_nm, abs=2.0)
    assert found.fit_quality > 0.8


def test_beams_far_off_the_sphere_claim_no_counts() -> None:
    """They would read the counts of the zero-order spots that they cover in projection."""
    known = structure_from_cif(DATA / "SrTiO3.cif")
    blank = check_pattern(np.random.default_rng(0).poisson(1.0, (64, 64)))
    task = Task(blank, find_spots(blank), known, ZONE, 200.0, 0.012, None)
    model = bloch_model_of(task, 1.2)
    frame = zone_frames(known, ZONE)[0].frame
    beams = select_beams(model, frame, 240)
    s = excitation(model.g, frame, model.wavenumber)[2]
    assert np.abs(s[beams.strong]).max() > 0.1
    told = seen(beams)
    assert (np.abs(s[told]) <= 0.03 + 1.5 * model.potential[told]).all()
    places = np.round((model.g[told] @ frame.T)[:, :2], 6)
    assert len(np.unique(places, axis=0)) == len(places)


def test_a_reflection_brighter_than_the_direct_beam_makes_no_spots_of_the_halo() -> None:
    """The background has to be radial about the direct beam, not about the brightest spot."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:256, :256]
    halo = 60.0 * np.exp(-0.5 * np.hypot(x - 133, y - 137) ** 2 / 18.0**2)
    spots = np.zeros((256, 256))
    for px, py, height in ((133, 137, 120), (150, 155, 4000), (129, 65, 900), (188, 163, 700)):
        spots += height * np.exp(-0.5 * np.hypot(x - px, y - py) ** 2 / 1.2**2)
    pattern = check_pattern(rng.poisson(halo + spots + 0.02))
    about_it = find_spots(pattern, centre_px=(133.0, 137.0))
    about_another = find_spots(pattern, centre_px=(150.0, 155.0))
    assert len(about_it) < 10
    assert len(about_another) > 2 * len(about_it)
