"""The TEM emulator of instamatic: a grid of crystals with diffraction that depends on the tilt.

Nobody here wrote it.  Its images do not change when the beam is blanked: `verify_blanker` has to
find that out.  ``LODESTEM_TEM_EMULATOR`` names the folder with its ``start_server.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from controller.backends.laned import LanedAdapter
from controller.hardware.contract import Adapter
from controller.hardware.errors import BlankUnconfirmedError
from controller.hardware.values import Axis, DetectorJob, Mode, OpticsChange
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.peers.process import free_port, running
from tests.peers.test_instamatic import LIMITS, Ports, configured, prepared

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """The emulator, after its first image, which takes many seconds."""
    folder = tmp_path_factory.mktemp("emulator")
    numbers = free_port(), free_port()
    env = configured(folder, numbers, "pickle")
    source = Path(os.environ["LODESTEM_TEM_EMULATOR"])
    command = [sys.executable, str(source / "start_server.py")]
    with running(command, numbers[1], folder, env=env, wait_s=180.0):
        first = prepared(numbers)
        first.arm(AdapterTests().camera_job(first))
        first.collect(120.0)
        first.close()
        yield numbers


class _Peer:
    sees_the_beam = False
    collect_s = 60.0

    @pytest.fixture(autouse=True)
    def _served(self, ports: Ports) -> None:
        self.ports = ports

    def open_adapter(self, folder: Path) -> Adapter:
        return prepared(self.ports)


class TestTemEmulatorAdapter(_Peer, AdapterTests):
    pass


class TestTemEmulatorMicroscope(_Peer, MicroscopeTests):
    pass


@pytest.fixture
def adapter(ports: Ports) -> Iterator[LanedAdapter]:
    opened = prepared(ports)
    yield opened
    opened.close()


def picture(adapter: LanedAdapter, number: int) -> np.ndarray:
    adapter.arm(DetectorJob(UUID(int=number), "camera", 0.05))
    adapter.open_beam()
    adapter.clock.sleep(0.05)
    adapter.blank_beam()
    return adapter.collect(60.0).data.astype(float)


def test_the_pattern_changes_with_the_tilt(adapter: LanedAdapter) -> None:
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION))
    best = None
    for step in range(8):  # grid squares may be empty: look for signal
        adapter.start_move(Axis.X, 5.0 * step)
        while adapter.axis_state(Axis.X).moving:
            adapter.clock.sleep(0.05)
        frame = picture(adapter, 10 + step)
        if best is None or frame.std() > best[0]:
            best = frame.std(), 5.0 * step
    assert best is not None
    adapter.start_move(Axis.X, best[1])
    while adapter.axis_state(Axis.X).moving:
        adapter.clock.sleep(0.05)
    frames = []
    for number, alpha in enumerate((0.0, 4.0)):
        adapter.start_move(Axis.ALPHA, alpha)
        while adapter.axis_state(Axis.ALPHA).moving:
            adapter.clock.sleep(0.05)
        frames.append([picture(adapter, 100 + 2 * number), picture(adapter, 101 + 2 * number)])
    again = np.abs(frames[0][0] - frames[0][1]).mean()
    tilted = np.abs(frames[0][0] - frames[1][0]).mean()
    assert tilted > again
    adapter.write_optics(OpticsChange(mode=Mode.IMAGE))


def test_a_blanker_that_its_images_do_not_show_is_not_verified(
    adapter: LanedAdapter, tmp_path: Path
) -> None:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        with pytest.raises(BlankUnconfirmedError, match="reads blanked, but a frame shows"):
            microscope.verify_blanker("camera", duration_s=0.1)
