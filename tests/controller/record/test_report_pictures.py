"""What the report draws lies where the conventions say."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.clock import VirtualClock
from controller.hardware.values import Calibration, Purpose, StagePose
from controller.perception.view import View
from controller.record.report import build_report
from controller.record.report.charts import Curve, duration, line_plot
from controller.record.report.ledger import read_map
from controller.record.report.patterns import laue_ellipse, wavenumber_inv_A
from controller.record.report.pictures import EMBEDDED_PX, Album, round_length, safe_name
from controller.record.report.scans import Phase
from controller.record.report.survey import Tile, stitch
from controller.record.report.true_scan import TrueScan, correlation, read_true_scan
from controller.record.report.truth import read_truth
from controller.safety.dose import DoseLedger
from controller.safety.footprint import Footprint
from controller.safety.limits import DoseLimits

degrees = st.floats(-180, 180)


def test_the_wavenumber_is_that_of_the_textbooks() -> None:
    assert 1 / wavenumber_inv_A(300) == pytest.approx(0.0196875, rel=1e-5)
    assert 1 / wavenumber_inv_A(200) == pytest.approx(0.0250793, rel=1e-5)


@given(off_deg=st.floats(0.05, 15), azimuth=degrees, around=degrees)
def test_every_point_of_the_drawn_ellipse_is_an_excited_direction_of_the_zone_plane(
    off_deg: float, azimuth: float, around: float
) -> None:
    """On it g is perpendicular to the zone axis and k0 + g lies on the Ewald sphere."""
    K, inv_A_per_px = 50.8, 0.0127
    angle = math.radians(off_deg)
    t = 1e3 * angle * np.array([math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))])
    x, y, along, across, turn = laue_ellipse((t[0], t[1]), (0.0, 0.0), K, inv_A_per_px)
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    u, v = along * math.cos(math.radians(around)), across * math.sin(math.radians(around))
    g = np.array([x + c * u - s * v, y + s * u + c * v, 0.0]) * inv_A_per_px
    zone = np.array([*(math.sin(angle) * t / np.hypot(*t)), math.cos(angle)])
    g[2] = -(zone[:2] @ g[:2]) / zone[2]
    assert np.linalg.norm(np.array([0, 0, K]) + g) == pytest.approx(K, rel=1e-9)
    assert math.hypot(x, y) == pytest.approx(along)


@given(rotation=degrees, mirrored=st.booleans(), x=st.floats(-2, 2), y=st.floats(-2, 2))
def test_a_stage_position_is_marked_where_the_camera_saw_it(
    rotation: float, mirrored: bool, x: float, y: float
) -> None:
    calibration = Calibration(image_rotation_deg=rotation, image_mirrored=mirrored)
    pose = StagePose(x_um=0.7, y_um=-1.1, z_um=0, alpha_deg=0, beta_deg=0)
    tile = Tile("one", np.ones((113, 97)), pose, 10.0)
    mosaic = stitch([tile], calibration)
    assert mosaic is not None
    expected = View((113, 97), 10.0, calibration, pose).pixel(x, y)
    assert mosaic.pixel(x, y) == pytest.approx(expected, abs=1.01)


def test_tiles_lie_beside_each_other_as_the_stage_moved() -> None:
    calibration = Calibration(image_rotation_deg=0)
    poses = [StagePose(x_um=x, y_um=0, z_um=0, alpha_deg=0, beta_deg=0) for x in (0.0, 0.5)]
    left = np.ones((31, 61))
    right = np.ones((31, 61))
    left[15, 55] = right[15, 5] = 5.0  # the same speck, seen from two places 50 pixels apart
    mosaic = stitch([Tile("a", left, poses[0], 10), Tile("b", right, poses[1], 10)], calibration)
    assert mosaic is not None
    assert mosaic.values.shape == (31, 111)
    assert np.argwhere(mosaic.values == 5.0).tolist() == [[15, 55]]


def test_a_large_picture_is_embedded_in_pieces_of_the_allowed_size(tmp_path: Path) -> None:
    picture = Album(tmp_path).keep("big", np.zeros((500, 1100), np.uint8), pieces=3)
    assert len(picture.parts) == 6
    assert (tmp_path / picture.file).is_file()
    covered = np.zeros((500, 1100), bool)
    for part in picture.parts:
        assert max(part.width, part.height) <= EMBEDDED_PX + 1
        covered[part.top : part.top + part.height, part.left : part.left + part.width] = True
    assert covered.all()


@given(st.text(max_size=200))
def test_file_names_of_pictures_never_leave_their_folder(name: str) -> None:
    assert safe_name(name)
    assert set(safe_name(name)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    )


@given(st.floats(1e-6, 1e6))
def test_scale_bars_have_round_lengths(length: float) -> None:
    found = round_length(length)
    assert length / 2.5001 <= found <= length * 1.0001
    assert f"{found:.6e}"[0] in "125"


def test_plots_survive_flat_and_empty_curves() -> None:
    empty = np.array([np.nan, np.nan])
    for y in (np.ones(3), np.array([np.nan, 1.0, 2.0])):
        line_plot([Curve("a", np.arange(3.0), y)], x_label="x", y_label="y")
    line_plot([Curve("a", empty, empty)], x_label="x", y_label="y")


def test_durations_read_as_a_person_says_them() -> None:
    assert [duration(s) for s in (1.25, 42, 75, 7512)] == [
        "1.2 s",
        "42 s",
        "1 min 15 s",
        "2 h 05 min",
    ]


def booked(path: Path) -> DoseLedger:
    limits = DoseLimits(specimen_e_per_A2=200, before_scan_e_per_A2=1, data_e_per_A2=200)
    ledger = DoseLedger(path, limits, VirtualClock())
    for number, (x_um, purpose, fluence) in enumerate(
        [(0.0, Purpose.ALIGN, 0.03), (0.25, Purpose.DATA, 120.0), (3.0, Purpose.TRACK, 0.01)]
    ):
        footprint = Footprint(x_um=x_um, y_um=-0.4, radius_nm=300.0)
        name = UUID(int=number + 1)
        ledger.reserve(
            exposure_id=name,
            area="T01",
            purpose=purpose,
            footprint=footprint,
            fluence_e_per_A2=fluence,
        )
        if number < 2:
            ledger.opening(name)
            ledger.settle(name, fluence * 0.9, "")
        else:
            ledger.release(name, "")
    return ledger


def test_the_map_of_the_report_is_the_map_of_the_ledger(tmp_path: Path) -> None:
    with booked(tmp_path / "ledger.sqlite") as ledger:
        mine = read_map(tmp_path / "ledger.sqlite")
        theirs = ledger.map()
    assert mine is not None
    assert mine.extent_um == theirs.extent_um
    np.testing.assert_array_equal(mine.total_e_per_A2, theirs.total_e_per_A2)


def test_reading_the_ledger_changes_nothing_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    booked(path).close()
    before = path.read_bytes()
    read_map(path)
    assert path.read_bytes() == before
    with pytest.raises(sqlite3.Error):
        read_map(tmp_path / "none.sqlite")


def write_truth(path: Path, exposure_ids: list[str], fluence: np.ndarray | None = None) -> None:
    with h5py.File(path, "w") as file:
        for name in ("K00", "K01"):
            group = file.create_group(f"crystals/{name}")
            group.attrs["structure"] = "uio-66"
            group.attrs["class"] = "usable"
            group.attrs["fluence_e_per_A2"] = 118.0
        numbers = np.arange(float(len(exposure_ids)))[:, None] + 7
        rows = file.create_dataset("exposures", data=numbers)
        rows.attrs["columns"] = "number"
        rows.attrs["exposure_id"] = json.dumps(exposure_ids)
        lit = [[n + 7.0, 1, 0.8, 31.0, 3.5 - n, 0, 0, 1] for n in range(len(exposure_ids))]
        lit += [[n + 7.0, 0, 0.1, 12.0, 9.0, 0, 0, 1] for n in range(len(exposure_ids))]
        table = file.create_dataset("exposures_crystals", data=np.reshape(lit, (-1, 8)))
        table.attrs["columns"] = "number crystal share thickness_nm misorientation_deg u v w"
        if fluence is not None:
            file["fluence_e_per_A2"] = fluence
            file["fluence_e_per_A2"].attrs["half_um"] = 2.0


def test_truth_is_that_of_the_crystal_that_the_beam_lit_most(tmp_path: Path) -> None:
    write_truth(tmp_path / "truth.h5", ["a", "b"])
    truth = read_truth(tmp_path / "truth.h5").of_target("a", "b")
    assert (truth.crystal, truth.before_deg, truth.after_deg) == ("K01", 3.5, 2.5)


def test_truth_stands_in_the_report_marked_as_such(a_night: Any) -> None:
    night = a_night
    with h5py.File(min((night.folder / "frames").glob("*pattern*")), "r") as file:
        first = json.loads(file["data"].attrs["header"])["exposure_id"]
    write_truth(night.folder / "truth.h5", [first])
    result = build_report(night.folder)
    target = result.data["targets"][0]
    assert target["misorientation_before_true_deg"] == 3.5
    assert target["misorientation_after_true_deg"] is None
    assert target["truth"]["crystal"] == "K01"
    assert "Truth, from the simulator: crystal K01" in result.html.read_text(encoding="utf-8")


@pytest.mark.parametrize(("factor", "below"), [(0.5, 0), (1.5, None)])
def test_charged_is_compared_with_true_cell_by_cell(
    tmp_path: Path, factor: float, below: int | None
) -> None:
    booked(tmp_path / "ledger.sqlite").close()
    charged = read_map(tmp_path / "ledger.sqlite")
    assert charged is not None
    side = round(4.0 / (charged.cell_nm / 1000))
    total = np.zeros((side, side))
    left = round((charged.extent_um[0] + 2.0) / (charged.cell_nm / 1000))
    top = round((charged.extent_um[2] + 2.0) / (charged.cell_nm / 1000))
    rows, cols = np.nonzero(charged.total_e_per_A2)
    total[rows + top, cols + left] = charged.total_e_per_A2[rows, cols]
    write_truth(tmp_path / "truth.h5", [], total * factor)
    check = read_truth(tmp_path / "truth.h5").dose_check(charged)
    assert check is not None
    assert check["cells"] == len(rows)
    assert check["cells_below"] == (len(rows) if below is None else below)
    assert check["median_ratio"] == pytest.approx(1 / factor)


def lattice(rows_A: np.ndarray, cols_A: np.ndarray) -> np.ndarray:
    return np.cos(2 * np.pi * rows_A / 9.1)[:, None] * np.cos(2 * np.pi * cols_A / 7.7)[None, :]


def test_the_true_phase_lies_on_the_pixels_of_the_reconstruction() -> None:
    """Two samplings of one object, each about the centre of the scan, agree where they overlap."""
    fine = lattice((np.arange(401) - 190) * 0.2, (np.arange(377) - 200) * 0.25)
    true = TrueScan(fine.astype(np.float32), (0.2, 0.25), (190, 200), 12.0, 30.0)
    coarse = lattice((np.arange(90) - 40.5) * 0.5, (np.arange(101) - 47.0) * 0.5)
    phase = Phase(coarse.astype(np.float32), 0.5, (40.5, 47.0))
    size_A = (31.0, 27.0)
    np.testing.assert_allclose(
        true.on_pixels_of(phase, size_A), phase.field_of(size_A), rtol=0, atol=0.02
    )
    assert correlation(phase, true, size_A) == pytest.approx(1, abs=1e-3)


def test_a_scan_that_the_truth_does_not_know_has_none(tmp_path: Path) -> None:
    write_truth(tmp_path / "truth.h5", [])
    assert read_true_scan(tmp_path / "truth.h5", "../crystals/K00") is None
    assert read_true_scan(tmp_path / "nothing.h5", "a") is None
