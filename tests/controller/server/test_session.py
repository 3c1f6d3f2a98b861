"""A session composes adapter, ledger, gate and scan files, and leaves the beam blanked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest

from controller.backends.registry import OptionValue, UnknownAdapterError
from controller.hardware.clock import Clock
from controller.hardware.errors import (
    AlreadyExposedError,
    DiskFullError,
    LimitError,
    StorageError,
    WriteFailedError,
)
from controller.hardware.values import (
    Axis,
    Exposure,
    Mode,
    OpticsChange,
    Purpose,
    Scan,
    ScanReceipt,
    StageLimits,
)
from controller.safety.limits import DoseLimits
from controller.server import session as sessions
from controller.server.session import Session, open_session
from recon.dataset import open_scan, sha256_of
from tests.conformance.fake_adapter import FakeAdapter

SPACE = UUID("5b0a1f54-0000-5000-8000-00000000cafe")
LIMITS = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)


class Factory:
    """Stands in for the registry; keeps the adapters it opened."""

    def __init__(self) -> None:
        self.opened: list[FakeAdapter] = []

    def __call__(self, name: str) -> Factory:
        if name != "fake":
            raise UnknownAdapterError(f"no instrument driver called {name!r}")
        return self

    def open(
        self,
        options: Mapping[str, OptionValue],
        *,
        clock: Clock | None = None,
        run_dir: Path | None = None,
    ) -> FakeAdapter:
        self.opened.append(FakeAdapter())
        return self.opened[-1]


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    made = Factory()
    monkeypatch.setattr(sessions, "load_adapter_factory", lambda name: made(name).open)
    return made


def open_fake(run_dir: Path, **changes: object) -> Session:
    return open_session("fake", {}, run_dir=run_dir, dose_limits=LIMITS, **changes)


def raster(session: Session, n: int = 1) -> Exposure:
    session.microscope.optics.apply(
        OpticsChange(
            mode=Mode.STEM,
            beam_diameter_nm=5.0,
            convergence_semiangle_mrad=10.0,
            defocus_nm=40.0,
            probe_current_pA=1.0,
        )
    )
    scan = Scan(shape=(5, 7), step_A=20, dwell_s=1e-3)
    return Exposure(
        exposure_id=uuid5(SPACE, str(n)),
        area="T07",
        purpose=Purpose.DATA,
        detector="pixels",
        duration_s=scan.duration_s,
        scan=scan,
    )


def test_a_session_closes_blanked_whatever_happens(tmp_path: Path, factory: Factory) -> None:
    def script() -> None:
        with open_fake(tmp_path):
            factory.opened[0].open_beam()
            raise RuntimeError("the script failed")

    with pytest.raises(RuntimeError, match="the script failed"):
        script()
    adapter = factory.opened[0]
    assert adapter.closed
    assert adapter.read_blanked()
    with open_fake(tmp_path):
        assert (tmp_path / "ledger.sqlite").exists()


def test_closing_twice_is_harmless(tmp_path: Path, factory: Factory) -> None:
    session = open_fake(tmp_path)
    session.close()
    session.close()
    assert factory.opened[0].diary.count("close") == 1


def test_limits_of_site_and_plan_hold(tmp_path: Path, factory: Factory) -> None:
    site = StageLimits(ranges={Axis.ALPHA: (-40, 40)})
    plan = StageLimits(ranges={Axis.ALPHA: (-10, 50)})
    with open_fake(tmp_path, site_limits=site, plan_limits=plan) as session:
        assert session.microscope.stage.limits().ranges[Axis.ALPHA] == (-10, 40)


def test_a_session_that_cannot_open_lets_the_instrument_go(
    tmp_path: Path, factory: Factory
) -> None:
    with pytest.raises(LimitError, match="have nothing in common"):
        open_fake(tmp_path, plan_limits=StageLimits(ranges={Axis.ALPHA: (80, 85)}))
    assert factory.opened[0].closed
    with open_fake(tmp_path):
        pass


def test_one_session_keeps_the_ledger(tmp_path: Path, factory: Factory) -> None:
    with (
        open_fake(tmp_path),
        pytest.raises(StorageError, match="another process keeps the dose ledger"),
        open_fake(tmp_path),
    ):
        pass
    assert factory.opened[1].closed


def test_an_unknown_driver_is_named(tmp_path: Path, factory: Factory) -> None:
    with pytest.raises(UnknownAdapterError, match="nonesuch"):
        open_session("nonesuch", {}, run_dir=tmp_path, dose_limits=LIMITS)


def test_the_next_session_remembers_what_was_charged(tmp_path: Path, factory: Factory) -> None:
    with open_fake(tmp_path) as session:
        exposure = raster(session)
        receipt = session.microscope.expose(exposure)
        before = session.microscope.dose(0.0, 0.0).total_e_per_A2
    with open_fake(tmp_path) as session:
        assert session.microscope.dose(0.0, 0.0).total_e_per_A2 == before > 0
        assert session.microscope.expose(exposure) == receipt
        with pytest.raises(AlreadyExposedError):
            session.microscope.expose(exposure.replace(area="T08"))
    assert factory.opened[1].openings == 0


def test_a_scan_becomes_a_native_file(tmp_path: Path, factory: Factory) -> None:
    with open_fake(tmp_path, run_uuid="run-1") as session:
        receipt = session.microscope.expose(raster(session))
    assert isinstance(receipt, ScanReceipt)
    assert receipt.complete
    assert receipt.checksum_sha256 == sha256_of(receipt.uri)
    data = open_scan(receipt.uri)
    assert data.header.scan_shape == (5, 7)
    assert data.header.frame_shape == (12, 16)
    assert data.header.defocus_A == 400.0
    assert data.header.run_uuid == "run-1"
    assert data.header.sample == "T07"
    assert data.header.fluence_e_per_A2 == pytest.approx(6.2415e6 * 1e-3 / 400, rel=1e-3)
    assert data.header.fluence_e_per_A2 < receipt.charged_e_per_A2
    counts = np.diff(data.indptr)
    np.testing.assert_array_equal(counts, np.arange(35) % 7 + 1)
    assert data.valid.all()


def test_gaps_stay_gaps_in_the_file(tmp_path: Path, factory: Factory) -> None:
    with open_fake(tmp_path) as session:
        exposure = raster(session)
        factory.opened[0].faults.drop = frozenset({0, 9, 10, 34})
        receipt = session.microscope.expose(exposure)
    assert isinstance(receipt, ScanReceipt)
    assert receipt.gaps == (0, 9, 10, 34)
    data = open_scan(receipt.uri)
    assert np.flatnonzero(~data.valid).tolist() == [0, 9, 10, 34]


def test_ctrl_c_in_a_scan_keeps_what_was_committed(tmp_path: Path, factory: Factory) -> None:
    def interrupt(event: str) -> None:
        if event == "row 3":
            raise KeyboardInterrupt

    with open_fake(tmp_path) as session:
        exposure = raster(session)
        factory.opened[0].on_event = interrupt
        with pytest.raises(KeyboardInterrupt):
            session.microscope.expose(exposure)
        factory.opened[0].on_event = lambda event: None
    assert factory.opened[0].read_blanked()
    data = open_scan(tmp_path / "scans" / f"{exposure.exposure_id}.h5")
    assert int(data.valid.sum()) == 21


def test_a_disk_without_room_is_refused_before_the_beam(
    tmp_path: Path, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    with open_fake(tmp_path) as session:
        exposure = raster(session)
        monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
        with pytest.raises(DiskFullError, match=r"nothing was exposed. Free some space"):
            session.microscope.expose(exposure)
    assert factory.opened[0].openings == 0


def test_optics_that_no_scan_file_can_hold_are_refused_before_the_beam(
    tmp_path: Path, factory: Factory
) -> None:
    with open_fake(tmp_path) as session:
        exposure = raster(session)
        adapter = factory.opened[0]
        adapter.optics = adapter.optics.replace(detector_sampling_mrad=None)
        with pytest.raises(WriteFailedError, match="Calibrate the camera length"):
            session.microscope.expose(exposure)
        adapter.optics = adapter.optics.replace(
            detector_sampling_mrad=1.0, convergence_semiangle_mrad=0.0
        )
        with pytest.raises(
            WriteFailedError,
            match=r"\(convergence_semiangle_mrad: Input should be greater than 0\)",
        ):
            session.microscope.expose(exposure.replace(exposure_id=uuid5(SPACE, "2")))
    assert adapter.openings == 0


def test_opening_a_session_costs_neither_torch_nor_h5py() -> None:
    """A driver never waits for PyTorch; the scan file format loads with the first scan."""
    code = (
        "import sys, controller.server.session, controller.safety; "
        "print([m for m in ('torch', 'h5py', 'scipy', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
