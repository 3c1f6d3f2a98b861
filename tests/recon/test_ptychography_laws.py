"""The forward model obeys the physics, and its adjoint is its adjoint."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fft import fft2, ifft2

from recon.ptychography.likelihood import poisson_factor, poisson_loss
from recon.ptychography.multislice import backward, forward
from recon.ptychography.optics import (
    Grid,
    ProbeOptics,
    aberration_phase,
    probe_spectrum,
    propagator,
    shifted_probes,
)

GRID = Grid(n=32, sampling_A=0.4, wavelength_A=0.0197)
OPTICS = ProbeOptics(k_edge_A=0.5, C10_A=-150.0, C12a_A=20.0, C12b_A=-10.0)


def specimen(generator: torch.Generator, slices: int = 3, batch: int = 2) -> torch.Tensor:
    shape = (slices, batch, GRID.n, GRID.n)
    return 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


def probes(batch: int = 2, modes: int = 2) -> torch.Tensor:
    table = shifted_probes(probe_spectrum(GRID, OPTICS), GRID, 3)
    return table[: batch * modes].view(batch, modes, GRID.n, GRID.n).to(torch.complex128) * 10


def test_no_electron_is_lost_on_the_way() -> None:
    generator = torch.Generator().manual_seed(1)
    psi = probes()
    t = torch.polar(torch.ones(3, 2, 32, 32, dtype=torch.float64), specimen(generator))
    H = propagator(GRID, 50.0, (3.0, -2.0))
    intensity = forward(psi, t, H).intensity()
    expected = psi.abs().square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(intensity.sum(dim=(1, 2)), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_the_hand_written_gradient_is_the_finite_difference(tied: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    phase = specimen(generator)
    phase = phase[:1].expand(3, -1, -1, -1) if tied else phase
    psi, H = probes(), propagator(GRID, 60.0, (2.0, 1.0)).to(torch.complex128)
    counts = torch.poisson(torch.full((2, 32, 32), 0.3, dtype=torch.float64), generator=generator)
    floor, measured = 0.01, torch.ones(32, 32, dtype=torch.float64)

    def loss(v: torch.Tensor, entrance: torch.Tensor) -> torch.Tensor:
        waves = forward(entrance, torch.polar(torch.ones_like(v), v), H)
        return poisson_loss(waves.intensity(), counts, floor)

    t = torch.polar(torch.ones_like(phase), phase)
    waves = forward(psi, t, H)
    factor = poisson_factor(waves.intensity(), counts, measured, floor)
    missing = -2 * waves.detector.conj() * factor[:, None]
    gradient, lacking = backward(waves, t, H, missing, tied=tied)

    direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    eps = 1e-5
    change = loss(phase + eps * direction, psi) - loss(phase - eps * direction, psi)
    torch.testing.assert_close(
        (gradient.double() * direction).sum(), change / (2 * eps), rtol=1e-4, atol=1e-4
    )
    turn = torch.randn(psi.shape, generator=generator, dtype=torch.complex128)
    change = loss(phase, psi + eps * turn) - loss(phase, psi - eps * turn)
    slope = -(lacking * turn).real.sum()
    torch.testing.assert_close(slope, change / (2 * eps), rtol=1e-6, atol=1e-6)


@settings(max_examples=20)
@given(defocus_A=st.floats(-300, 300))
def test_underfocus_is_positive_and_focuses_downstream(defocus_A: float) -> None:
    """A probe underfocused by d comes to focus d below the entrance surface."""
    underfocused = probe_spectrum(GRID, ProbeOptics(k_edge_A=0.5, C10_A=-defocus_A))
    in_focus = probe_spectrum(GRID, ProbeOptics(k_edge_A=0.5, C10_A=0.0))
    refocused = propagator(GRID, defocus_A, (0.0, 0.0)) * underfocused
    torch.testing.assert_close(refocused, in_focus, rtol=0, atol=1e-5)


@settings(max_examples=20)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_a_tilted_beam_walks_by_tilt_times_depth(row_mrad: float, col_mrad: float) -> None:
    depth_A = 120.0
    psi = shifted_probes(probe_spectrum(GRID, OPTICS), GRID, 1)[0].to(torch.complex128)
    straight = ifft2(propagator(GRID, depth_A, (0.0, 0.0)) * fft2(psi))
    walked = ifft2(propagator(GRID, depth_A, (row_mrad, col_mrad)) * fft2(psi))
    ky, kx = GRID.frequencies()
    shift = 1e-3 * depth_A * torch.tensor([row_mrad, col_mrad], dtype=torch.float64)
    moved = ifft2(fft2(straight) * torch.exp(-2j * torch.pi * (ky * shift[0] + kx * shift[1])))
    torch.testing.assert_close(walked, moved, rtol=0, atol=1e-5)


def test_shifted_probes_are_the_same_probe_elsewhere() -> None:
    steps = 4
    table = shifted_probes(probe_spectrum(GRID, OPTICS), GRID, steps)
    torch.testing.assert_close(
        table.abs().square().sum(dim=(1, 2)), torch.ones(steps**2), rtol=1e-5, atol=0
    )
    rows = torch.arange(32.0)
    for index in (0, 1, 4, 11):
        density = table[index].abs().square()
        centre = (density.sum(dim=1) @ rows, density.sum(dim=0) @ rows)
        expected = (16 + index // steps / steps, 16 + index % steps / steps)
        np.testing.assert_allclose(centre, expected, atol=0.05)


def test_astigmatism_is_measured_from_column_towards_row() -> None:
    """C12a > 0 adds to chi along x (col); rays at +-x then start where C10 + C12a says."""
    only = ProbeOptics(k_edge_A=0.5, C10_A=0.0, C12a_A=100.0)
    chi = aberration_phase(GRID, only)
    assert chi[0, 5] > 0 > chi[5, 0]
    torch.testing.assert_close(chi[0, 5], -chi[5, 0])


def test_the_floor_bounds_the_pull_of_a_lone_electron() -> None:
    dark, one = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    factor = poisson_factor(dark, one, torch.ones(4, 4), floor=0.01)
    assert factor.min() == pytest.approx(1 - 1 / 0.01)
    assert poisson_factor(one, one, torch.ones(4, 4), floor=0.0).abs().max() == 0
