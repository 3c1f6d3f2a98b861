from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from controller.hardware.clock import VirtualClock, WallClock
from controller.hardware.errors import (
    ArmFailedError,
    LimitError,
    ModeError,
    UnsupportedError,
)
from controller.hardware.values import Axis, Mode, OpticsChange, Scan
from sim_microscope.adapter import open_adapter
from sim_microscope.options import PacedClock
from tests.sim_microscope.conftest import Bench

OpenBench = Callable[..., Bench]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colour": "red"}, "option 'colour' is unknown to the simulator; it takes scenario"),
        ({"seed": -1}, "seed = -1 is not a whole number from 0"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"speed": 0}, "speed = 0 is not a positive number"),
        ({"realtime": "yes"}, "realtime = 'yes' is neither true nor false"),
        ({"scenario": 3}, "give a name or the path of a YAML file"),
        ({"scenario": "nowhere"}, "no scenario is called 'nowhere'"),
        ({"faults": ("gremlin@1",)}, "no fault is called 'gremlin'"),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        open_adapter(options)  # type: ignore[arg-type]


def night(open_bench: OpenBench, seed: int = 3) -> list[np.ndarray]:
    bench = open_bench("typical", seed)
    found = [bench.frame()]
    bench.go(x_um=2.0, alpha_deg=5.0)
    found.append(bench.frame("camera", 0.2))
    bench.adapter.write_optics(OpticsChange(mode=Mode.STEM))
    found.append(bench.scan(Scan(shape=(2, 3), step_A=10.0, dwell_s=1e-3)))
    pose = bench.adapter.read_pose()
    found.append(
        np.array([pose.x_um, pose.alpha_deg, bench.adapter.read_optics().probe_current_pA])
    )
    return found


def test_the_same_seed_gives_the_same_night_and_another_seed_another(open_bench: OpenBench) -> None:
    first, again, other = night(open_bench), night(open_bench), night(open_bench, 4)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_a_blanked_beam_gives_dark_frames_on_every_detector(bench: Bench) -> None:
    adapter = bench.adapter
    info = adapter.capabilities.detector("camera")
    assert np.median(bench.dark()) == pytest.approx(info.offset, abs=2)
    assert np.median(bench.frame()) > info.offset + 20
    for mode, name in ((Mode.DIFFRACTION, "diffraction"), (Mode.STEM, "scan4d")):
        adapter.write_optics(OpticsChange(mode=mode))
        dark = bench.dark(name, 0.05).copy()
        dark[tuple(np.transpose(adapter.capabilities.detector(name).bad_pixels))] = 0
        assert dark.sum() == 0


def test_scan_frames_after_blanking_are_dark(bench: Bench) -> None:
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.STEM))
    bench.go(x_um=40.0)
    scan = Scan(shape=(8, 32), step_A=10.0, dwell_s=1e-3)
    adapter.arm(bench.job("scan4d", scan.dwell_s, scan))
    adapter.open_beam()
    sums = []
    for batch in adapter.stream(60.0):
        sums += batch.data[:, 24:40, 24:40].sum(axis=(1, 2)).tolist()
        if len(sums) == 64:
            adapter.blank_beam()
    assert min(sums[1:64]) > 1000
    assert max(sums[66:]) < 50


def test_counts_agree_with_the_current(bench: Bench) -> None:
    adapter = bench.adapter
    adapter.write_optics(OpticsChange(mode=Mode.STEM, probe_current_pA=0.1))
    bench.go(x_um=40.0)
    frames = bench.scan(Scan(shape=(4, 16), step_A=10.0, dwell_s=1e-3)).astype(float)
    frames[:, *np.transpose(adapter.capabilities.detector("scan4d").bad_pixels)] = 0
    assert frames.sum(axis=(1, 2))[1:].mean() == pytest.approx(624, rel=0.1)


def test_a_picture_shows_the_crystal_where_calibration_and_tilt_put_it(
    open_bench: OpenBench,
) -> None:
    """Predict the pixel of a crystal with the stored calibration alone; miss it by its errors."""
    bench = open_bench("easy", 3)
    adapter = bench.adapter
    crystal = max(adapter.truth.specimen.crystals, key=lambda c: c.thickness_nm)
    adapter.write_optics(OpticsChange(probe_current_pA=60.0))
    bench.go(alpha_deg=12.0, beta_deg=-8.0)
    x, y = crystal.centre_um
    bench.go(x_um=x + 0.4, y_um=y - 0.3)
    image = bench.frame("camera", 0.5).astype(float)

    a, b = np.deg2rad(12.0), np.deg2rad(-8.0)
    seen = np.array([-0.4 * np.cos(b), -0.4 * np.sin(a) * np.sin(b) + 0.3 * np.cos(a)])
    rho = np.deg2rad(adapter.calibration.image_rotation_deg)
    turn = np.array([[np.cos(rho), -np.sin(rho)], [np.sin(rho), np.cos(rho)]])
    column, row = turn.T @ seen / 0.010 + 256

    from scipy import ndimage

    smooth = ndimage.gaussian_filter(image, 3)
    level = np.median(smooth)
    labels, _ = ndimage.label(smooth < 0.9 * level)
    centres = ndimage.center_of_mass(smooth < 0.9 * level, labels, np.arange(1, labels.max() + 1))
    distance = min(np.hypot(r - row, c - column) for r, c in centres)
    assert distance < 15


