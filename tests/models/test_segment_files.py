"""Files in, files out: every kind of image comes in, what is written can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from models.evaluation_scenes import draw_evaluation_scene
from models.frames import ImageError
from models.image_files import ImageFlags, read_images
from models.imaging import SurveyImage
from models.segment_files import segment_files

FLAGS = ImageFlags(mode="BF", pixel_size_nm=8.5)


@pytest.fixture(scope="module")
def image() -> SurveyImage:
    return draw_evaluation_scene(
        np.random.default_rng(3), electrons_per_px=4.0, shape=(96, 130), mode="BF"
    ).image


def _stack(path: Path, image: SurveyImage) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in (("a", image.values), ("b", np.stack([image.values] * 2))):
            dataset = file.create_dataset(f"images/{name}", data=values)
            dataset.attrs["mode"] = "BF"
            dataset.attrs["pixel_size_nm"] = image.pixel_size_nm
            dataset.attrs["gain"] = image.gain
            dataset.attrs["offset"] = image.offset
    return path


def test_a_stack_becomes_labels_records_and_overlays(tmp_path: Path, image: SurveyImage) -> None:
    out = tmp_path / "out"
    regions = segment_files([_stack(tmp_path / "s.h5", image)], out, overlay=True)
    assert json.loads((out / "regions.json").read_text()) == regions
    assert set(regions) == {"a", "b"}
    assert regions["b"]["electrons_per_px"] == pytest.approx(2 * regions["a"]["electrons_per_px"])
    assert {
        "picks",
        "abstained",
        "reason",
        "out_of_distribution",
        "electrons_per_px_wanted",
    } <= set(regions["a"])
    with h5py.File(out / "regions.h5") as file:
        labels = file["labels/a"]
        assert (labels.shape, labels.dtype) == (image.values.shape, np.uint8)
        assert file["probability/a"].shape == (6, *image.values.shape)
    with Image.open(out / "a.png") as picture:
        assert picture.size[0] >= image.values.shape[1]


def test_every_kind_of_file_gives_the_same_image(tmp_path: Path, image: SurveyImage) -> None:
    values = np.round(image.electrons).clip(0, 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", values)
    tifffile.imwrite(tmp_path / "x.tif", values)
    Image.fromarray(values).save(tmp_path / "x.png")
    with mrcfile.new(tmp_path / "x.mrc", values.astype(np.int16)) as file:
        file.voxel_size = 92.0
    fields = read_images([tmp_path / f"x.{s}" for s in ("npy", "tif", "png", "mrc")], FLAGS)
    assert [f.id for f in fields] == ["x", "x-2", "x-3", "x-4"]
    for field in fields:
        np.testing.assert_array_equal(field.frames, values)
    assert [f.pixel_size_nm for f in fields] == pytest.approx([8.5, 8.5, 8.5, 9.2])


def test_what_cannot_be_read_is_named_with_its_remedy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((20, 20)))
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "broken.tif").write_bytes(b"no tiff")
    (tmp_path / "broken.h5").write_bytes(b"no hdf5")
    (tmp_path / "x.doc").write_text("")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("other")
    with h5py.File(tmp_path / "wrong.h5", "w") as file:
        dataset = file.create_dataset("images/a", data=np.ones((20, 20)))
        dataset.attrs.update({"mode": "SE", "pixel_size_nm": -8.0})
    cases = {
        "x.npy": "Give --mode and --pixel-size-nm",
        "photo.png": "colour or palette",
        "broken.tif": "cannot be read",
        "broken.h5": "cannot be read",
        "x.doc": "unknown kind '.doc'",
        "absent.npy": "is no file",
        "empty.h5": "no /images/<id>",
        "wrong.h5": "pixel_size_nm = -8.0",
    }
    for name, message in cases.items():
        with pytest.raises(ImageError, match=message) as refusal:
            read_images([tmp_path / name])
        assert "nothing was segmented" in str(refusal.value)
