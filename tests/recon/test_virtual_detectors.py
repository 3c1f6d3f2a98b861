"""Virtual detectors count every electron once, and say what is noise."""

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from recon.dataset import Dataset4D
from recon.direct import DIRECT_ENGINES, DirectEngine, direct_phase
from recon.direct.virtual_detector import DetectorError, VirtualDetector
from recon.direct.virtual_images import virtual_images, virtual_images_of_file
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct
from recon.request import OutputError

if TYPE_CHECKING:
    from tests.recon.conftest import Truth


@pytest.fixture(scope="module")
def data(turned: "Truth") -> Dataset4D:
    return turned.counted(400.0)


def test_rings_and_segments_share_the_electrons_without_loss(data: Dataset4D) -> None:
    rings = virtual_images(data, ["0-6", "6-14.5", "14.5-999"])
    np.testing.assert_array_equal(
        sum(image.electrons for image in rings), data.virtual_image(np.ones(data.frame_shape))
    )
    quarters = virtual_images(data, [f"0-14@{a}-{a + 90}" for a in (-45, 45, 135, 225)])
    (whole,) = virtual_images(data, ["0-14"])
    np.testing.assert_array_equal(sum(image.electrons for image in quarters), whole.electrons)


def test_named_detectors_go_by_the_semi_angle(data: Dataset4D) -> None:
    header = data.header
    abf = VirtualDetector.parse("ABF", header)
    assert (abf.inner_mrad, abf.outer_mrad) == (6.0, 12.0)
    bf, adf = virtual_images(data, ["bf", "adf"])
    assert bf.electrons.mean() > 3 * adf.electrons.mean()
    assert np.corrcoef(bf.electrons.ravel(), adf.electrons.ravel())[0, 1] < 0


def test_azimuth_is_measured_from_column_towards_row(data: Dataset4D) -> None:
    mask = VirtualDetector.parse("0-99@45-135", data.header).mask(data, data.header.centre_px)
    rows, _ = np.nonzero(mask)
    assert rows.mean() > data.header.centre_px[0] + 5


@pytest.mark.parametrize(
    ("text", "words"),
    [("bright", "is no virtual detector"), ("20-10", "larger than the inner"),
     ("500-600", "holds no pixel"), ("", "is no virtual detector")],
)  # fmt: skip
def test_nonsense_is_refused_with_the_remedy(data: Dataset4D, text: str, words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        virtual_images(data, [text])


def test_shot_noise_is_called_noise(data: Dataset4D) -> None:
    generator = np.random.default_rng(3)
    flat = generator.poisson(
        np.broadcast_to(data.mean_pattern(), (*data.scan_shape, *data.frame_shape))
    )
    (noise,) = virtual_images(Dataset4D.from_dense(flat.astype(np.uint16), data.header), ["bf"])
    (specimen,) = virtual_images(data, ["adf"])
    assert noise.contrast < 0.3 * specimen.contrast
    assert not noise.frc_half_A < 4.0
    assert specimen.frc_half_A < 4.0


def test_virtual_images_are_written_with_their_numbers(turned: "Truth", tmp_path: Path) -> None:
    header = turned.header
    path = turned.write_described(tmp_path / "scan.h5", 400.0)
    summary = virtual_images_of_file(path, tmp_path / "out", ["bf", "0-12@0-90"])
    with h5py.File(tmp_path / "out" / "virtual.h5") as file:
        assert set(file) == {"bf", "0-12@0-90"}
        assert file["bf"].attrs["pixel_size_A"] == pytest.approx(header.scan_step_A)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "virtual.h5", "virtual.json", "virtual-bf.png", "virtual-0-12_at_0-90.png"
    }  # fmt: skip
    assert "half-set FRC" in str(summary["verdict"])
    with pytest.raises(OutputError, match="already holds"):
        virtual_images_of_file(path, tmp_path / "out", ["bf"])


@pytest.mark.parametrize("engine", DIRECT_ENGINES)
def test_every_direct_method_shows_the_specimen_in_place_and_judges_itself(
    turned: "Truth", data: Dataset4D, engine: DirectEngine
) -> None:
    """The specimen is far from weak: the sign, the place and the orientation must be right."""
    result = reconstruct(data, ReconstructionParams(engine=engine))
    region = result.scanned_field(border_A=2.0)
    truth = turned.phase_on(result.phase_rad.shape, result.pixel_size_A, result.scan_centre_px)
    agreement = np.corrcoef(truth[region].ravel(), result.phase_rad[region].ravel())[0, 1]
    assert agreement > {"parallax": 0.6, "icom": 0.8, "dpc": 0.8, "ssb": 0.5}[engine]
    assert result.stopped_because == "direct method"
    finer = {"ssb": 3}.get(engine, 1)
    assert result.resolution.frc_half_A >= 2 * data.header.scan_step_A / finer
    assert any("use the multislice engine" in text for text in result.warnings) == (engine == "ssb")
    live = direct_phase(data, engine)
    assert live.halves is None
    np.testing.assert_array_equal(live.phase_rad, result.phase_rad)
