"""Dynamical diffraction against its laws, its own multislice, and abTEM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim_microscope.scattering import CrystalInBeam, bragg_spots, wavelength_A
from sim_microscope.scattering.bloch import beam_intensities, importance
from sim_microscope.scattering.electron import lorentz_factor
from sim_microscope.scattering.ewald import beams_near_sphere
from sim_microscope.scattering.structure_factors import structure_factors
from sim_microscope.structures import load_structure, rotation_for_zone

torch.set_num_threads(1)


def by_hkl(crystal: CrystalInBeam, **options: int) -> dict[tuple[int, ...], float]:
    spots = bragg_spots(crystal, energy_keV=300, **options)
    return {tuple(h): float(i) for h, i in zip(spots.hkl.tolist(), spots.intensity, strict=True)}


def compare(ours: dict[tuple[int, ...], float], other: dict[tuple[int, ...], float]) -> NDArray:
    keys = sorted(set(ours) | set(other))
    return np.array([[ours.get(k, 0.0), other.get(k, 0.0)] for k in keys]).T


@pytest.mark.parametrize(
    ("name", "zone", "tilt", "thickness", "g_max", "sg_max", "tolerance"),
    [
        ("SrTiO3", (0, 0, 1), (0, 0), 30, 3.0, 0.15, 0.02),
        ("Au", (1, 1, 0), (10, 5), 20, 3.0, 0.15, 0.01),
        ("SrTiO3", (1, 1, 0), (60, -35), 40, 2.5, 0.1, 0.02),
        ("UiO-66", (1, 1, 0), (60, -35), 30, 0.9, 0.015, 0.05),
    ],
)
def test_intensities_agree_with_abtem(
    name: str,
    zone: tuple[int, int, int],
    tilt: tuple[int, int],
    thickness: float,
    g_max: float,
    sg_max: float,
    tolerance: float,
) -> None:
    """abTEM's Bloch waves of the same crystal: correlation > 0.99, sum of differences small."""
    import ase
    from abtem.bloch import BlochWaves, StructureFactor

    structure = load_structure(name)
    r = rotation_for_zone(structure, zone, in_plane_deg=10, tilt_mrad=tilt)
    atoms = ase.Atoms(
        structure.atomic_number, positions=structure.positions_A, cell=structure.cell_A, pbc=True
    )
    u = float(np.sqrt(structure.U_iso_A2[0]))
    factors = StructureFactor(atoms, g_max=2 * g_max, thermal_sigma=u, cutoff="hard")
    waves = BlochWaves(factors, energy=300e3, sg_max=sg_max, g_max=g_max, orientation_matrix=r)
    pattern = waves.calculate_diffraction_patterns([10.0 * thickness], lazy=False)
    theirs = {
        tuple(int(i) for i in hkl): float(v)
        for hkl, v in zip(pattern.miller_indices, np.asarray(pattern.array)[0], strict=True)
    }

    ours = by_hkl(CrystalInBeam(structure, r, thickness))

    a, b = compare(ours, theirs)
    diffracted = np.arange(len(a)) != np.argmax(b)
    assert np.corrcoef(a[diffracted], b[diffracted])[0, 1] > 0.99
    assert np.abs(a - b).sum() < tolerance


def test_two_beam_case_is_the_analytic_one() -> None:
    """I_g = (pi t / xi)² sinc²(t sqrt(s² + 1/xi²)), xi = pi V / (gamma lambda |F|)."""
    gold = load_structure("Au")
    factors = structure_factors(gold)
    lam = wavelength_A(300)
    r = rotation_for_zone(gold, (0, 0, 1), tilt_mrad=(3.1, 0))
    beams = beams_near_sphere(factors, r, wavelength_A=lam, g_max_per_A=1, s_max_per_A=0.05)
    pair = beams.take(np.array([0, int(np.flatnonzero((beams.hkl == (2, 0, 0)).all(axis=1))[0])]))
    t = np.linspace(1, 400, 37)

    intensity = beam_intensities(factors, pair, t, energy_keV=300, strong=2)

    xi = np.pi * gold.volume_cubic_A / (lorentz_factor(300) * lam * abs(pair.F_A[1]))
    effective = np.hypot(pair.s_per_A[1], 1 / xi)
    expected = np.square(np.sin(np.pi * t * effective) / (xi * effective))
    np.testing.assert_allclose(intensity[:, 1], expected, atol=2e-5)
    np.testing.assert_allclose(intensity.sum(axis=1), 1, atol=1e-6)


