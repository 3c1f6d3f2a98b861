"""Several incoherent probes: a source of finite size, or free orthogonal modes.

A source of Gaussian profile and standard deviation s (at the specimen) is the incoherent sum of the
same probe at a few shifts, a cubature of the Gaussian: three or four points are exact to second
and third order, seven (centre and hexagon of radius 2 s) to fifth. Free modes start from the probe
and its first moments, keep to the aperture, and are made orthogonal after every pass.
Source of the mixed state: Thibault & Menzel, Nature 494 (2013) 68; of the cubature: Stroud,
Approximate Calculation of Multiple Integrals (1971).
"""

import math

import torch
from torch import Tensor

from recon.errors import ReconError
from recon.ptychography.experiment import Experiment

CUBATURES: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((1.0, 0.0, 0.0),),
    3: tuple(
        (1 / 3, math.sqrt(2) * math.cos(a), math.sqrt(2) * math.sin(a))
        for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    ),
    4: tuple((0.25, row, col) for row in (-1.0, 1.0) for col in (-1.0, 1.0)),
    7: (
        (0.5, 0.0, 0.0),
        *((1 / 12, 2 * math.cos(k * math.pi / 3), 2 * math.sin(k * math.pi / 3)) for k in range(6)),
    ),
}
"""Weight and place (row, col) in units of s, by the number of points."""

FIRST_POWER = 0.05
"""Part of the electrons that each higher free mode begins with."""
ELECTRONS_PER_UNKNOWN = 1e4
"""A free probe is carried where every one of its numbers has as many electrons: its phases are
then known to 0.005 rad if the object were known, a fair margin for an object that is not."""


class ProbeModeError(ReconError):
    """A number of probe modes that the source model does not have; nothing was computed."""


def source_modes(experiment: Experiment, modes: int, source_size_A: float) -> Tensor:
    """Spectra of the probe at the points of the source, complex128, (mode, n, n), one electron.

    Raises
    ------
    ProbeModeError
        No cubature with so many points.
    """
    if modes not in CUBATURES:
        raise ProbeModeError(
            f"probe_modes is {modes}; a source of finite size is made of "
            f"{', '.join(str(n) for n in CUBATURES if n > 1)} modes"
        )
    spectrum = experiment.probe_spectrum()
    ky, kx = experiment.grid.frequencies()
    return torch.stack(
        [
            weight**0.5 * spectrum * torch.exp(-2j * torch.pi * source_size_A * (ky * y + kx * x))
            for weight, y, x in CUBATURES[modes]
        ]
    )


def free_modes(experiment: Experiment, modes: int) -> Tensor:
    """Orthogonal start for free modes, complex128, (mode, n, n), one electron in all."""
    spectrum = experiment.probe_spectrum()
    ky, kx = experiment.grid.frequencies()
    scale = experiment.k_edge_A
    polynomials = [
        (ky / scale) ** (order - i) * (kx / scale) ** i
        for order in range(modes)
        for i in range(order + 1)
    ][:modes]
    basis = torch.stack([spectrum * p for p in polynomials]).view(modes, -1)
    q, _ = torch.linalg.qr(basis.T)
    power = torch.full((modes,), FIRST_POWER, dtype=torch.float64)
    power[0] = 1 - FIRST_POWER * (modes - 1)
    started = q.T * power.sqrt()[:, None]
    turn = (started[0].conj() * basis[0]).sum()
    started[0] *= turn / turn.abs()  # QR leaves the sign open
    return started.view(modes, *spectrum.shape)


def support(experiment: Experiment) -> Tensor:
    """Where the aperture lets a free probe be, bool, (n, n), reciprocal space."""
    ky, kx = experiment.grid.frequencies()
    row, col = experiment.beam_offset_A
    pixel = 1 / (experiment.grid.n * experiment.grid.sampling_A)
    return torch.hypot(ky - row, kx - col) < experiment.k_edge_A + 1.5 * pixel


def orthogonal(spectra: Tensor) -> Tensor:
    """The same incoherent sum in orthogonal modes, strongest first, complex (mode, n, n)."""
    flat = spectra.reshape(len(spectra), -1)
    _, vectors = torch.linalg.eigh(flat.conj() @ flat.T)
    turned = vectors.flip(1).T @ flat
    phase = (turned * flat[:1].conj()).sum(dim=1)
    phase = torch.where(phase.abs() > 0, phase / phase.abs().clamp(min=1e-30), 1)
    return (turned * phase.conj()[:, None]).view(spectra.shape)


def unknowns_of(experiment: Experiment, modes: int) -> int:
    """Real numbers in free modes."""
    return 2 * modes * int(support(experiment).sum())


def carries_free_probe(experiment: Experiment, modes: int, electrons: int) -> str:
    """Empty if the dose carries a free probe, else the reason why not."""
    needed = ELECTRONS_PER_UNKNOWN * unknowns_of(experiment, modes)
    if electrons >= needed:
        return ""
    return (
        f"a free probe of {modes} mode(s) has {unknowns_of(experiment, modes)} unknowns and needs "
        f"{needed:.1e} electrons, the scan holds {electrons:.1e}: the probe stays parametric"
    )
