"""How the field does it: a Laue circle through peaks, and a search among kinematical templates.

Both are given what the aligner is given.  The circle takes the peaks of the same spot finder,
weighted by their counts.  The templates are relrod intensities to the power of one quarter on a
polar grid, correlated over in-plane rotation (automated crystal orientation mapping as published),
on a grid of one degree within 16 deg of the zone, then refined around the best to 0.1 deg.
"""

from functools import lru_cache

import numpy as np

from benchmarks.alignment_corpus import Case, crystal
from benchmarks.alignment_patterns import Array, electron_wavelength_A, orientation
from controller.perception.alignment.laue_circle import weighted_laue_circle
from controller.perception.alignment.pattern import PatternError, check_pattern
from controller.perception.alignment.spots import Spots, find_spots

_RADII = 48
_ANGLES = 360
_G_MAX = 1.3
_RELROD_INV_A = 0.012
_POWER = 0.25


def baseline_errors_deg(case: Case, counts: Array) -> tuple[float, float]:
    """Errors of the circle and of the template search in degrees; NaN where they find nothing."""
    try:
        pattern = check_pattern(counts, beam_stop=case.beam_stop)
    except PatternError:
        return float("nan"), float("nan")
    spots = find_spots(pattern, beam_stop=case.beam_stop)
    if len(spots) < 4:
        return float("nan"), float("nan")
    return _off(case, circle_tilt(case, spots)), _off(case, template_tilt(case, spots))


def circle_tilt(case: Case, spots: Spots) -> tuple[float, float]:
    """Weighted Laue circle through the direct beam, in mrad."""
    g, weight = _peaks(case, spots)
    wavenumber = 1 / electron_wavelength_A(case.energy_keV)
    return weighted_laue_circle(g[:, 0], g[:, 1], weight, wavenumber)


def template_tilt(case: Case, spots: Spots) -> tuple[float, float]:
    """Best template of the coarse grid, refined, in mrad."""
    g, weight = _peaks(case, spots)
    seen = _polar(g, weight**_POWER)
    spectrum = np.fft.rfft(seen, axis=1)
    best = (-np.inf, (0.0, 0.0), 0.0)
    for tilt, template in _templates(case.structure, case.zone, case.energy_keV):
        match = np.fft.irfft((spectrum * template.conj()).sum(0), n=_ANGLES)
        k = int(np.argmax(match))
        if match[k] > best[0]:
            best = (float(match[k]), tilt, 2 * np.pi * k / _ANGLES)
    # templates are made at in-plane angle zero: turning the pattern turns the tilt
    tilt, phi = np.array(best[1]), best[2]
    c, s = np.cos(phi), np.sin(phi)
    tilt = np.array([[c, -s], [s, c]]) @ tilt
    score = -np.inf
    for step in (0.3, 0.1):
        around = tilt
        for dx in np.arange(-2, 3) * step:
            for dy in np.arange(-2, 3) * step:
                trial = around + 1e3 * np.deg2rad([dx, dy])
                model = np.fft.rfft(_template(case, trial, phi), axis=1)
                match = np.fft.irfft((spectrum * model.conj()).sum(0), n=_ANGLES)[[-1, 0, 1]].max()
                if match > score:
                    score, tilt = float(match), trial
    return float(tilt[0]), float(tilt[1])


def _peaks(case: Case, spots: Spots) -> tuple[Array, Array]:
    """Reciprocal vectors of every peak but the direct beam (n, 2), counts (n,)."""
    places = np.stack([spots.x_px, spots.y_px], 1)
    g = (places - np.array(spots.centre_px)) * case.nominal_inv_A_per_px
    keep = np.hypot(g[:, 0], g[:, 1]) > 3 * case.nominal_inv_A_per_px
    return g[keep], np.maximum(spots.counts[keep], 1e-3)


def _polar(g: Array, weight: Array) -> Array:
    """Weights on a polar grid, one bin wide, zero mean and unit norm."""
    radius = np.hypot(g[:, 0], g[:, 1]) / _G_MAX * _RADII
    angle = np.arctan2(g[:, 1], g[:, 0]) / (2 * np.pi) * _ANGLES
    image = np.zeros((_RADII, _ANGLES))
    for dr in (-1, 0, 1):
        for da in (-2, -1, 0, 1, 2):
            row = np.round(radius + dr).astype(int)
            inside = (row >= 0) & (row < _RADII)
            column = np.round(angle + da).astype(int) % _ANGLES
            fall = np.exp(-0.5 * (dr**2 + (da / 1.5) ** 2))
            np.add.at(image, (row[inside], column[inside]), fall * weight[inside])
    return np.asarray(image / max(float(np.linalg.norm(image)), 1e-12))


@lru_cache(maxsize=64)
def _templates(
    structure: str, zone: tuple[int, int, int], energy_keV: float
) -> list[tuple[tuple[float, float], Array]]:
    """Tilts within 16 deg, one degree apart, with the spectra of their templates."""
    axis = np.arange(-16, 17)
    found = []
    for x in axis:
        for y in axis:
            if np.hypot(x, y) <= 16:
                tilt = 1e3 * np.deg2rad(np.array([x, y], float))
                polar = _polar_of(structure, zone, energy_keV, tilt, 0.0)
                spectrum = np.fft.rfft(polar, axis=1)
                found.append(((float(tilt[0]), float(tilt[1])), spectrum.astype(np.complex64)))
    return found


def _template(case: Case, tilt_mrad: Array, phi: float) -> Array:
    return _polar_of(case.structure, case.zone, case.energy_keV, tilt_mrad, phi)


@lru_cache(maxsize=64)
def _table(structure: str) -> tuple[Array, Array]:
    """Reciprocal vectors in the crystal's frame (n, 3) and |F|^(2 power) (n,)."""
    chosen = crystal(structure)
    limit = np.ceil(_G_MAX * np.linalg.norm(chosen.cell, axis=1)).astype(int)
    axes = [np.arange(-m, m + 1) for m in limit]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    g = hkl @ chosen.reciprocal
    keep = ((g**2).sum(1) < _G_MAX**2) & hkl.any(axis=1)
    strength = np.abs(chosen.structure_factors(hkl[keep]))
    strong = strength > 0.02 * strength.max()
    return g[keep][strong], strength[strong] ** (2 * _POWER)


def _polar_of(
    structure: str, zone: tuple[int, int, int], energy_keV: float, tilt_mrad: Array, phi: float
) -> Array:
    g, strength = _table(structure)
    there = g @ orientation(crystal(structure), zone, tilt_mrad, phi).T
    wavelength = electron_wavelength_A(energy_keV)
    s = -(there[:, 2] + (there**2).sum(1) * wavelength / 2)
    near = np.abs(s) < 3 * _RELROD_INV_A
    weight = strength[near] * np.exp(-0.5 * (s[near] / _RELROD_INV_A) ** 2)
    return _polar(there[near, :2], weight)


def _off(case: Case, tilt: tuple[float, float]) -> float:
    off = np.hypot(tilt[0] - case.tilt_mrad[0], tilt[1] - case.tilt_mrad[1])
    return float(np.rad2deg(1e-3 * off))
