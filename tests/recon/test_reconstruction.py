"""From counts to an image and back to the truth, on data of an independent multislice program."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from recon.calibrate import calibrate
from recon.dataset import Dataset4D
from recon.geometry import scan_matrix
from recon.judge import SURE_SHARE
from recon.metrics import registered_correlation
from recon.output import OutputError, reconstruct_file
from recon.parallax import phase_image, resample
from recon.params import ReconstructionParams
from recon.ptychography.stopping import HeldOutStop
from recon.reconstruct import reconstruct
from recon.result import ProgressEvent, Reconstruction

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

QUICK = ReconstructionParams(max_passes=7, threads=1, refine_patterns=64)


def agreement(truth: "Truth", result: Reconstruction) -> float:
    region = result.scanned_field(border_A=1.0)
    phase = truth.phase_on(result.phase_rad.shape, result.pixel_size_A, result.scan_centre_px)
    return float(np.corrcoef(phase[region].ravel(), result.phase_rad[region].ravel())[0, 1])


@pytest.fixture(scope="module")
def result(turned: "Truth") -> Reconstruction:
    """Nominal rotation wrong by 14 degrees, nominal defocus by 10 nm."""
    data = turned.counted(
        400.0, scan_rotation_deg=-3.0, defocus_A=20.0, nominal_thickness_A=turned.thickness_A
    )
    return reconstruct(data, QUICK)


def test_wrong_rotation_and_defocus_are_found(turned: "Truth", result: Reconstruction) -> None:
    assert result.calibration.rotation_deg.value == pytest.approx(11.0, abs=1.5)
    assert result.calibration.defocus_A.value == pytest.approx(120.0, abs=30.0)
    # Little else than the distance of the crossover from the middle of a thin specimen is seen
    middle = result.calibration.defocus_A.value - result.calibration.thickness_A.value / 2
    assert middle == pytest.approx(120.0 - turned.thickness_A / 2, abs=12.0)
    assert result.calibration.defocus_A.source == "joint"
    assert not result.calibration.mirrored
    # so few passes leave claims that the electrons do not confirm yet
    assert all("the electrons confirm only" in warning for warning in result.warnings)


def test_the_phase_is_the_projected_potential_in_place(
    turned: "Truth", result: Reconstruction
) -> None:
    """Not registered: position, orientation and sign have to be right as they come."""
    assert agreement(turned, result) > 0.93


def test_the_image_knows_how_good_it_is(result: Reconstruction) -> None:
    held = np.array(result.curves.held_out)
    assert result.best_pass == int(np.argmin(held)) + 1
    assert held[-1] < held[0]
    assert 0.8 < result.resolution.frc_at_half_A < 2.0
    assert not result.resolution.frc_half_A > result.resolution.frc_at_half_A
    doubtful = result.explained_share < SURE_SHARE
    assert np.isnan(result.resolution.frc_half_A) == doubtful
    assert result.verdict.startswith("Doubtful") == doubtful
    assert "nm from nominal" in result.verdict
    assert np.isfinite(result.phase_rad).all()
    assert result.phase_rad.dtype == np.float32


def test_electrons_that_were_held_out_are_not_lost(turned: "Truth") -> None:
    """After the turn they join the fit: the image comes nearer to the truth."""
    data = turned.counted(200.0, nominal_thickness_A=turned.thickness_A)
    fixed = QUICK.model_copy(
        update={
            "refine": (), "half_set_frc": False, "defocus_A": 120.0, "rotation_deg": 11.0,
            "held_out_fraction": 0.4,
        }
    )  # fmt: skip
    without, closed = (
        reconstruct(data, fixed.model_copy(update={"closing_passes": n})) for n in (0, 2)
    )
    assert agreement(turned, closed) > agreement(turned, without) + 0.003


def test_the_calibration_that_was_found_stays(result: Reconstruction) -> None:
    """The second stage, under a high floor, would bend it again."""
    assert len(set(result.curves.defocus_A)) == 1
    assert result.curves.defocus_A[0] == pytest.approx(result.calibration.defocus_A.value)


def test_underfocus_taken_for_overfocus_is_worse(turned: "Truth", result: Reconstruction) -> None:
    """The sign of the defocus is an experiment, not a convention."""
    fixed = QUICK.model_copy(
        update={"max_passes": 3, "half_set_frc": False, "refine": (), "rotation_deg": 11.0}
    )
    data = turned.counted(400.0, nominal_thickness_A=turned.thickness_A)
    right, wrong = (
        reconstruct(data, fixed.model_copy(update={"defocus_A": d})) for d in (120.0, -120.0)
    )
    assert min(right.curves.held_out) < min(wrong.curves.held_out) - 0.005
    assert agreement(turned, right) > agreement(turned, wrong) + 0.2


def test_a_mirrored_detector_is_noticed(turned: "Truth") -> None:
    data = turned.counted(800.0)
    swapped = np.swapaxes(data.dense4d(), 2, 3).copy()
    calibrated = calibrate(Dataset4D.from_dense(swapped, data.header), QUICK)
    assert calibrated.calibration.mirrored
    assert calibrated.calibration.rotation_deg.value == pytest.approx(11.0, abs=2.0)
    assert any("mirrored" in text for text in calibrated.warnings)
    declared = data.header.model_copy(update={"transpose": True})
    assert not calibrate(Dataset4D.from_dense(swapped, declared), QUICK).calibration.mirrored


def test_parallax_shows_atoms_bright_and_in_place(turned: "Truth") -> None:
    calibrated = calibrate(turned.counted(800.0), QUICK)
    header = turned.header
    image = phase_image(calibrated.spectra, calibrated.shear)
    shown, centre = resample(image, scan_matrix(header, header.scan_rotation_deg), 0.45)
    truth = turned.phase_on(shown.shape, 0.45, centre)
    inner = tuple(slice(n // 4, -n // 4) for n in shown.shape)
    assert registered_correlation(truth[inner], shown[inner].astype(float)) > 0.4


def test_the_same_seed_gives_the_same_image(turned: "Truth") -> None:
    data = turned.counted(300.0)
    once = QUICK.model_copy(update={"max_passes": 2, "half_set_frc": False})
    first, second = (reconstruct(data, once, rng_seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.phase_rad, second.phase_rad)


def test_every_output_is_written_and_told_apart(turned: "Truth", tmp_path: Path) -> None:
    described = turned.write_described(tmp_path / "scan.h5")
    events: list[ProgressEvent] = []
    params = QUICK.model_copy(update={"max_passes": 3})

    summary = reconstruct_file(described, tmp_path / "out", params, progress=events.append)
    assert ReconstructionParams.from_yaml(tmp_path / "out" / "params.yaml") == params

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"reconstruction.h5", "summary.html", "summary.json", "phase.png", "frc.png"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["passes"] == 3
    assert summary["stopped_because"] == "max_passes (3) reached"
    with h5py.File(tmp_path / "out" / "reconstruction.h5") as file:
        assert file["phase_rad"].attrs["pixel_size_A"] > 0
        assert file["slices_phase_rad"].shape[1:] == file["phase_rad"].shape
        assert file["calibration/defocus_A"].attrs["source"] == "joint"
        assert file["calibration/affine"].shape == (2, 2)
        assert 0 < file["calibration/affine"].attrs["sigma"] < 0.1
        assert file["phase_sigma_rad"].shape == file["phase_rad"].shape
        assert file["resolution/frc_0143_A"][()] > 0
        assert len(file["provenance"].attrs["input_sha256"]) == 64
        assert file["positions_A"].shape == (22 * 26, 2)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    page = (tmp_path / "out" / "summary.html").read_text()
    text = re.sub('base64,[^"]*', "", page)  # where any four letters come up now and then
    assert "http" not in text.replace("http-equiv", "")
    with pytest.raises(OutputError, match="already holds a reconstruction"):
        reconstruct_file(described, tmp_path / "out", params)


def test_a_nominal_defocus_replaces_that_of_the_header(turned: "Truth") -> None:
    """Whoever calls: the lens was set to 60 nm overfocus, the specimen lay elsewhere."""
    data = turned.counted(400.0, defocus_A=-600.0)
    near = ReconstructionParams(
        engine="parallax", nominal_defocus_A=100.0, search_defocus_A=150.0, half_set_frc=False
    )
    result = reconstruct(data, near)
    assert result.calibration.defocus_A.value == pytest.approx(120.0, abs=30)
    assert result.header.defocus_A == 100.0
    assert "from nominal" in result.verdict
    assert data.header.defocus_A == -600.0


def test_the_direct_method_alone_also_reports(turned: "Truth") -> None:
    result = reconstruct(turned.counted(400.0), ReconstructionParams(engine="parallax"))
    assert result.passes == 0
    assert result.stopped_because == "direct method"
    assert np.isfinite(result.phase_rad).all()


def test_stopping_waits_and_keeps_the_best() -> None:
    stop = HeldOutStop(patience=2)
    losses = [5.0, 4.0, 3.9, 3.95, 3.97]
    improved = [stop.observe(n, loss) for n, loss in enumerate(losses, start=1)]
    assert improved == [True, True, True, False, False]
    assert stop.should_stop
    assert stop.best_pass == 3
