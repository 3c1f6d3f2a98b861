"""From the network's fields to candidate discs, one per instance, with the features of each.

Connected areas of probable crystal or dirt are cut into instances where their depth (distance to
the border) falls by more than half between two peaks (h-maxima of the log depth, then a
watershed).  In each instance the centre is where a disc of 50 nm is most likely right, and deep;
the radius is three quarters of the depth there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.classes import LEAST_RADIUS_NM, NEIGHBOUR_GAP_NM, RegionClass
from models.inference import Fields
from models.inputs import Acquisition
from models.lumps import SHAPE_FEATURES, Lumps, find_lumps

Floats = NDArray[np.float32]
MOST_CANDIDATES = 60
PROMISING_LOGIT = -1.5
"""Where a pick is right with some 20 % the place is looked at, whatever its class."""
SPLIT_LOG_DEPTH = 0.7
"""Two peaks are two instances if the saddle is less than half (exp -0.7) as deep as the lower."""
FEATURES = (
    "pick_logit", "pick_logit_disc", "crystal_disc", "crystal_least", "thick_disc", "dirt_disc",
    "dirt_ring", "other_crystal_ring", "log_depth", "log_outline_depth", "log_area", "filling",
    "thickness", "thickness_spread", "edge", "log_contrast_snr", "contrast", "log_dose", "mode",
    "pick_logit_x_dose", *SHAPE_FEATURES,
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One instance with its best disc, on the working grid."""

    y: int
    x: int
    radius_nm: float
    area_nm2: float
    features: NDArray[np.float64]
    """In the order of ``FEATURES``."""

    def feature(self, name: str) -> float:
        """One feature by its name."""
        return float(self.features[FEATURES.index(name)])


def find_candidates(
    fields: Fields, probability: Floats, electrons: Floats, acquisition: Acquisition
) -> list[Candidate]:
    """Candidate discs of one image, at most ``MOST_CANDIDATES``, the likeliest first.

    Parameters
    ----------
    fields
        The network's answer on the working grid.
    probability
        Calibrated class probabilities, (6, ny, nx).
    electrons
        Electrons per working pixel, (ny, nx).
    acquisition
        Of the working grid.
    """
    pixel = acquisition.pixel_size_nm
    crystal = probability[RegionClass.CRYSTAL]
    chance = ndimage.gaussian_filter(fields.pick_logit, 0.8)
    # dirt is looked at as well: its shape tells it from a crystal better than its label
    thin = ndimage.gaussian_filter(crystal + probability[RegionClass.CONTAMINATION], 0.8)
    mask = (thin > 0.5) | (chance > PROMISING_LOGIT)
    mask = ndimage.binary_opening(mask, iterations=1)
    outline_nm = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * pixel
    depth = ndimage.gaussian_filter(
        np.minimum(0.5 * (fields.distance_nm + np.minimum(outline_nm, 300)), 300), 1.0
    )
    instances, count = split_instances(mask, depth)
    smooth = ndimage.gaussian_filter(electrons, 1.0)
    lumps = find_lumps(probability, smooth, fields.thickness_mfp, pixel)
    scene = _Scene(fields, probability, chance, outline_nm, instances, smooth, lumps, acquisition)
    candidates = []
    for k, box in enumerate(ndimage.find_objects(instances, max_label=count), start=1):
        if box is None:
            continue
        own = instances[box] == k
        # at small size a disc still needs room: skip what cannot hold one
        if own.sum() * pixel**2 < 0.5 * np.pi * LEAST_RADIUS_NM**2:
            continue
        merit = chance[box] + 1.5 * np.minimum(depth[box], 200) / 100
        at = np.unravel_index(int(np.where(own, merit, -np.inf).argmax()), own.shape)
        y, x = int(at[0]) + box[0].start, int(at[1]) + box[1].start
        radius = float(np.clip(0.75 * outline_nm[y, x], LEAST_RADIUS_NM, 500))
        candidates.append(_candidate(scene, (y, x), radius, k, float(own.sum())))
    candidates.sort(key=lambda c: -c.features[0])
    return candidates[:MOST_CANDIDATES]


def split_instances(mask: NDArray[np.bool_], depth: Floats) -> tuple[NDArray[np.int32], int]:
    """Number the instances in a mask, splitting touching ones at necks of the depth.

    Parameters
    ----------
    mask
        Probable crystal, (ny, nx).
    depth
        Distance to the border, any unit, (ny, nx).

    Returns
    -------
    int32 (ny, nx) from 1, 0 outside; and their number.
    """
    areas, count = ndimage.label(mask)
    areas = areas.astype(np.int32)
    following = count
    for k, box in enumerate(ndimage.find_objects(areas), start=1):
        own = areas[box] == k
        log_depth = np.where(own, np.log(np.maximum(depth[box], 1.0)), -5.0)
        peaks, n_peaks = _dominant_peaks(log_depth)
        if n_peaks < 2:
            continue
        top = float(log_depth.max())
        cost = np.where(own, np.clip((top - log_depth) * 4000, 0, 60000), 65535).astype(np.uint16)
        parts = ndimage.watershed_ift(cost, peaks.astype(np.int32))
        for part in range(2, n_peaks + 1):
            following += 1
            areas[box][own & (parts == part)] = following
    return areas, following


