"""Files written byte by byte after the published description of each format come back exactly."""

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recon.dataset import Dataset4D
from recon.errors import DataError
from recon.importers import frames as frames_module
from recon.importers import open_4d
from recon.importers.assemble import find_hits

FIELDS: dict[str, Any] = {
    "energy_eV": 300e3,
    "semiangle_mrad": 10.0,
    "defocus_A": 100.0,
    "scan_step_A": 1.05,
    "k_pixel_mrad": 1.5,
}
SCAN = (3, 5)


def disc_counts(scan: tuple[int, int], frame: tuple[int, int], mean: float = 0.6) -> np.ndarray:
    """Poisson counts in a disc that is neither centred nor round with either axis."""
    row, col = np.indices(frame)
    disc = np.hypot((row - 0.45 * frame[0]), (col - 0.55 * frame[1])) < 0.3 * min(frame)
    return np.random.default_rng(3).poisson(mean * disc, (*scan, *frame)).astype(np.uint16)


def describe(path: Path, **fields: Any) -> None:
    path.with_suffix(".yaml").write_text(yaml.safe_dump(FIELDS | fields))


def counts_of(scan: Dataset4D) -> np.ndarray:
    return scan.dense4d()


# --- EMPAD ---------------------------------------------------------------------------------------

XML = """<root name="a"><timestamp timestamp="1" isoformat="2019-06-06T13:30:00.164675"/>
<type>scan</type>{pix}<raw_file filename="{name}"/><exposure_time>2</exposure_time>
<scan_parameters mode="search"><scan_resolution_x>64</scan_resolution_x>
<scan_resolution_y>64</scan_resolution_y></scan_parameters>
<scan_parameters mode="acquire"><scan_resolution_x>{nx}</scan_resolution_x>
<scan_resolution_y>{ny}</scan_resolution_y></scan_parameters>
<iom_measurements><source.get_voltage>200000.0</source.get_voltage></iom_measurements></root>"""
GAIN = 579.0


def write_empad(path: Path, counts: np.ndarray, noise: float = 40.0) -> None:
    rng = np.random.default_rng(1)
    with path.open("wb") as stream:
        for frame in counts.reshape(-1, 128, 128):
            values = GAIN * frame + rng.normal(0, noise, frame.shape)
            stream.write(values.astype("<f4").tobytes())
            stream.write(np.full((2, 128), -7e8, "<f4").tobytes())  # the chip's two rows


def test_empad_frames_lose_their_two_extra_rows_and_become_electrons(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (128, 128))
    raw = tmp_path / "scan_x5_y3.raw"
    write_empad(raw, counts)
    (tmp_path / "acquisition.xml").write_text(
        XML.format(pix="<pix_x>5</pix_x><pix_y>3</pix_y>", name=raw.name, nx=99, ny=98)
    )
    without = {k: v for k, v in FIELDS.items() if k != "energy_eV"}
    raw.with_suffix(".yaml").write_text(yaml.safe_dump(without | {"counts_per_electron": GAIN}))
    for path in (raw, tmp_path / "acquisition.xml"):
        scan = open_4d(path)
        np.testing.assert_array_equal(counts_of(scan), counts)
        assert scan.header.energy_keV == 200.0
        assert scan.header.dwell_s == 2e-3
        assert scan.header.start_time.startswith("2019-06-06T13:30")
        assert scan.header.counting == "thresholded"


def test_empad_scan_shape_is_the_one_that_fits_the_frames(tmp_path: Path) -> None:
    raw = tmp_path / "renamed.raw"
    write_empad(raw, disc_counts(SCAN, (128, 128)))
    describe(raw, counts_per_electron=GAIN)
    with pytest.raises(DataError, match=r"15 frames, and nothing says.*scan_shape"):
        open_4d(raw)
    xml = raw.with_suffix(".xml")
    xml.write_text(XML.format(pix="<pix_x>4</pix_x><pix_y>4</pix_y>", name="x.raw", nx=5, ny=3))
    assert open_4d(raw).scan_shape == (3, 5)
    xml.write_text(XML.format(pix="<pix_x>4</pix_x><pix_y>4</pix_y>", name="x.raw", nx=9, ny=9))
    with pytest.raises(DataError, match="pix_y, pix_x says 4 x 4; scan_parameters acquire says 9"):
        open_4d(raw)