def test_a_target_outside_the_holder_is_refused_and_nothing_moves(bench: Bench) -> None:
    with pytest.raises(LimitError, match=r"alpha_deg = 60 is outside the holder.s -30 .. 30"):
        bench.adapter.start_move(Axis.ALPHA, 60.0)
    bench.adapter.clock.sleep(10.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(0.0, abs=0.05)
    with pytest.raises(LimitError, match="nan"):
        bench.adapter.start_move(Axis.X, float("nan"))


def test_arming_what_cannot_work_is_refused(bench: Bench) -> None:
    adapter = bench.adapter
    with pytest.raises(UnsupportedError, match="no detector 'eels'; there are camera"):
        adapter.arm(bench.job("eels", 0.1))
    with pytest.raises(ModeError, match="diffraction works in mode diffraction"):
        adapter.arm(bench.job("diffraction", 0.1))
    with pytest.raises(LimitError, match="a frame of 1000 s is outside"):
        adapter.arm(bench.job("camera", 1000.0))
    with pytest.raises(UnsupportedError, match="camera cannot scan"):
        adapter.arm(bench.job("camera", 0.1, Scan(shape=(2, 2), step_A=1, dwell_s=0.1)))
    with pytest.raises(ArmFailedError, match="no frame is armed"):
        adapter.collect(1.0)


def test_health_and_blanking_do_not_wait_for_an_exposure(open_bench: OpenBench) -> None:
    """A thread that stops the night gets through while another waits for a frame."""
    bench = open_bench()
    adapter = bench.adapter
    clock = adapter.clock
    assert isinstance(clock, VirtualClock)
    seen: list[object] = []

    ready = threading.Event()

    def stopper() -> None:
        with clock.participant():
            ready.set()
            clock.sleep(2.0)
            seen.append(adapter.read_health().valve_open.condition.value)
            adapter.blank_beam()

    thread = threading.Thread(target=stopper)
    with clock.participant():
        adapter.arm(bench.job("camera", 10.0))
        adapter.open_beam()
        thread.start()
        assert ready.wait(10.0)
        adapter.collect(60.0)
    thread.join(10.0)
    assert seen == ["good"]
    electrons = adapter.truth.exposures[-1].electrons
    assert electrons == pytest.approx(5.0 * 6.2415e6 * 2.0, rel=0.03)


def test_aborting_ends_the_wait_without_a_frame(bench: Bench) -> None:
    adapter = bench.adapter
    adapter.arm(bench.job("camera", 1.0))
    adapter.open_beam()
    adapter.abort()
    adapter.abort()
    with pytest.raises(ArmFailedError):
        adapter.collect(5.0)
    adapter.blank_beam()
    bench.frame()


def test_the_truth_is_written_at_the_end_and_on_demand(tmp_path: Path) -> None:
    adapter = open_adapter({"scenario": "easy", "seed": 3}, run_dir=tmp_path)
    bench = Bench(adapter)
    bench.frame()
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION))
    x, y = adapter.truth.specimen.crystals[0].centre_um
    bench.go(x_um=x, y_um=y)
    bench.frame("diffraction", 0.1)
    adapter.write_optics(OpticsChange(mode=Mode.STEM))
    bench.scan(Scan(shape=(1, 2), step_A=10.0, dwell_s=1e-3))
    adapter.close()
    adapter.close()
    with h5py.File(tmp_path / "truth.h5") as file:
        assert len(file["crystals"]) == 6
        crystal = file["crystals/K00"]
        assert crystal.attrs["class"] == "usable"
        assert crystal["zones"].shape == (5, 6)
        assert crystal["outline_um"].shape[1] == 2
        assert file["exposures"].shape == (3, 15)
        assert file["exposures_crystals"].shape[1] == 10
        assert file["exposures_crystals"][0, 1] == 0
        assert len(file["scans"]) == 1
        scan = next(iter(file["scans"].values()))
        assert scan["positions_A"].shape == (2, 2)
        assert scan["phase_rad"].ndim == 2
        fluence = file["fluence_e_per_A2"]
        total = fluence[:].sum() * (1e4 * fluence.attrs["cell_um"]) ** 2
        assert total > 0.98 * adapter.truth.dose.electrons()
        assert fluence[:].max() >= 0.99 * adapter.truth.fluence_at(*adapter.true_beam_um())


def test_without_a_run_folder_nothing_is_written(tmp_path: Path) -> None:
    open_adapter({"scenario": "easy"}).close()
    assert list(tmp_path.iterdir()) == []


def test_a_paced_clock_runs_faster_than_the_wall() -> None:
    adapter = open_adapter({"scenario": "easy", "realtime": True, "speed": 1000.0})
    assert isinstance(adapter.clock, PacedClock)
    wall = WallClock()
    began = wall.now_s()
    adapter.clock.sleep(20.0)
    assert wall.now_s() - began < 1.0
    adapter.close()
