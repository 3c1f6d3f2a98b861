"""4D-STEM: signs as experiments, sums, pieces of a scan, and abTEM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim_microscope.scattering import (
    CrystalInBeam,
    ProbeOptics,
    Scan4DSimulator,
    ScanAccuracy,
    ScanDetector,
    ScanSpecimen,
    bragg_spots,
    raster_positions_A,
    simulate_scan,
    wavelength_A,
)
from sim_microscope.scattering.atoms import Atoms
from sim_microscope.scattering.multislice import fresnel_propagator, place_probes, propagate
from sim_microscope.scattering.probe import probe_spectrum
from sim_microscope.scattering.slice_phases import BAND_LIMIT, slice_phases
from sim_microscope.structures import load_structure, rotation_for_zone

torch.set_num_threads(1)

OPTICS = ProbeOptics(energy_keV=300, convergence_semiangle_mrad=10, defocus_nm=15)
DETECTOR = ScanDetector((48, 45), 1.1)


def uio_specimen(**changes: object) -> ScanSpecimen:
    uio = load_structure("UiO-66")
    specimen = ScanSpecimen(uio, rotation_for_zone(uio, (1, 1, 0), tilt_mrad=(4, -3)), 6.0)
    return replace(specimen, **changes)


def one_atom(atomic_number: int, x_A: float, y_A: float) -> Atoms:
    who = np.zeros(1, dtype=np.uint64)
    return Atoms(
        np.array([[x_A, y_A, 0.0]]),
        np.array([atomic_number]),
        np.ones(1),
        np.full(1, 0.005),
        who,
        who,
    )


@settings(max_examples=15)
@given(defocus_nm=st.floats(-20, 20))
def test_underfocus_is_positive_and_focuses_downstream(defocus_nm: float) -> None:
    """A probe underfocused by d comes to focus d below the entrance surface."""
    shape, step = (64, 90), (1 / 20, 1 / 28)
    optics = replace(OPTICS, defocus_nm=defocus_nm)
    downstream = fresnel_propagator(
        shape,
        k_step_per_A=step,
        wavelength_A=wavelength_A(300),
        distance_A=10 * defocus_nm,
        band_limit=1.0,
    ).numpy()

    refocused = downstream * probe_spectrum(optics, shape, step)

    in_focus = probe_spectrum(replace(OPTICS, defocus_nm=0), shape, step)
    np.testing.assert_allclose(refocused, in_focus, atol=1e-5)


@pytest.mark.parametrize("defocus_nm", [25.0, -25.0])
def test_shadow_of_an_atom_is_upright_beyond_the_crossover_only(defocus_nm: float) -> None:
    """Rays at angle theta cross the specimen at -theta * defocus, in row and col alike."""
    shape, step = (96, 96), (1 / 30, 1 / 30)
    atom = (1.3, -0.7)  # x, y in Å
    phases = slice_phases(
        one_atom(79, *atom),
        np.array([0.0, 1.0]),
        shape=shape,
        sampling_A=(30 / 96, 30 / 96),
        energy_keV=300,
        smear_thermally=True,
    )
    phi = torch.from_numpy(np.array(list(phases)))
    optics = replace(OPTICS, defocus_nm=defocus_nm)
    spectrum = torch.from_numpy(probe_spectrum(optics, shape, step).astype(np.complex64))
    probe = place_probes(spectrum, torch.zeros((1, 2)))

    wave = propagate(
        probe,
        torch.polar(torch.ones_like(phi), phi),
        torch.zeros((1, 2), dtype=torch.int64),
        spectrum,
    )

    change = np.square(np.abs(np.fft.fftshift(np.fft.fft2(wave[0].numpy(), norm="ortho"))))
    change -= np.square(np.abs(np.fft.fftshift(spectrum.numpy())))
    mrad = (np.arange(96) - 48) * step[0] * wavelength_A(300) * 1e3
    inside = np.hypot(mrad[:, None], mrad[None, :]) < 9.5
    weight = np.square(change) * inside
    seen = np.array([(weight * mrad[None, :]).sum(), (weight * mrad[:, None]).sum()]) / weight.sum()
    expected = -np.array(atom) / (10 * defocus_nm) * 1e3
    # fringes fill the disc, so the centroid tells the direction, not the distance
    assert seen @ expected > 0.98 * np.hypot(*seen) * np.hypot(*expected)
    assert np.hypot(*seen) > 0.5


def test_scan_positions_follow_the_rotation_convention() -> None:
    """position = Rot step (sy - c, sx - c) on (row, col): +col turns towards -row."""
    positions = raster_positions_A((3, 5), 2.0, rotation_deg=90)

    np.testing.assert_allclose(positions.reshape(3, 5, 2)[1, 2], [0, 0], atol=1e-12)
    np.testing.assert_allclose(positions.reshape(3, 5, 2)[1, 4], [-4, 0], atol=1e-12)
    np.testing.assert_allclose(positions.reshape(3, 5, 2)[2, 2], [0, 2], atol=1e-12)


@pytest.mark.parametrize("sampling", [1.1, 1.9])
def test_vacuum_shows_a_centred_disc_with_every_electron(sampling: float) -> None:
    """Zero angle at pixel N // 2 of each axis, also when windows are wider than 1 / pixel."""
    empty = uio_specimen(faces=np.array([[0.0, 0.0, 1.0, -1.0]]))
    detector = ScanDetector((33, 48), sampling)
    simulator = Scan4DSimulator(empty, OPTICS, detector, seed=1)

    (pattern,) = next(simulator.patterns(np.array([[0.3, -0.7]])))

    assert pattern.sum() == pytest.approx(1, abs=1e-4)
    rows, cols = np.indices(pattern.shape)
    assert (pattern * rows).sum() / pattern.sum() == pytest.approx(33 // 2, abs=1e-2)
    assert (pattern * cols).sum() / pattern.sum() == pytest.approx(48 // 2, abs=1e-2)
    radius = np.sqrt((pattern > pattern.max() / 2).sum() / np.pi) * sampling
    assert radius == pytest.approx(10, rel=0.05)


def test_intensity_is_at_most_one_and_the_rest_went_to_high_angles() -> None:
    patterns = simulate_scan(
        uio_specimen(), OPTICS, DETECTOR, raster_positions_A((3, 2), 2.1), seed=3
    )

    assert patterns.shape == (6, 48, 45)
    assert (patterns >= 0).all()
    assert (patterns.sum(axis=(1, 2)) < 1.0001).all()
    assert (patterns.sum(axis=(1, 2)) > 0.9).all()


def test_a_scan_done_in_pieces_is_the_same_scan() -> None:
    """Atoms keep their displacements, defects and damage wherever they appear."""
    specimen = uio_specimen(disorder_A=0.05, missing_cells=0.1, lost_fraction=0.05, carbon_nm=2.0)
    optics = replace(OPTICS, source_fwhm_A=0.8)
    simulator = Scan4DSimulator(specimen, optics, DETECTOR, seed=5)
    positions = raster_positions_A((3, 4), 6.3, rotation_deg=12)

    whole = np.concatenate(list(simulator.patterns(positions)))
    pieces = np.concatenate([next(simulator.patterns(positions[i : i + 3])) for i in (0, 3, 6, 9)])

    np.testing.assert_allclose(pieces, whole, atol=2e-6)
    other = np.concatenate(
        list(Scan4DSimulator(specimen, optics, DETECTOR, seed=6).patterns(positions))
    )
    assert np.abs(other - whole).max() > 1e-4


def test_little_memory_changes_nothing_but_the_time() -> None:
    positions = raster_positions_A((3, 5), 4.0)
    results = [
        simulate_scan(
            uio_specimen(),
            OPTICS,
            DETECTOR,
            positions,
            seed=5,
            accuracy=ScanAccuracy(batch=2, memory_MB=memory),
        )
        for memory in (400.0, 0.5)
    ]

    np.testing.assert_allclose(results[1], results[0], atol=2e-6)


def test_tilt_has_the_same_sense_as_in_parallel_diffraction() -> None:
    """A nearly parallel probe on the tilted slab shows the intensities of the Bloch waves."""
    strontium = load_structure("SrTiO3")
    r = rotation_for_zone(strontium, (0, 0, 1), tilt_mrad=(14, -5))
    optics = ProbeOptics(energy_keV=300, convergence_semiangle_mrad=1.2)
    detector = ScanDetector((128, 128), 0.4)
    specimen = ScanSpecimen(strontium, r, 12.0, frozen=False)
    accuracy = ScanAccuracy(slice_thickness_A=2.0)
    (pattern,) = simulate_scan(
        specimen, optics, detector, np.zeros((1, 2)), seed=1, accuracy=accuracy
    )

    spots = bragg_spots(CrystalInBeam(strontium, r, 12.0), energy_keV=300)

    col, row = np.rint(spots.angle_mrad / 0.4).astype(int).T + 64
    on = (np.abs(col - 64) < 58) & (np.abs(row - 64) < 58)
    discs = [
        pattern[y - 3 : y + 4, x - 3 : x + 4].sum() for x, y in zip(col[on], row[on], strict=True)
    ]
    x, y = np.array(discs)[1:], spots.intensity[on][1:]
    assert np.corrcoef(x, y)[0, 1] > 0.98


def test_damage_takes_the_order_out_of_the_pattern() -> None:
    """Beyond the disc, lattice interference becomes smooth halo as displacements grow."""
    positions = raster_positions_A((2, 2), 5.0)
    roughness = []
    for disorder in (0.0, 0.1, 0.5):
        specimen = uio_specimen(thickness_nm=10.0, disorder_A=disorder, frozen=False)
        pattern = simulate_scan(specimen, OPTICS, DETECTOR, positions, seed=2).mean(axis=0)
        inside = pattern[14:34, 12:32]
        roughness.append(float(inside.std() / inside.mean()))

    assert roughness[2] < roughness[0]


def test_true_phase_is_positive_at_atoms_and_knows_where_the_centre_is() -> None:
    """One Zr6 node at the origin of the lattice lies at position (0, 0) of the map."""
    uio = load_structure("UiO-66")
    specimen = ScanSpecimen(uio, rotation_for_zone(uio, (0, 0, 1)), 2.07)
    simulator = Scan4DSimulator(specimen, OPTICS, DETECTOR, seed=1)

    phase = simulator.projected_phase(raster_positions_A((4, 5), 3.0) + np.array([7.0, -4.0]))

    row, col = phase.centre_px
    near = phase.phase_rad[row - 15 : row + 16, col - 15 : col + 16]
    assert near.max() > 0.8 * phase.phase_rad.max()
    assert phase.phase_rad.min() > -0.05 * phase.phase_rad.max()


def test_exit_wave_and_cbed_agree_with_abtem() -> None:
    """The same atoms, the same slices: plane wave and focused probe, up to 40 mrad."""
    import abtem
    import ase

    abtem.config.set({"diagnostics.progress_bar": False, "local_diagnostics.progress_bar": False})
    uio = load_structure("UiO-66")
    atoms = ase.Atoms(uio.atomic_number, positions=uio.positions_A, cell=uio.cell_A, pbc=True)
    atoms = atoms * (1, 1, 2)
    a, depth, shape = 20.7004, 41.4008, (216, 216)
    potential = abtem.Potential(
        atoms, gpts=shape, slice_thickness=2.0701, parametrization="lobato", projection="infinite"
    )
    n = len(potential)
    ours = Atoms(
        (atoms.positions - [a / 2, a / 2, 0])[:, [1, 0, 2]],
        atoms.numbers.astype(np.int64),
        np.ones(len(atoms)),
        np.zeros(len(atoms)),
        np.zeros(len(atoms), dtype=np.uint64),
        np.zeros(len(atoms), dtype=np.uint64),
    )
    phases = slice_phases(
        ours,
        np.linspace(0, depth, n + 1),
        shape=shape,
        sampling_A=(a / 216, a / 216),
        energy_keV=300,
        smear_thermally=False,
    )
    phi = torch.from_numpy(np.array(list(phases)))
    gratings = torch.polar(torch.ones_like(phi), phi)
    propagator = fresnel_propagator(
        shape,
        k_step_per_A=(1 / a, 1 / a),
        wavelength_A=wavelength_A(300),
        distance_A=depth / n,
        band_limit=BAND_LIMIT,
    )

    def low(wave: NDArray) -> NDArray:
        f = np.fft.fftfreq(216)
        spectrum = np.fft.fft2(wave)
        return (spectrum / np.linalg.norm(spectrum))[np.hypot(f[:, None], f[None, :]) < 0.28]

    corner = torch.zeros((1, 2), dtype=torch.int64)
    plane = propagate(torch.ones((1, *shape), dtype=torch.complex64), gratings, corner, propagator)
    theirs = abtem.PlaneWave(energy=300e3, gpts=shape).multislice(potential).compute().array
    x, y = low(plane[0].numpy()), low(np.asarray(theirs))
    assert np.corrcoef(np.abs(x) ** 2, np.abs(y) ** 2)[0, 1] > 0.9999
    assert np.abs(np.vdot(x, y)) / np.linalg.norm(x) / np.linalg.norm(y) > 0.998

    optics = replace(OPTICS, convergence_semiangle_mrad=15, defocus_nm=10)
    spectrum = probe_spectrum(optics, shape, (1 / a, 1 / a)).astype(np.complex64)
    offset = torch.tensor([[1.3 / a * 216, 0.7 / a * 216]])
    probe = place_probes(torch.from_numpy(spectrum), offset)
    cbed = propagate(probe, gratings, corner, propagator)
    wave = abtem.Probe(energy=300e3, semiangle_cutoff=15, defocus=100, gpts=shape, extent=(a, a))
    at = abtem.CustomScan([[a / 2 + 1.3, a / 2 + 0.7]])
    theirs = wave.multislice(potential, scan=at).compute().array.reshape(shape)
    x, y = np.abs(low(cbed[0].numpy())) ** 2, np.abs(low(np.asarray(theirs))) ** 2
    assert np.corrcoef(x, y)[0, 1] > 0.99


def test_the_working_grid_is_fine_enough() -> None:
    """Half the pixel and a quarter of the slice change a pattern by a few per cent only."""
    positions = np.array([[0.0, 0.0], [3.3, 1.7]])
    specimen = uio_specimen(thickness_nm=20.0, frozen=False)
    usual = simulate_scan(specimen, OPTICS, ScanDetector((48, 48), 1.1), positions, seed=1)
    accuracy = ScanAccuracy(slice_thickness_A=2.5)
    fine = simulate_scan(
        specimen, OPTICS, ScanDetector((96, 96), 1.1), positions, seed=1, accuracy=accuracy
    )[:, 24:72, 24:72]

    assert np.corrcoef(usual.ravel(), fine.ravel())[0, 1] > 0.995
    assert np.abs(usual - fine).sum() / fine.sum() < 0.08


def test_source_points_average_to_a_wider_probe() -> None:
    """Several configurations are the mean of independent ones and keep the sum."""
    specimen = uio_specimen(thickness_nm=3.0)
    optics = replace(OPTICS, source_fwhm_A=1.0, focal_spread_nm=3.0)
    positions = raster_positions_A((2, 3), 1.5)
    accuracy = ScanAccuracy(configurations=3, batch=4)

    patterns = simulate_scan(specimen, optics, DETECTOR, positions, seed=1, accuracy=accuracy)

    assert patterns.shape == (6, 48, 45)
    assert patterns.dtype == np.float32
    np.testing.assert_allclose(patterns.sum(axis=(1, 2)), 0.99, atol=0.02)


def test_nonsense_is_refused_with_the_shape_wanted() -> None:
    simulator = Scan4DSimulator(uio_specimen(), OPTICS, DETECTOR, seed=1)
    with pytest.raises(ValueError, match=r"shape \(n, 2\).*nothing was simulated"):
        next(simulator.patterns(np.zeros((4, 3))))
    with pytest.raises(ValueError, match="thickness of 0 nm is outside 0 to 300 nm"):
        uio_specimen(thickness_nm=0.0)
