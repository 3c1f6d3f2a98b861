from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.hardware.values import Mode, OpticsChange
from tests.sim_microscope.conftest import Bench


def on_crystal(bench: Bench, alpha_off: float, beta_off: float) -> None:
    """Lay a crystal under a narrow beam, this far from its zone in alpha and beta."""
    adapter = bench.adapter
    adapter.write_optics(
        OpticsChange(
            mode=Mode.DIFFRACTION,
            beam_diameter_nm=150.0,
            detector_sampling_mrad=0.2,
            probe_current_pA=0.02,
        )
    )
    crystal = adapter.truth.specimen.crystals[0]
    _, _, alpha, beta = crystal.nearest_zones()[0]
    bench.go(alpha_deg=alpha + alpha_off, beta_deg=beta + beta_off)
    for _ in range(2):
        read, here = adapter.read_pose(), adapter.true_beam_um()
        x, y = crystal.centre_um
        bench.go(x_um=read.x_um + x - here[0], y_um=read.y_um + y - here[1])


def laue_tilt_mrad(bench: Bench, counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """Tilt by the closed form c = 1/2 (sum I g g')^-1 sum I g² g, on the true angular scale."""
    true = bench.adapter.truth.optics
    rows, columns = np.indices(counts.shape)
    middle = counts.shape[0] // 2
    g = (
        0.2
        * true.camera_constant_factor
        * np.stack(
            [
                columns - middle - true.direct_beam_px[1],
                rows - middle - true.direct_beam_px[0],
            ]
        )
    )
    r = np.hypot(*g)
    weight = np.where((r > 1.2) & (r < 18), np.maximum(counts.astype(float) - 3, 0), 0)
    a = np.einsum("irc,jrc,rc->ij", g, g, weight)
    b = np.einsum("irc,rc->i", g, weight * r**2)
    return np.asarray(0.5 * np.linalg.solve(a, b))


@pytest.fixture
def mirrored(tmp_path: Path) -> str:
    """A scenario whose diffraction camera shows the column reflected."""
    path = tmp_path / "mirrored.yaml"
    path.write_text(
        "specimen: {contamination: 0, field_um: 4, film: {kind: none}, crystals: "
        "[{count: 2, thickness_nm: [25, 35], misorientation_deg: [1, 3]}]}\n"
        "optics: {diffraction_mirrored: true, tilt_axis_azimuth_deg: 25}\n"
    )
    return str(path)


@pytest.mark.parametrize("mirror", [False, True])
def test_the_laue_circle_lies_where_the_truth_says(
    mirror: bool, mirrored: str, open_bench: Callable[..., Bench]
) -> None:
    """The tilt read off the pattern is that of the zone axis, in sense and direction.

    The closed form is biased towards zero, for strong reflections sit at low angles.
    """
    bench = open_bench(scenario=mirrored) if mirror else open_bench()
    on_crystal(bench, 0.45, -0.3)
    counts = bench.frame("diffraction", 2.0)
    lit = bench.adapter.truth.exposures[-1].disc
    assert lit is not None
    truth = np.array(lit.crystals[0].tilt_mrad)
    assert 6 < np.hypot(*truth) < 13
    found = laue_tilt_mrad(bench, counts)
    turned = np.arctan2(truth[0] * found[1] - truth[1] * found[0], truth @ found)
    assert abs(np.rad2deg(turned)) < 12
    assert 0.4 < np.hypot(*found) / np.hypot(*truth) < 1.1


def test_beam_tilt_shifts_the_laue_circle_like_the_specimen(bench: Bench) -> None:
    on_crystal(bench, 0.0, 0.0)
    bench.adapter.write_optics(OpticsChange(beam_tilt_mrad=(0.0, 8.0)))
    bench.frame("diffraction", 0.1)
    disc = bench.adapter.truth.exposures[-1].disc
    assert disc is not None
    to_detector = np.linalg.inv(bench.adapter._world.optics.column_from_detector())
    expected = to_detector @ [0.0, -8.0]
    np.testing.assert_allclose(disc.crystals[0].tilt_mrad, expected, atol=5.0)
    assert np.dot(disc.crystals[0].tilt_mrad, expected) > 0


def test_without_a_crystal_only_the_direct_beam_is_left(bench: Bench) -> None:
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION, probe_current_pA=0.02))
    bench.go(x_um=60.0, y_um=40.0)
    counts = bench.frame("diffraction", 0.5).astype(float)
    dr, dc = adapter.truth.optics.direct_beam_px
    row, column = round(128 + dr), round(128 + dc)
    direct = counts[row - 4 : row + 5, column - 4 : column + 5].sum()
    assert direct > 0.85 * counts.sum()
    assert adapter.truth.exposures[-1].disc is not None
    assert adapter.truth.exposures[-1].disc.crystals == []


def test_reflections_fade_with_the_dose_and_more_so_at_high_order(bench: Bench) -> None:
    on_crystal(bench, 0.0, 0.0)

    def rings() -> tuple[float, float]:
        counts = bench.frame("diffraction", 1.0).astype(float)
        rows, columns = np.indices(counts.shape)
        dr, dc = bench.adapter.truth.optics.direct_beam_px
        r = 0.2 * np.hypot(rows - 128 - dr, columns - 128 - dc)
        bragg = np.maximum(counts - np.median(counts) - 3, 0)
        return float(bragg[(r > 1) & (r < 6)].sum()), float(bragg[(r > 10) & (r < 20)].sum())

    low, high = rings()
    bench.adapter.write_optics(OpticsChange(probe_current_pA=20.0))
    bench.adapter.open_beam()
    bench.adapter.clock.sleep(4.0)
    bench.adapter.blank_beam()
    bench.adapter.write_optics(OpticsChange(probe_current_pA=0.02))
    assert bench.adapter.truth.fluence_at(*bench.adapter.true_beam_um()) > 150
    low_after, high_after = rings()
    assert low_after < low
    assert high_after / high < 0.9 * low_after / low


def test_electrons_on_the_detector_are_those_of_the_current(bench: Bench) -> None:
    on_crystal(bench, 0.5, 0.5)
    counts = bench.frame("diffraction", 0.5).astype(float)
    sent = bench.adapter.truth.exposures[-1].electrons
    info = bench.adapter.capabilities.detector("diffraction")
    counts[tuple(np.transpose(info.bad_pixels))] = 0
    assert sent == pytest.approx(0.02 * 6.2415e6 * 0.5, rel=0.03)
    assert 0.9 * sent < counts.sum() < sent