def test_empad_without_a_gain_or_cut_short_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "scan_x5_y3.raw"
    write_empad(raw, disc_counts(SCAN, (128, 128)))
    describe(raw)
    with pytest.raises(DataError, match=r"not whole numbers.*counts_per_electron"):
        open_4d(raw)
    raw.write_bytes(raw.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"14\.98 frames\): it is truncated"):
        open_4d(raw)
    (tmp_path / "alone.xml").write_text(XML.format(pix="", name="gone.raw", nx=5, ny=3))
    with pytest.raises(DataError, match=r"alone\.xml names gone\.raw, which is not beside it"):
        open_4d(tmp_path / "alone.xml")


# --- Merlin --------------------------------------------------------------------------------------


def mib_header(number: int, chips: int, stored: tuple[int, int], kind: str, depth: int) -> bytes:
    length = 384 if chips == 1 else 768
    layout = "   1x1" if chips == 1 else "   2x2"
    text = (
        f"MQ1,{number:06d},{length:05d},{chips:02d},{stored[1]:04d},{stored[0]:04d},{kind},{layout},"
        f"01,2021-04-15 14:43:47.008505401,0.001000,0,0,0,2.000000E+0,"
        + "3RX,011,511," * chips
        + f"MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,{depth},"
    )
    return text.encode().ljust(length, b"\0")


def words_of(row: np.ndarray, depth: int) -> bytes:
    """A row of pixels as the chip sends it: 64-bit words, big-endian, first pixel lowest."""
    bits = {1: 1, 6: 8, 12: 16}[depth]
    per_word = 64 // bits
    out = b""
    for first in range(0, len(row), per_word):
        word = sum(int(v) << (bits * i) for i, v in enumerate(row[first : first + per_word]))
        out += struct.pack(">Q", word)
    return out


def raw_pixels(image: np.ndarray, chips: int, depth: int) -> bytes:
    if depth == 24:
        return raw_pixels(image >> 12, chips, 12) + raw_pixels(image & 0xFFF, chips, 12)
    if chips == 1:
        return b"".join(words_of(row, depth) for row in image)
    n = len(image) // 2
    upper, lower = image[:n], image[n:][::-1, ::-1]  # the lower chips stand on their head
    quarters = (lower[:, :n], lower[:, n:], upper[:, n:], upper[:, :n])
    return b"".join(words_of(chip[row], depth) for row in range(n) for chip in quarters)


