"""Two results of one specimen are laid over each other, whatever their pixels and fields."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.compare import compare, compare_files
from recon.compare.comparing import largest_rectangle
from recon.compare.stored import Number, StoredResult, load_result
from recon.errors import DataError
from recon.geometry import rotation_matrix
from recon.output import write_outputs
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct

BLOBS = np.random.default_rng(5)
PLACES = BLOBS.uniform(-40, 40, (260, 2))
HEIGHTS = BLOBS.uniform(0.5, 2.0, 260)


def specimen(points_A: np.ndarray) -> np.ndarray:
    """Random columns, 0.45 Å wide, defined everywhere: no lattice, no symmetry."""
    total = np.zeros(points_A.shape[:-1])
    for place, height in zip(PLACES, HEIGHTS, strict=True):
        total += height * np.exp(-((points_A - place) ** 2).sum(-1) / (2 * 0.45**2))
    return total


def seen(
    *, pixel_A: float, steps: tuple[int, int], centre_A: tuple[float, float] = (0.0, 0.0),
    turn_deg: float = 0.0, mirrored: bool = False, scan_turn_deg: float = 12.0,
    noise: float = 0.0, name: str = "a", seed: int = 0,
) -> StoredResult:  # fmt: skip
    """The specimen in a frame turned by ``turn_deg``, (exchanged), about ``centre_A``."""
    shape = (int(steps[0] * 1.0 / pixel_A) + 31, int(steps[1] * 1.0 / pixel_A) + 40)
    centre = (shape[0] / 2 - 1.3, shape[1] / 2 + 0.8)
    points = np.stack(np.indices(shape), axis=-1).astype(float)
    points = (points - np.array(centre)) * pixel_A
    if mirrored:
        points = points[..., ::-1]
    phase = specimen(points @ rotation_matrix(turn_deg).T + np.array(centre_A))
    phase = phase + noise * np.random.default_rng(seed).normal(size=shape)
    return StoredResult(
        name=name, phase=phase, pixel_size_A=pixel_A, centre_px=centre, scan_shape=steps,
        matrix_A=rotation_matrix(scan_turn_deg) * 1.0,
        calibration={"defocus_A": Number(150.0, 3.0, "joint"), "d": Number(1.0, np.nan, "nominal")},
        resolution={"frc_half_A": 1.0, "lattice_limit_A": float("nan")},
        settings={"batch": 128}, header={"sample": "s"}, verdict="fine", source_sha256=name,
        version="1",
    )  # fmt: skip


@pytest.mark.parametrize("turn_deg", [0.0, 0.7, -6.0])
@pytest.mark.parametrize("shift_A", [(0.0, 0.0), (2.13, -3.71)])
def test_shift_and_turn_come_out(turn_deg: float, shift_A: tuple[float, float]) -> None:
    """Other pixels, another field, another scan rotation, a turn and a shift: the same specimen."""
    first = seen(pixel_A=0.31, steps=(30, 36))
    second = seen(
        pixel_A=0.43, steps=(27, 25), centre_A=shift_A, turn_deg=turn_deg, scan_turn_deg=-20.0
    )
    result = compare(first, second)
    assert result.placement.shift_A == pytest.approx(shift_A, abs=0.02)
    assert result.placement.turn_deg == pytest.approx(turn_deg, abs=0.05)
    assert not result.placement.mirrored
    assert result.pixel_size_A == 0.43
    assert result.correlation > 0.995
    assert result.gain == pytest.approx(1.0, abs=0.02)
    assert result.frc.resolution_A(0.5) < 1.0


def test_large_turns_and_mirrors_are_found_and_said() -> None:
    first = seen(pixel_A=0.4, steps=(30, 36))
    second = seen(pixel_A=0.4, steps=(30, 30), centre_A=(1.5, -0.8), turn_deg=118.0, mirrored=True)
    result = compare(first, second)
    assert result.placement.mirrored
    assert result.placement.turn_deg == pytest.approx(118.0, abs=0.1)
    assert result.correlation > 0.99
    assert any("turned or mirrored to match" in text for text in result.warnings)


def test_noise_lowers_correlation_and_resolution_but_moves_nothing() -> None:
    first = seen(pixel_A=0.4, steps=(30, 36), noise=0.2, seed=1)
    second = seen(pixel_A=0.4, steps=(30, 36), centre_A=(0.37, 0.21), noise=0.2, seed=2)
    result = compare(first, second)
    assert result.placement.shift_A == pytest.approx((0.37, 0.21), abs=0.05)
    assert 0.4 < result.correlation < 0.95
    assert result.frc.resolution_A(0.5) > 1.0


def test_two_lattices_a_period_apart_are_laid_over_the_short_way() -> None:
    first = seen(pixel_A=0.4, steps=(40, 40))
    row, col = np.indices(first.phase.shape) * 0.4
    lattice = np.cos(2 * np.pi * row / 5.0) + np.cos(2 * np.pi * (col + 0.3 * row) / 6.0)
    moved = np.cos(2 * np.pi * (row - 1.0) / 5.0) + np.cos(
        2 * np.pi * (col + 0.3 * (row - 1.0)) / 6.0
    )
    result = compare(replace(first, phase=lattice), replace(first, phase=moved))
    assert np.hypot(*result.placement.shift_A) < 2.5
    assert result.correlation > 0.99


def test_what_is_not_the_same_place_is_said() -> None:
    first = seen(pixel_A=0.4, steps=(32, 32))
    noise = np.random.default_rng(1).normal(size=first.phase.shape)
    result = compare(first, replace(first, phase=noise, name="b"))
    assert any("may show different places" in text for text in result.warnings)
    with pytest.raises(DataError, match=r"share a field of .* at least 24 x 24"):
        compare(first, seen(pixel_A=0.4, steps=(8, 8)))


def test_differences_are_given_in_sigmas_and_settings_that_differ_are_listed() -> None:
    first = seen(pixel_A=0.4, steps=(30, 30))
    other = first.calibration | {"defocus_A": Number(170.0, 4.0, "joint")}
    second = replace(first, name="b", calibration=other, settings={"batch": 64, "new": 1})
    result = compare(first, second)
    rows = {row["name"]: row for row in result.calibration_rows()}
    assert rows["defocus_A"]["sigmas"] == pytest.approx(4.0)
    assert rows["d"]["sigmas"] is None
    assert [(r["name"], r["first"], r["second"]) for r in result.setting_rows()] == [
        ("batch", 128, 64), ("new", None, 1)
    ]  # fmt: skip
    assert (
        "1 calibrated numbers are more than three sigmas apart, most defocus_A" in result.verdict()
    )
    assert json.dumps(result.summary(), allow_nan=False)


def test_the_largest_rectangle_is_the_largest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((7, 9)) < 0.75
        rows, cols = largest_rectangle(mask)
        area = (rows.stop - rows.start) * (cols.stop - cols.start)
        assert mask[rows, cols].all()
        best = max(
            (b - t) * (r - x)
            for t in range(7) for b in range(t, 8) for x in range(9) for r in range(x, 10)
            if mask[t:b, x:r].all()
        )  # fmt: skip
        assert area == best


def test_result_folders_are_compared_and_written(turned: Any, tmp_path: Path) -> None:
    """From files: two doses of one specimen, tilt-corrected bright field."""
    params = ReconstructionParams(engine="parallax")
    for name, dose in (("low", 300), ("high", 1000)):
        write_outputs(reconstruct(turned.counted(dose, seed=dose), params), tmp_path / name)
    out = tmp_path / "both"
    summary = compare_files(tmp_path / "low", tmp_path / "high" / "reconstruction.h5", out)
    assert summary["correlation"] > 0.5
    assert np.hypot(*summary["shift_A"]) < 0.5
    names = [row["name"] for row in summary["calibration"]]
    assert {"defocus_A", "rotation_deg", "tilt_mrad[0]", "affine[3]"} <= set(names)
    assert {row["name"] for row in summary["settings"]} == {"fluence_e_per_A2"}
    page = (out / "comparison.html").read_text()
    assert "defocus_A" in page
    assert "data:image/png;base64," in page
    assert json.loads((out / "comparison.json").read_text())["correlation"] > 0.5
    with pytest.raises(DataError, match="nothing was overwritten"):
        compare_files(tmp_path / "low", tmp_path / "high", out)
    same = compare_files(tmp_path / "low", tmp_path / "low", tmp_path / "same")
    assert same["correlation"] == pytest.approx(1.0, abs=1e-6)
    whole = (tmp_path / "low" / "reconstruction.h5").read_bytes()
    (tmp_path / "low" / "reconstruction.h5").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match="no whole result"):
        load_result(tmp_path / "low")
    with pytest.raises(DataError, match=r"holds no reconstruction\.h5"):
        load_result(tmp_path)
