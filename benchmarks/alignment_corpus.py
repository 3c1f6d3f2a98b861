"""Random cases for measuring the aligner: which crystal, how tilted, how recorded.

Structures run from 4 to 40 A and from cubic to monoclinic; conditions are those of the night:
200 and 300 kV, 30-100 nm, camera constant off by up to 2 %, direct beam up to 10 px from the
middle, halos of several shapes, beam stops, hot and dead pixels, round and disc-shaped spots.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.alignment_patterns import (
    Array,
    Crystal,
    Detector,
    diffraction,
    orientation,
    record,
)

DATA = Path(__file__).parents[1] / "tests" / "controller" / "alignment" / "data"
Zone = tuple[int, int, int]
ZONES: tuple[tuple[str, Zone], ...] = (
    ("UiO-66", (0, 0, 1)),
    ("UiO-66", (1, 1, 1)),
    ("ZIF-8", (0, 0, 1)),
    ("ZIF-8", (1, 1, 1)),
    ("MFI", (0, 1, 0)),
    ("MFI", (1, 0, 0)),
    ("NU-1000", (0, 0, 1)),
    ("SrTiO3", (0, 0, 1)),
    ("SrTiO3", (1, 1, 0)),
    ("Au", (0, 0, 1)),
    ("Au", (1, 1, 0)),
    ("Si", (1, 1, 0)),
    ("TiO2-rutile", (0, 0, 1)),
    ("ZrO2-baddeleyite", (1, 0, 0)),
    ("ZrO2-baddeleyite", (0, 0, 1)),
    ("CsPbBr3", (0, 1, 0)),
    ("CsPbBr3", (1, 0, 1)),
    ("SiO2-quartz", (0, 0, 1)),
    ("sanidine", (0, 0, 1)),
    ("sanidine", (1, 0, 0)),
    ("gypsum", (0, 1, 0)),
)
TILT_CLASSES_DEG = ((0.0, 1.0), (1.0, 3.0), (3.0, 15.0))
ELECTRONS = (3e3, 1e4, 1e5)


@dataclass(frozen=True)
class Case:
    """One crystal in one microscope, before the electrons are counted."""

    structure: str
    zone: Zone
    tilt_mrad: tuple[float, float]
    in_plane_rad: float
    energy_keV: float
    thickness_nm: float
    thickness_spread: float
    absorption: float
    nominal_inv_A_per_px: float
    detector: Detector
    electrons: float
    seed: int

    @property
    def tilt_deg(self) -> float:
        """Misorientation."""
        return float(np.rad2deg(np.hypot(*self.tilt_mrad) * 1e-3))

    @property
    def beam_stop(self) -> bool:
        """Whether the direct beam is hidden."""
        return self.detector.beam_stop_px > 0

    def with_electrons(self, electrons: float) -> "Case":
        """The same case counted longer or shorter."""
        return replace(self, electrons=electrons)


@cache
def crystal(name: str) -> Crystal:
    """The crystal of that name among the test data."""
    return Crystal.from_cif(DATA / f"{name}.cif")


def draw_case(
    rng: np.random.Generator,
    structure: str,
    zone: Zone,
    tilt_deg: tuple[float, float],
    electrons: float,
    *,
    varied: bool = True,
    absorbing: bool = False,
) -> Case:
    """One random case with a tilt between the two limits.

    ``varied`` adds what real patterns have besides noise: other halos and spots, beam stops, bad
    pixels, larger frames.  Without it the detector is as plain as the aligner assumes.
    """
    tilt, azimuth = rng.uniform(*tilt_deg), rng.uniform(0, 2 * np.pi)
    nominal = 0.007 if structure == "NU-1000" else float(rng.uniform(0.010, 0.014))
    side, scale = 256, 1.0
    stop, hot, dead = 0.0, 0, 0
    halo_shape, spot_shape = "lorentzian", "gaussian"
    if varied:
        side = int(rng.choice([256, 512], p=[0.9, 0.1]))
        scale = side / 256
        stop = float(rng.uniform(5, 9)) * scale if rng.random() < 0.2 else 0.0
        hot, dead = (
            (int(rng.integers(1, 6)), int(rng.integers(0, 6))) if rng.random() < 0.3 else (0, 0)
        )
        halo_shape = str(rng.choice(["lorentzian", "gaussian", "exponential", "ring"]))
        spot_shape = str(rng.choice(["gaussian", "disc"], p=[0.75, 0.25]))
    nominal /= scale
    return Case(
        structure, zone,
        (
            float(1e3 * np.deg2rad(tilt) * np.cos(azimuth)),
            float(1e3 * np.deg2rad(tilt) * np.sin(azimuth)),
        ),
        float(rng.uniform(0, 2 * np.pi)), float(rng.choice([200.0, 300.0])),
        float(rng.uniform(30, 100)), float(max(rng.uniform(-0.15, 0.15), 0.0)),
        float(rng.uniform(0.05, 0.1)) if absorbing else 0.0, nominal,
        Detector(
            shape=(side, side),
            inv_A_per_px=nominal * (1 + rng.uniform(-0.02, 0.02)),
            centre_px=(side / 2 + rng.uniform(-10, 10), side / 2 + rng.uniform(-10, 10)),
            spot_sigma_px=float(rng.uniform(0.7, 1.3)),
            halo_fraction=float(rng.uniform(0.1, 0.4)),
            halo_width_inv_A=float(rng.uniform(0.15, 0.4)),
            beam_stop_px=stop,
            halo_shape=halo_shape,  # type: ignore[arg-type]
            spot_shape=spot_shape,  # type: ignore[arg-type]
            stop_azimuth_rad=float(rng.uniform(0, 2 * np.pi)),
            hot_pixels=hot, dead_pixels=dead,
        ),
        electrons, int(rng.integers(2**31)),
    )  # fmt: skip


def corpus(
    patterns: int,
    seed: int,
    *,
    zones: tuple[tuple[str, Zone], ...] = ZONES,
    classes: tuple[tuple[float, float], ...] = TILT_CLASSES_DEG,
    electrons: tuple[float, ...] = ELECTRONS,
    varied: bool = True,
    absorbing: bool = False,
) -> Iterator[Case]:
    """``patterns`` cases per zone, tilt class and electron count."""
    rng = np.random.default_rng(seed)
    for name, zone in zones:
        for limits in classes:
            for count in electrons:
                for _ in range(patterns):
                    yield draw_case(
                        rng, name, zone, limits, count, varied=varied, absorbing=absorbing
                    )


def reflections(case: Case, *, dynamical: bool = True) -> tuple[Array, Array]:
    """Transverse g (n, 2) and intensities (n,) of a case."""
    chosen = crystal(case.structure)
    rotation = orientation(chosen, case.zone, np.array(case.tilt_mrad), case.in_plane_rad)
    return diffraction(
        chosen, rotation, case.energy_keV, case.thickness_nm,
        thickness_spread=case.thickness_spread, dynamical=dynamical, absorption=case.absorption,
    )  # fmt: skip


def pattern_of(case: Case, *, dynamical: bool = True) -> Array:
    """Counts of a case, always the same for the same case."""
    g, intensity = reflections(case, dynamical=dynamical)
    rng = np.random.default_rng(case.seed)
    return record(g, intensity, case.detector, case.electrons, rng)