def write_mib(
    path: Path, counts: np.ndarray, kind: str, depth: int, chips: int = 1, first: int = 1
) -> None:
    frames = counts.reshape(-1, *counts.shape[2:])
    rows, cols = frames.shape[1:]
    stored = (rows, cols)
    if kind == "R64":
        stored = (rows // 2, 2 * cols) if chips == 4 else (rows, cols * (2 if depth == 24 else 1))
    with path.open("wb") as stream:
        for number, image in enumerate(frames, first):
            stream.write(mib_header(number, chips, stored, kind, depth))
            if kind == "R64":
                stream.write(raw_pixels(image.astype(np.int64), chips, depth))
            else:
                stream.write(image.astype(f">u{int(kind[1:]) // 8}").tobytes())


@pytest.mark.parametrize(
    ("kind", "depth", "chips"),
    [
        ("U08", 6, 1), ("U16", 12, 1), ("U32", 24, 1), ("U16", 12, 4),
        ("R64", 1, 1), ("R64", 6, 1), ("R64", 12, 1), ("R64", 24, 1),
        ("R64", 1, 4), ("R64", 6, 4), ("R64", 12, 4),
    ],
)  # fmt: skip
def test_merlin_images_come_back(tmp_path: Path, kind: str, depth: int, chips: int) -> None:
    shape = (128, 128) if chips == 4 else (16, 64)
    counts = disc_counts(SCAN, shape, mean=0.3 if depth == 1 else 2.0)
    if depth == 1:
        counts = np.minimum(counts, 1)
    if depth == 24:
        counts = counts.astype(np.uint32)
        counts[0, 0, 3, 5] = 70_001
    path = tmp_path / "d.mib"
    write_mib(path, counts, kind, depth, chips)
    describe(path, scan_shape=list(SCAN))
    scan = open_4d(path)
    assert scan.frame_shape == shape
    total = counts.sum(axis=(0, 1))
    np.testing.assert_array_equal(scan.pattern(), total)
    np.testing.assert_array_equal(
        scan.virtual_image(np.arange(total.size).reshape(shape)),
        (counts * np.arange(total.size).reshape(shape)).sum(axis=(2, 3)),
    )
    assert scan.header.dwell_s == 1e-3
    assert scan.header.start_time == "2021-04-15T14:43:47"


def test_merlin_flyback_hdr_and_saturation(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (16, 64), mean=2.0)
    with_flyback = np.concatenate([counts, np.full((3, 2, 16, 64), 9, np.uint16)], axis=1)
    path = tmp_path / "d.mib"
    write_mib(path, with_flyback, "U08", 6)
    describe(path, scan_shape=[3, 5], flyback_frames=2)
    np.testing.assert_array_equal(counts_of(open_4d(path)), counts)
    describe(path, scan_shape=[3, 5])
    with pytest.raises(DataError, match=r"21 frames, but scan_shape \[3, 5\] needs 15.*flyback"):
        open_4d(path)
    describe(path)
    path.with_suffix(".hdr").write_text(
        "HDR,\t\nCounter Depth (number):\t6\nFrames in Acquisition (Number):\t21\n"
        "Frames per Trigger (Number):\t7\nEnd\t"
    )
    assert open_4d(path).scan_shape == (3, 7)
    counts[1, 2, 7, 34] = 63
    write_mib(path, counts, "U08", 6)
    describe(path, scan_shape=[3, 5])
    assert any("1 values reach 63" in text for text in open_4d(path).warnings)


def test_a_merlin_sequence_is_read_by_its_hdr(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (16, 64), mean=2.0)
    flat = counts.reshape(15, 1, 16, 64)
    for name, start, stop in (("s9", 0, 4), ("s10", 4, 11), ("s11", 11, 15)):  # not by name
        write_mib(tmp_path / f"{name}.mib", flat[start:stop], "U16", 12, first=start + 1)
    hdr = tmp_path / "s.hdr"
    hdr.write_text("HDR,\t\nCounter Depth (number):\t12\nEnd\t")
    describe(hdr, scan_shape=[3, 5])
    np.testing.assert_array_equal(counts_of(open_4d(hdr)), counts)
    (tmp_path / "s10.mib").unlink()
    with pytest.raises(DataError, match=r"s11\.mib starts with frame 12, expected 5"):
        open_4d(hdr)
    hdr.rename(tmp_path / "other.hdr")
    with pytest.raises(DataError, match=r"no other\.mib is beside it"):
        open_4d(tmp_path / "other.hdr")


def test_merlin_files_that_are_cut_or_damaged_are_refused(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (16, 64), mean=2.0)
    path = tmp_path / "d.mib"
    write_mib(path, counts, "U16", 12)
    describe(path, scan_shape=[3, 5])
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"is truncated.*cut the file to 34048 bytes.*incomplete"):
        open_4d(path)
    path.write_bytes(whole[:34048])
    with pytest.raises(DataError, match=r"14 frames, but scan_shape \[3, 5\] needs 15.*incomplete"):
        open_4d(path)
    describe(path, scan_shape=[3, 5], incomplete=True)
    scan = open_4d(path)
    assert scan.valid.sum() == 14
    assert any("1 of 15 scan points were never recorded" in text for text in scan.warnings)
    path.write_bytes(whole[:2432] + b"XXXX" + whole[2436:])
    with pytest.raises(DataError, match="has no header: damaged"):
        open_4d(path)
    path.write_bytes(b"no header" * 100)
    with pytest.raises(DataError, match=r"no \.mib file"):
        open_4d(path)
    path.write_bytes(whole.replace(b"U16", b"U64"))
    with pytest.raises(DataError, match="pixels of type U64 with 12 bits are not known"):
        open_4d(path)


# --- DECTRIS -------------------------------------------------------------------------------------


