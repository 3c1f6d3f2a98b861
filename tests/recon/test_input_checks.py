"""No counts, another order of axes, sick pixels, wrong units: said with a remedy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.calibrate import check_overlap, refuse_apart
from recon.dataset import ScanFileWriter
from recon.errors import DataError
from recon.importers import open_4d
from recon.importers.checks import check_counts
from recon.params import ReconstructionParams
from recon.patterns import prepare_patterns
from recon.reconstruct import reconstruct

FIELDS: dict[str, Any] = {
    "energy_eV": 300e3,
    "semiangle_mrad": 10.0,
    "defocus_A": 100.0,
    "scan_step_A": 1.05,
    "k_pixel_mrad": 1.5,
}
SHAPE = (9, 11, 24, 20)


def counts(mean: float = 0.6, seed: int = 0) -> np.ndarray:
    row, col = np.indices(SHAPE[2:])
    disc = np.hypot(row - 11, col - 9) < 6.7
    return np.random.default_rng(seed).poisson(mean * disc + 1e-3, SHAPE)


def opened(path: Path, data: np.ndarray, **fields: Any) -> Any:
    with h5py.File(path / "d.h5", "w") as file:
        file["counts"] = data
        file.attrs.update(FIELDS | fields)
    return open_4d(path / "d.h5")


@pytest.mark.parametrize("mean", [0.01, 0.3, 5.0, 300.0])
def test_ordinary_counts_give_no_warning(tmp_path: Path, mean: float) -> None:
    scan = opened(tmp_path, counts(mean))
    assert scan.warnings == ()
    assert scan.masked is None


@pytest.mark.parametrize(
    ("order", "named"),
    [((2, 3, 0, 1), "det_y, det_x, scan_y, scan_x"), ((0, 2, 1, 3), "scan_y, det_y, scan_x, det_x"),
     ((2, 0, 3, 1), "det_y, scan_y, det_x, scan_x")],
)  # fmt: skip
def test_axes_in_another_order_are_named(
    tmp_path: Path, order: tuple[int, ...], named: str
) -> None:
    wrong = counts().transpose(order)
    with pytest.raises(
        DataError, match=rf"disc of the probe lies in axes.*State axes: \[{named}\]"
    ):
        opened(tmp_path, wrong)
    right = opened(tmp_path, wrong, axes=named.split(", "))
    np.testing.assert_array_equal(right.dense4d(), counts())
    opened(tmp_path, wrong, axes=["scan_y", "scan_x", "det_y", "det_x"])  # stated, hence believed


def test_a_scan_shape_that_contradicts_the_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scan_shape says \[11, 9\], the array \[9, 11\]"):
        opened(tmp_path, counts(), scan_shape=(11, 9))
    with pytest.raises(DataError, match=r"axes .* must hold scan_y, scan_x, det_y, det_x"):
        opened(tmp_path, counts(), axes=["scan_y", "scan_x", "det_y", "det_y"])


def test_hot_and_dead_pixels_are_masked_and_take_no_part(tmp_path: Path) -> None:
    data = counts(2.0)
    data[:, :, 3, 17] = 40
    data[:, :, 11, 9] = 0
    scan = opened(tmp_path, data)
    assert {tuple(at) for at in np.argwhere(scan.masked)} == {(3, 17), (11, 9)}
    assert any(r"1 hot pixel(s) at (3, 17) masked" in text for text in scan.warnings)
    assert any(r"1 dead pixel(s) at (11, 9) masked" in text for text in scan.warnings)
    patterns = prepare_patterns(scan, (11.0, 9.0))
    everything = prepare_patterns(replace(scan, masked=None), (11.0, 9.0))
    assert patterns.n_electrons == everything.n_electrons - data[:, :, 3, 17].sum()
    assert (everything.measured & ~patterns.measured).sum() == 2
    stated = opened(tmp_path, counts(), masked_pixels=[[3, 17]])
    assert stated.masked is not None
    assert stated.masked.sum() == 1
    with pytest.raises(DataError, match=r"masked_pixels names \[24, 0\]"):
        opened(tmp_path, counts(), masked_pixels=[[24, 0]])


def test_a_beam_of_a_pixel_is_not_called_hot(tmp_path: Path) -> None:
    data = np.random.default_rng(0).poisson(0.01, SHAPE)
    data[:, :, 12, 10] = np.random.default_rng(1).poisson(30, SHAPE[:2])
    assert opened(tmp_path, data, semiangle_mrad=0.8).masked is None
    assert opened(tmp_path, data).masked is not None


def test_scaled_counts_are_found_and_the_gain_repairs_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"multiple of 7.*counts_per_electron: 7"):
        opened(tmp_path, 7 * counts())
    scan = opened(tmp_path, 7 * counts(), counts_per_electron=7.0)
    np.testing.assert_array_equal(scan.dense4d(), counts())
    analogue = 150.0 * counts() + np.random.default_rng(1).normal(20, 15, SHAPE)
    repaired = opened(
        tmp_path, analogue.astype(np.float32), counts_per_electron=150.0, value_offset=20.0
    )
    np.testing.assert_array_equal(repaired.dense4d(), counts())
    assert repaired.header.counting == "thresholded"
    clusters = 2 * counts(0.05, 1) + counts(0.05, 2) * 3  # two or three values per electron
    assert any("more than electrons do" in text for text in opened(tmp_path, clusters).warnings)


def test_the_threshold_counts_small_signals_as_none_and_large_ones_as_one(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[..., 5:17, 3:15] = 10.0
    data[0, 0, 0, :3] = [3.9, 4.1, 16.0]
    scan = opened(
        tmp_path, data, counts_per_electron=10.0, threshold_electrons=0.4, axes=list(AXES)
    )
    np.testing.assert_array_equal(scan.dense4d()[0, 0, 0, :4], [0, 1, 2, 0])


AXES = ("scan_y", "scan_x", "det_y", "det_x")


def test_saturation_and_dead_time_are_said(tmp_path: Path) -> None:
    data = np.minimum(counts(60.0), 63)
    texts = opened(tmp_path, data, saturation_value=63.0).warnings
    assert any("the detector is saturated" in text and "reach 63" in text for text in texts)
    assert any("scatter less than electrons can" in text for text in texts)
    paralysed = np.rint(counts(30.0) / (1 + 0.03 * counts(30.0))).astype(int)  # dead time
    texts = opened(tmp_path, paralysed).warnings
    assert any("scatter less than electrons can" in text for text in texts)


def test_single_large_values_are_said_and_can_be_dropped(tmp_path: Path) -> None:
    data = counts()
    data[3, 4, 20, 2] = 900
    scan = opened(tmp_path, data)
    assert any("900 electrons at scan point (3, 4), pixel (20, 2)" in t for t in scan.warnings)
    assert opened(tmp_path, data, max_electrons=50).n_electrons == data.sum() - 900


def test_dose_that_contradicts_the_counts_is_said(tmp_path: Path) -> None:
    per_pattern = counts().sum() / 99
    right = opened(tmp_path, counts(), dose_e_per_A2=per_pattern / 1.05**2)
    assert right.warnings == ()
    wrong = opened(tmp_path, counts(), dose_e_per_A2=100 * per_pattern / 1.05**2)  # per nm²
    assert any("check dose_e_per_A2 and scan_step_A" in text for text in wrong.warnings)


def test_nan_pixels_can_be_masked(tmp_path: Path) -> None:
    data = counts().astype(np.float32)
    data[4, 4, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"1 of .* NaN or infinite; mask those.*nan_pixels: mask"):
        opened(tmp_path, data)
    scan = opened(tmp_path, data, nan_pixels="mask")
    assert scan.masked is not None
    assert scan.masked[2, 3]
    assert scan.masked.sum() == 1


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("energy_eV", 300.0, "is it in keV"),
        ("semiangle_mrad", 0.01, "is it in rad"),
        ("k_pixel_mrad", 1.5e-3, "is it in rad"),
        ("scan_step_A", 1.05e-10, "is it in m"),
        ("defocus_A", -1e-8, "is it in m"),
        ("nominal_thickness_A", 2e-8, "is it in nm or m"),
    ],
)
def test_numbers_in_another_unit_are_refused(
    tmp_path: Path, name: str, value: float, remedy: str
) -> None:
    with pytest.raises(DataError, match=rf"{name} is .*; {remedy}"):
        opened(tmp_path, counts(), **{name: value})


def test_too_little_overlap_is_said(tmp_path: Path) -> None:
    scan = opened(tmp_path, counts(), scan_step_A=9.0, defocus_A=200.0)
    texts = check_overlap(scan, scan.header.defocus_A)
    assert any("neighbouring probes overlap by only" in t and "finer steps" in t for t in texts)


@pytest.mark.parametrize("fluence_e_per_A2", [10, 100, 1e4])
def test_a_crystal_raises_no_alarm(turned: Any, fluence_e_per_A2: float) -> None:
    """Dynamical discs, spots that come and go: no reason to mask or to warn."""
    scan = check_counts(turned.counted(fluence_e_per_A2))
    assert scan.masked is None
    assert scan.warnings == ()


def test_the_native_file_is_checked_as_well(tmp_path: Path) -> None:
    data = counts(2.0)
    data[:, :, 3, 17] = 40
    scan = opened(tmp_path, data)
    with ScanFileWriter(tmp_path / "native.h5", scan.header) as writer:
        writer.append_dense(scan.dense())
    again = open_4d(tmp_path / "native.h5")
    assert again.masked is not None
    assert again.masked[3, 17]
    assert again.warnings == scan.warnings


def test_more_electrons_than_pixels_are_kept_as_multiplicities(tmp_path: Path) -> None:
    data = counts(400.0)
    scan = opened(tmp_path, data)
    assert scan.multiplicity is not None
    np.testing.assert_array_equal(scan.dense4d(), data)


def test_probes_that_do_not_touch_are_refused_with_step_width_and_remedy(tmp_path: Path) -> None:
    """Unless either the stated or the measured defocus makes them meet."""
    header = opened(tmp_path, counts(), scan_step_A=5.0).header
    refuse_apart(header, (10.0, -300.0))
    with pytest.raises(
        DataError, match=r"step is 5\.00 Å.*2\.0 nm.*2\.4\d Å wide.*steps below 1\."
    ):
        refuse_apart(header, (10.0, 20.0))


def test_a_reconstruction_refuses_probes_that_do_not_touch(tmp_path: Path) -> None:
    scan = opened(tmp_path, counts(), scan_step_A=60.0, defocus_A=10.0)
    with pytest.raises(DataError, match="do not touch"):
        reconstruct(scan)
    image = reconstruct(scan, ReconstructionParams(engine="icom", half_set_frc=False))
    assert any("overlap by only 0 %" in warning for warning in image.warnings)