def test_weak_beams_by_first_order_match_the_full_solution() -> None:
    uio = load_structure("UiO-66")
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(9, -4))
    crystal = CrystalInBeam(uio, r, 40)

    a, b = compare(by_hkl(crystal, strong_beams=220), by_hkl(crystal, strong_beams=450))

    assert np.corrcoef(a, b)[0, 1] > 0.999
    assert np.abs(a - b).sum() < 0.05


def test_bloch_waves_equal_multislice_of_the_same_atoms() -> None:
    """Two independent roads from the same scattering factors to one exit wave."""
    from sim_microscope.scattering.atoms import crystal_slab
    from sim_microscope.scattering.multislice import fresnel_propagator, propagate
    from sim_microscope.scattering.slice_phases import BAND_LIMIT, slice_edges_A, slice_phases

    strontium = load_structure("SrTiO3")
    a = float(strontium.cell_A[0, 0])
    shape, depth = (48, 40), 60 * a
    atoms = crystal_slab(
        strontium,
        np.eye(3),
        low_A=np.array([-a / 2, -a / 2, 0]),
        high_A=np.array([a / 2, a / 2, depth]),
        origin_A=(0.1, 0.2, 0.3),
    )
    edges = slice_edges_A(depth, a / 2)
    sampling = (a / shape[0], a / shape[1])
    phases = slice_phases(
        atoms, edges, shape=shape, sampling_A=sampling, energy_keV=300, smear_thermally=True
    )
    phi = torch.from_numpy(np.array(list(phases)))
    propagator = fresnel_propagator(
        shape,
        k_step_per_A=(1 / a, 1 / a),
        wavelength_A=wavelength_A(300),
        distance_A=float(edges[1]),
        band_limit=BAND_LIMIT,
    )
    wave = propagate(
        torch.ones((1, *shape), dtype=torch.complex64),
        torch.polar(torch.ones_like(phi), phi),
        torch.zeros((1, 2), dtype=torch.int64),
        propagator,
    )[0]
    slices = np.square(np.abs(np.fft.fft2(wave.numpy()) / np.prod(shape)))

    ours = by_hkl(CrystalInBeam(strontium, np.eye(3), depth / 10))

    zolz = {hkl: i for hkl, i in ours.items() if hkl[2] == 0}
    multislice = {hkl: float(slices[hkl[1], hkl[0]]) for hkl in zolz if max(map(abs, hkl)) < 16}
    x, y = compare(zolz, multislice)
    assert np.corrcoef(x, y)[0, 1] > 0.999
    assert np.abs(x - y).sum() < 0.05


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (7.0, 3.0), (90.0, -40.0)])
def test_no_electron_is_lost_or_made(tilt: tuple[float, float]) -> None:
    zif = load_structure("ZIF-8")
    crystal = CrystalInBeam(zif, rotation_for_zone(zif, (1, 1, 1), tilt_mrad=tilt), 75)

    assert sum(by_hkl(crystal, strong_beams=150).values()) == pytest.approx(1, abs=1e-6)


def test_friedel_pairs_are_equal_on_a_centrosymmetric_zone() -> None:
    mfi = load_structure("MFI")
    spots = by_hkl(CrystalInBeam(mfi, rotation_for_zone(mfi, (0, 1, 0)), 15), strong_beams=400)

    for (h, k, l), intensity in spots.items():  # noqa: E741
        if k == 0 and intensity > 1e-3:
            assert spots[(-h, 0, -l)] == pytest.approx(intensity, rel=0.01)


def test_a_faded_crystal_leaves_the_beam_alone() -> None:
    """Without order nothing is diffracted; the more damage, the stronger the direct beam."""
    uio = load_structure("UiO-66")
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(40, 10))
    direct = [
        by_hkl(CrystalInBeam(uio, r, 20, fade=lambda g, d=d: np.exp(-d * g)), strong_beams=80)[
            (0, 0, 0)
        ]
        for d in (0.0, 1.0, 5.0, 500.0)
    ]

    assert (np.diff(direct) > 0).all()
    assert direct[-1] == pytest.approx(1, abs=1e-6)


def test_importance_puts_the_direct_beam_first() -> None:
    uio = replace(load_structure("UiO-66"), name="copy")
    factors = structure_factors(uio, 1.2)
    beams = beams_near_sphere(
        factors, np.eye(3), wavelength_A=wavelength_A(300), g_max_per_A=1, s_max_per_A=0.02
    )

    rank = importance(factors, beams, 300.0, energy_keV=300)

    assert tuple(beams.hkl[np.argmax(rank)]) == (0, 0, 0)
