"""``lodestem simulate --listen --fault``: faults of the link between programs, in real time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from controller.backends.column import ColumnAdapter
from controller.hardware.errors import AlreadyExposedError, ReplyTimeoutError, StoppedByOtherError
from controller.hardware.faults import NoFaults, faults_of
from controller.hardware.values import Exposure, Frame, Purpose
from controller.safety.ledger_store import read_ledger
from controller.server.client import connect

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]
GENEROUS_S = 3.0
LEASE_S = 2.0


@pytest.fixture
def served() -> Iterator[Path]:
    """A folder with ``s``, the server, and ``out/column``, the column behind it."""
    with TemporaryDirectory(prefix="lds") as name:
        folder = Path(name)
        program = "from controller.cli.main import run_program; run_program()"
        process = subprocess.Popen(
            [
                sys.executable, "-c", program, "simulate", "easy", "--out", str(folder / "out"),
                "--listen", f"ipc://{folder}/s", "--fault", "request-lost@step:2",
            ],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving")
        yield folder
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def picture(detector: str) -> Exposure:
    return Exposure(
        exposure_id=uuid4(),
        area="S00",
        purpose=Purpose.SURVEY,
        detector=detector,
        duration_s=6.0,
    )


def test_a_link_that_is_cut_in_the_middle_of_an_exposure(served: Path) -> None:
    """The lease runs out and the server blanks; when the link is back nothing is repeated."""
    column = ColumnAdapter(f"ipc://{served}/out/column")
    url = f"ipc://{served}/s"
    with connect(url, name="night") as microscope:
        camera = microscope.capabilities.detectors[0].name
        lost = picture(camera)
        with microscope.drive():
            assert isinstance(microscope.expose(picture(camera).replace(duration_s=0.1)), Frame)
            # it gives up by itself, or is told first: answers still arrive
            with pytest.raises((ReplyTimeoutError, StoppedByOtherError), match=r"unknown|silent"):
                microscope.expose(lost)
    seen = column.extra("witness")
    assert not seen["beam_on"]
    assert len(seen["openings_s"]) == 2
    on_s, off_s = seen["openings_s"][-1]
    assert off_s - on_s < LEASE_S + GENEROUS_S < 6.0
    faults = faults_of(column)
    assert not isinstance(faults, NoFaults)
    end_s = time.monotonic() + 30
    while faults.is_on("request-lost"):
        assert time.monotonic() < end_s
        time.sleep(0.2)
    (record,) = [
        record
        for record in read_ledger(served / "out" / "ledger.sqlite")
        if record.booking.exposure_id == lost.exposure_id
    ]
    assert record.state.value.lower() in ("unknown", "settled")
    assert record.charged_e_per_A2 > 0
    with connect(url, name="night") as microscope:
        assert "silent" in microscope.service_state()["safe_hold"]
        with microscope.drive(), pytest.raises(AlreadyExposedError):
            microscope.expose(lost)
    assert len(column.extra("witness")["openings_s"]) == 2
    column.close()
