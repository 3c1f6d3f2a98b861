"""What electrons do in the specimen: diffraction, 4D-STEM and image intensities.

Everything here returns *expected* intensity per incident electron; Poisson statistics belong to the
detector and come once.  Own physics: nothing is shared with ``recon`` or ``controller``.

Conventions: x = +col, y = +row, z = electron travel; R is active, v_column = R @ v_crystal;
thickness in nm, angles in mrad unless named; defocus positive = underfocus.

Diffraction (any tilt, about 0.05 s)::

    uio = load_structure("UiO-66")
    R = rotation_for_zone(uio, (0, 0, 1), in_plane_deg=12, tilt_mrad=(9.0, -4.0))
    crystal = CrystalInBeam(uio, R, thickness_nm=80, fade=DamageModel.of(uio).fade(5.0))
    camera = DiffractionCamera(shape=(512, 512), sampling_mrad=0.06, centre_px=(255.5, 255.5))
    pattern = diffraction_pattern(crystal, camera, energy_keV=300)  # float32 (512, 512)

4D-STEM (32 x 32 positions of 64 x 64 pixels, 20 nm: a few seconds)::

    specimen = ScanSpecimen(uio, R, thickness_nm=20, disorder_A=DamageModel.of(uio).disorder_A(5.0))
    optics = ProbeOptics(energy_keV=300, convergence_semiangle_mrad=10, defocus_nm=20)
    positions = raster_positions_A((32, 32), step_A=1.05, rotation_deg=5)  # (1024, 2) row, col
    simulator = Scan4DSimulator(specimen, optics, ScanDetector((64, 64), 1.0), seed=1)
    for batch in simulator.patterns(positions): ...  # float32 (n, 64, 64)
    truth = simulator.projected_phase(positions)  # PhaseMap: phase_rad, sampling_A, centre_px

Images::

    bright_field(uio, R, thickness_map_nm, energy_keV=300, carbon_nm=carbon_map_nm)
    dark_field(uio, thickness_map_nm, energy_keV=300, inner_semiangle_mrad=60)
    carbon_grain(shape, pixel_size_nm=0.5, carbon_nm=12, energy_keV=300, defocus_nm=1500, rng=rng)
    mean_free_path_nm(uio, 300), carbon_mean_free_path_nm(300)

Importing this package does not import PyTorch; the first call of ``patterns`` does.
"""

from sim_microscope.scattering.diffraction import (
    CrystalInBeam,
    DiffractionCamera,
    Spots,
    bragg_spots,
    diffraction_pattern,
)
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.images import (
    Bend,
    bright_field,
    carbon_grain,
    dark_field,
    direct_beam_fraction,
)
from sim_microscope.scattering.mean_free_path import (
    carbon_mean_free_path_nm,
    inelastic_mean_free_path_nm,
    mean_free_path_nm,
)
from sim_microscope.scattering.probe import ProbeOptics
from sim_microscope.scattering.scan4d import (
    PhaseMap,
    Scan4DSimulator,
    ScanAccuracy,
    ScanDetector,
    raster_positions_A,
    simulate_scan,
)
from sim_microscope.scattering.specimen import ScanSpecimen

__all__ = [
    "Bend",
    "CrystalInBeam",
    "DiffractionCamera",
    "PhaseMap",
    "ProbeOptics",
    "Scan4DSimulator",
    "ScanAccuracy",
    "ScanDetector",
    "ScanSpecimen",
    "Spots",
    "bragg_spots",
    "bright_field",
    "carbon_grain",
    "carbon_mean_free_path_nm",
    "dark_field",
    "diffraction_pattern",
    "direct_beam_fraction",
    "inelastic_mean_free_path_nm",
    "mean_free_path_nm",
    "raster_positions_A",
    "simulate_scan",
    "wavelength_A",
]