def write_dectris(folder: Path, counts: np.ndarray, mask: np.ndarray) -> Path:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    frames = counts.reshape(-1, *counts.shape[2:]).astype(np.uint32)
    master = folder / "d_master.h5"
    with h5py.File(master, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["saturation_value"] = 8352
        detector["frame_time"] = 1e-4
        specific = detector.create_group("detectorSpecific")
        specific["pixel_mask"] = mask.astype(np.uint32)
        specific["photon_energy"] = 200e3
        specific["ntrigger"], specific["nimages"] = SCAN
        specific["data_collection_date"] = b"2025-05-03T01:51:00.302+02:00"
        data = file.create_group("entry/data")
        for number, part in enumerate(np.array_split(frames, 2), 1):
            name = f"d_data_{number:06d}.h5"
            with h5py.File(folder / name, "w") as block:
                block.create_dataset(
                    "entry/data/data", data=part, chunks=(1, *part.shape[1:]),
                    **hdf5plugin.Bitshuffle(cname="lz4"),
                )  # fmt: skip
            data[f"data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
    return master


def test_dectris_master_reads_linked_files_and_honours_the_mask(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (24, 20)).astype(np.int64)
    mask = np.zeros((24, 20), bool)
    mask[2, 3] = True
    stored = counts.copy()
    stored[:, :, 2, 3] = 2**32 - 1
    stored[1, 1, 5, 6] = 2**32 - 1  # an overflow
    counts[:, :, 2, 3] = 0
    counts[1, 1, 5, 6] = 0
    master = write_dectris(tmp_path, stored, mask)
    describe(master, energy_eV=300e3)
    scan = open_4d(master)
    np.testing.assert_array_equal(counts_of(scan), counts)
    assert scan.scan_shape == SCAN
    assert scan.header.energy_keV == 300.0  # the YAML wins
    assert scan.masked is not None
    assert scan.masked[2, 3]
    assert scan.masked.sum() == 1
    assert any("1 values are the detector's mark" in text for text in scan.warnings)
    first = scan.sha256
    master.with_suffix(".yaml").write_text(
        yaml.safe_dump({k: v for k, v in FIELDS.items() if k != "energy_eV"})
    )
    assert open_4d(master).header.energy_keV == 200.0
    assert open_4d(master).sha256 == first
    block = tmp_path / "d_data_000002.h5"
    whole = block.read_bytes()
    block.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"data_000002 is missing: d_data_000002\.h5.*truncated"):
        open_4d(master)
    block.unlink()
    with pytest.raises(DataError, match=r"data_000002 is missing: d_data_000002\.h5 is not beside"):
        open_4d(master)


def test_dectris_companion_file_gives_shape_and_step(tmp_path: Path) -> None:
    counts = disc_counts((5, 3), (24, 20))
    master = write_dectris(tmp_path, counts, np.zeros((24, 20)))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        said = file.create_group("STEM Metadata").attrs
        said["NumPixelsX"], said["NumPixelsY"] = 3, 5
        said["Pixel Size"], said["IsPixelSizeCalibrated"] = [0.2], [1]
    master.with_suffix(".yaml").write_text(
        yaml.safe_dump({k: v for k, v in FIELDS.items() if k != "scan_step_A"})
    )
    scan = open_4d(master)
    np.testing.assert_array_equal(counts_of(scan), counts)
    assert scan.header.scan_step_A == 2.0


# --- EMD 1.0 -------------------------------------------------------------------------------------


def write_emd(path: Path, counts: np.ndarray, names: tuple[str, ...] = ("cube",)) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["emd_group_type"] = "file"
        file.attrs["version_major"], file.attrs["version_minor"] = 1, 0
        root = file.create_group("root")
        root.attrs["emd_group_type"] = "root"
        for name in names:
            group = root.create_group(name)
            group.attrs["emd_group_type"] = "array"
            group.attrs["python_class"] = "DataCube"
            group["data"] = counts
            for axis, (label, units, step) in enumerate(
                [("Rx", "nm", 0.05), ("Ry", "nm", 0.05), ("Qx", "A^-1", 0.04), ("Qy", "A^-1", 0.04)]
            ):
                group[f"dim{axis}"] = np.array([0.0, step])
                group[f"dim{axis}"].attrs.update({"name": label, "units": units})
        place = root.create_group("metadatabundle/calibration")
        place["R_pixel_size"], place["R_pixel_units"] = 0.07, "nm"
        place["Q_pixel_size"], place["Q_pixel_units"] = 0.05, "A^-1"
        place["convergence_semiangle_mrad"] = 21.0


def test_emd_datacube_brings_its_calibration(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (24, 20))
    path = tmp_path / "d.emd"
    write_emd(path, counts.astype(np.float32))
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"energy_eV": 300e3, "defocus_A": 90.0}))
    scan = open_4d(path)
    np.testing.assert_array_equal(counts_of(scan), counts)
    assert scan.header.scan_step_A == pytest.approx(0.7)
    assert scan.header.convergence_semiangle_mrad == 21.0
    assert scan.header.detector_sampling_mrad == pytest.approx(0.05 * 19.687, rel=1e-4)
    describe(path)
    assert open_4d(path).header.scan_step_A == 1.05  # the YAML wins


