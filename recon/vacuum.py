"""Measure the illumination on a pattern, or a stack of them, taken in vacuum.

No crystal pulls at this disc: its centre, radius and dose hold for the scan that was taken with the
same optics. The scan keeps its angular sampling; the semi-angle follows from radius times sampling.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.calibration import Disc, Measured, measure_disc
from recon.dataset import Dataset4D, ScanHeader, VacuumProbe
from recon.errors import CalibrationError, DataError
from recon.importers import open_4d
from recon.importers.fields import HEADER_NAMES, OPTIONAL, REQUIRED

MAX_ELLIPTICITY = 0.03
MAX_SHIFT_PX = 1.0
MAX_GAIN_IN_ELECTRONS = 1.05
ANGLE_TOLERANCE = 0.01


def open_vacuum(path: str | Path, like: ScanHeader) -> VacuumProbe:
    """Measure the vacuum pattern(s) in ``path``: any readable format, also a single 2-D pattern.

    Parameters
    ----------
    like
        Header of the scan; it stands in for what the vacuum file does not say.

    Raises
    ------
    DataError
        Another detector shape, a disc that is cut, or no counts.
    CalibrationError
        Too few electrons.
    """
    values = like.model_dump() | {"energy_eV": 1e3 * like.energy_keV}
    fields = {name: values[HEADER_NAMES.get(name, name)] for name in (*REQUIRED, *OPTIONAL)}
    defaults = {name: value for name, value in fields.items() if value is not None}
    defaults.pop("dose_e_per_A2", None)
    vacuum = open_4d(path, defaults=defaults | {"as_list": True})
    if vacuum.frame_shape != like.frame_shape:
        raise DataError(
            f"{Path(path).name}: vacuum patterns of {list(vacuum.frame_shape)} pixels for a scan "
            f"of {list(like.frame_shape)}; take them with the same detector, binning and crop"
        )
    return measure_vacuum(vacuum)


def measure_vacuum(vacuum: Dataset4D) -> VacuumProbe:
    """Centre, radius, shape and dose of the disc in the sum of all patterns.

    Without a specimen the disc is even: its sum over its level is its area, pi radius^2, its
    centroid the centre, and the half-axes of an ellipse are twice the roots of its second moments.
    """
    found = measure_disc(vacuum)
    pattern = vacuum.mean_pattern()
    n = max(int(vacuum.valid.sum()), 1)
    rows, cols = np.indices(pattern.shape)
    centre, radius = (found.row.value, found.col.value), found.radius.value
    for _ in range(4):
        distance = np.hypot(rows - centre[0], cols - centre[1])
        disc = np.where(distance < 1.1 * radius + 1.5, pattern, 0.0)
        inside = distance < 0.8 * radius
        level, electrons = pattern[inside].mean(), disc.sum()
        centre = (float((rows * disc).sum() / electrons), float((cols * disc).sum() / electrons))
        radius = float(np.sqrt(electrons / level / np.pi))
    offsets = np.stack([(rows - centre[0]).ravel(), (cols - centre[1]).ravel()])
    spread, axes = np.linalg.eigh((offsets * disc.ravel()) @ offsets.T / electrons)
    scatter = pattern[inside].var() - level / n
    return VacuumProbe(
        row_px=centre[0],
        col_px=centre[1],
        radius_px=radius,
        sigma_px=float(radius / np.sqrt(electrons * n)),
        electrons_per_pattern=float(electrons),
        n_patterns=n,
        ellipticity=float(np.sqrt(spread[1] / spread[0]) - 1),
        ellipse_angle_deg=float(np.degrees(np.arctan2(axes[0, 1], axes[1, 1])) % 180),
        unevenness=float(np.sqrt(max(scatter, 0.0)) / level),
        pattern=pattern.astype(np.float32),
        source=vacuum.source,
        sha256=vacuum.sha256,
    )


def with_vacuum(dataset: Dataset4D, vacuum: VacuumProbe) -> Dataset4D:
    """Return the scan with the semi-angle, dose and disc of the vacuum, and what contradicts."""
    header = dataset.header
    semiangle = vacuum.radius_px * header.detector_sampling_mrad
    changes: dict[str, object] = {"convergence_semiangle_mrad": semiangle}
    if header.fluence_e_per_A2 is None:
        changes["fluence_e_per_A2"] = vacuum.electrons_per_pattern / header.scan_step_A**2
    return replace(
        dataset,
        header=header.model_copy(update=changes),
        vacuum=vacuum,
        warnings=(*dataset.warnings, *_contradictions(dataset, vacuum, semiangle)),
    )


def _contradictions(dataset: Dataset4D, vacuum: VacuumProbe, semiangle_mrad: float) -> list[str]:
    notes = []
    stated = dataset.header.convergence_semiangle_mrad
    if abs(semiangle_mrad / stated - 1) > ANGLE_TOLERANCE:
        notes.append(
            f"the vacuum disc has {vacuum.radius_px:.2f} px, that is {semiangle_mrad:.2f} mrad at "
            f"{dataset.header.detector_sampling_mrad:g} mrad per pixel; it is used instead of the "
            f"stated semi-angle of {stated:g} mrad"
        )
    if vacuum.ellipticity > MAX_ELLIPTICITY:
        notes.append(
            f"the vacuum disc is an ellipse: its axes differ by {100 * vacuum.ellipticity:.1f} %, "
            f"the long one at {vacuum.ellipse_angle_deg:.0f} deg. Correct the projector "
            f"astigmatism or the detector's aspect: the probe takes the shape of the disc, but "
            f"all other angles are taken for undistorted"
        )
    share = dataset.electrons_per_pattern / vacuum.electrons_per_pattern
    if share > MAX_GAIN_IN_ELECTRONS:
        notes.append(
            f"{dataset.electrons_per_pattern:.4g} electrons per pattern with a specimen, "
            f"{vacuum.electrons_per_pattern:.4g} without: current or dwell time differ"
        )
    try:
        disc = measure_disc(dataset)
    except (CalibrationError, DataError):
        return notes
    shift = float(np.hypot(disc.row.value - vacuum.row_px, disc.col.value - vacuum.col_px))
    if shift > MAX_SHIFT_PX:
        notes.append(
            f"the disc of the scan lies {shift:.1f} px from that of the vacuum: the descan or the "
            f"projector moved in between; the centre is taken from the scan"
        )
    return notes


def disc_of(dataset: Dataset4D) -> Disc | None:
    """The disc to use instead of one measured on the specimen; None without a vacuum pattern."""
    vacuum = dataset.vacuum
    if vacuum is None:
        return None
    row, col, radius = (
        Measured(value, vacuum.sigma_px, "vacuum")
        for value in (vacuum.row_px, vacuum.col_px, vacuum.radius_px)
    )
    seen = measure_disc(dataset)
    if np.hypot(seen.row.value - row.value, seen.col.value - col.value) > MAX_SHIFT_PX:
        row, col = seen.row, seen.col
    return Disc(row, col, radius)