def _dominant_peaks(log_depth: Floats) -> tuple[NDArray[np.int32], int]:
    """Numbered domes of the peaks that stand ``SPLIT_LOG_DEPTH`` above their saddle (h-maxima)."""
    seed = log_depth - SPLIT_LOG_DEPTH
    for _ in range(sum(log_depth.shape)):  # reconstruction by dilation
        grown = np.minimum(ndimage.grey_dilation(seed, size=(3, 3)), log_depth)
        if np.array_equal(grown, seed):
            break
        seed = grown
    height = log_depth - seed
    domes, count = ndimage.label(height > 1e-4)
    tall = ndimage.maximum(height, domes, np.arange(1, count + 1)) >= SPLIT_LOG_DEPTH - 1e-3
    number = np.concatenate([[0], np.where(tall, np.cumsum(tall), 0)])
    return number[domes].astype(np.int32), int(tall.sum())


@dataclass(frozen=True)
class _Scene:
    fields: Fields
    probability: Floats
    chance: Floats
    outline_nm: Floats
    instances: NDArray[np.int32]
    smooth_electrons: Floats
    lumps: Lumps
    acquisition: Acquisition


def _candidate(
    scene: _Scene, at: tuple[int, int], radius_nm: float, number: int, area_px: float
) -> Candidate:
    y, x = at
    pixel = scene.acquisition.pixel_size_nm
    ny, nx = scene.instances.shape
    reach = int(np.ceil((radius_nm + NEIGHBOUR_GAP_NM + 60) / pixel))
    box = (slice(max(0, y - reach), min(ny, y + reach + 1)),
           slice(max(0, x - reach), min(nx, x + reach + 1)))  # fmt: skip
    rows = np.arange(box[0].start, box[0].stop)[:, None] - y
    cols = np.arange(box[1].start, box[1].stop)[None, :] - x
    r_nm = np.sqrt(rows**2 + cols**2) * pixel
    disc = r_nm <= radius_nm
    own = scene.instances[box] == number
    around = (r_nm <= radius_nm + NEIGHBOUR_GAP_NM + 40) & ~own & ~disc
    p = scene.probability[:, box[0], box[1]]
    support = (p[RegionClass.VACUUM] + p[RegionClass.SUPPORT] > 0.5) & ~own & ~disc
    m_disc = float(scene.smooth_electrons[box][disc].mean())
    m_film = float(scene.smooth_electrons[box][support].mean()) if support.sum() > 20 else m_disc
    mean = max(float(scene.smooth_electrons.mean()), 1e-4)
    noise = np.sqrt(max(m_disc + m_film, 1e-3 * mean) / max(int(disc.sum()), 1))
    contrast = abs(m_disc - m_film) / max(m_disc, m_film, 0.02 * mean)
    thickness = scene.fields.thickness_mfp[box][disc]
    chance = float(scene.chance[y, x])
    log_dose = float(np.log10(mean))
    box_of_instance = max(area_px * pixel**2, 1.0)
    depth = float(scene.outline_nm[y, x])
    other = p[RegionClass.CRYSTAL] + p[RegionClass.THICK_OR_OVERLAP]
    features = np.array([
        chance,
        float(scene.chance[box][disc].mean()),
        float(p[RegionClass.CRYSTAL][disc].mean()),
        float(np.quantile(p[RegionClass.CRYSTAL][disc], 0.1)),
        float(p[RegionClass.THICK_OR_OVERLAP][disc].mean()),
        float(p[RegionClass.CONTAMINATION][disc].mean()),
        _mean(p[RegionClass.CONTAMINATION], around),
        _mean(other, around),
        np.log(float(scene.fields.distance_nm[y, x]) + 20),
        np.log(depth + 20),
        np.log(box_of_instance),
        np.pi * depth**2 / box_of_instance,
        float(thickness.mean()),
        float(thickness.std()),
        min(y, x, ny - 1 - y, nx - 1 - x) * pixel < radius_nm + 40,
        np.log(abs(m_disc - m_film) / noise + 0.5),
        contrast,
        log_dose,
        1.0 if scene.acquisition.mode == "HAADF" else -1.0,
        chance * log_dose,
        *scene.lumps.shape_at(y, x),
    ], dtype=np.float64)  # fmt: skip
    return Candidate(y, x, radius_nm, area_px * pixel**2, features)


def _mean(values: Floats, where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else 0.0