def test_numbers_in_the_yaml_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    path = tmp_path / "d.emd"
    write_emd(path, disc_counts(SCAN, (24, 20)))
    path.with_suffix(".yaml").write_text("energy_eV: 300e3\ndefocus_A: 9e1\nsample: 1e3\n")
    scan = open_4d(path)
    assert scan.header.energy_keV == 300.0
    assert scan.header.detector_sampling_mrad == pytest.approx(0.05 * 19.687, rel=1e-4)
    assert scan.header.sample == "1e3"
    path.with_suffix(".yaml").write_text("energy_eV: 300e0\ndefocus_A: 9e1\n")
    with pytest.raises(DataError, match="is it in keV"):
        open_4d(path)


def test_emd_with_several_cubes_asks_which(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (24, 20))
    path = tmp_path / "d.h5"
    write_emd(path, counts, ("a", "b"))
    describe(path)
    with pytest.raises(
        DataError, match=r"holds 2 datacubes.*name one with `dataset: /root/a/data`"
    ):
        open_4d(path)
    describe(path, dataset="/root/b/data")
    np.testing.assert_array_equal(counts_of(open_4d(path)), counts)
    describe(path, dataset="/root/c/data")
    with pytest.raises(DataError, match="names /root/c/data, which is not there"):
        open_4d(path)
    with h5py.File(tmp_path / "v.emd", "w") as file:
        file.create_group("Data/Image/1")
    with pytest.raises(DataError, match="a Velox EMD file, which is not read"):
        open_4d(tmp_path / "v.emd")


# --- all -----------------------------------------------------------------------------------------


ORDERS = (
    "scan_y scan_x det_y det_x",
    "det_y det_x scan_y scan_x",
    "scan_x scan_y det_x det_y",
    "scan_y det_y scan_x det_x",
)


@pytest.mark.parametrize("block_bytes", [1, 2000, 10**9])
@pytest.mark.parametrize("axes", ORDERS)
def test_any_axis_order_streams_in_blocks_of_any_size(
    tmp_path: Path, axes: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "BLOCK_BYTES", block_bytes)
    counts = disc_counts(SCAN, (24, 20))
    canonical = ("scan_y", "scan_x", "det_y", "det_x")
    stored = counts.transpose([canonical.index(axis) for axis in axes.split()])
    np.save(tmp_path / "d.npy", stored)
    describe(tmp_path / "d.npy", axes=axes.split())
    np.testing.assert_array_equal(counts_of(open_4d(tmp_path / "d.npy")), counts)


def test_a_list_of_frames_needs_only_its_scan_shape(tmp_path: Path) -> None:
    counts = disc_counts(SCAN, (24, 20))
    np.save(tmp_path / "d.npy", counts.reshape(15, 24, 20))
    describe(tmp_path / "d.npy", scan_shape=[3, 5])
    np.testing.assert_array_equal(counts_of(open_4d(tmp_path / "d.npy")), counts)
    describe(tmp_path / "d.npy", scan_shape=[3, 4], skip_frames=3)
    np.testing.assert_array_equal(
        counts_of(open_4d(tmp_path / "d.npy")).reshape(12, 24, 20), counts.reshape(15, 24, 20)[3:]
    )


def test_a_large_file_is_streamed_not_loaded(tmp_path: Path) -> None:
    """40 MB of counts, 0.3 MB of electrons: the peak stays far below the dense size."""
    import tracemalloc

    shape = (40, 32, 128, 128)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        cube = file.create_dataset("counts", shape, np.uint16, chunks=(1, 32, 128, 128))
        line = disc_counts((1, 32), (128, 128), mean=0.03)[0]
        for y in range(shape[0]):
            cube[y] = line
        file.attrs.update(FIELDS)
    frames_module.BLOCK_BYTES, kept = 1 << 20, frames_module.BLOCK_BYTES
    try:
        tracemalloc.start()
        scan = open_4d(tmp_path / "d.h5")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        frames_module.BLOCK_BYTES = kept
    assert scan.n_electrons == 40 * int(line.sum())
    assert peak < 0.5 * np.prod(shape) * 2


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]),
    seed=st.integers(0, 99),
)
def test_hits_are_found_in_any_shape_and_type(
    shape: tuple[int, int, int], dtype: type[np.unsignedinteger], seed: int
) -> None:
    frames = np.random.default_rng(seed).poisson(0.2, shape).astype(dtype)
    index, electrons = find_hits(frames)
    np.testing.assert_array_equal(index, np.flatnonzero(frames))
    np.testing.assert_array_equal(electrons, frames.ravel()[index])


def test_truncated_numpy_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", disc_counts(SCAN, (24, 20)))
    describe(tmp_path / "d.npy")
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-50])
    with pytest.raises(DataError, match=r"no readable NumPy array.*truncated"):
        open_4d(tmp_path / "d.npy")
