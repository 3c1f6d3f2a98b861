"""How fast the hardware server answers, against bare ZeroMQ in the same run.

    python -m benchmarks.server [--calls 2000] [--pictures 200]

Everything runs on this machine over Unix sockets, with CURVE keys, client and server in one
process (they share the interpreter, so these are lower bounds).  Prints questions per second and
small frames (of a fake camera) per second, and their ratio to a bare ZeroMQ echo of the same
bytes; the latency of STOP while a move is under way, median and worst.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import zmq

from controller.hardware.clock import WallClock
from controller.hardware.values import Exposure, PartialPose, Purpose
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from tests.conformance.fake_adapter import FakeAdapter, MemorySink
from tests.controller.server.serving import keyed, served

LIMITS = DoseLimits(specimen_e_per_A2=1e9, before_scan_e_per_A2=1e9, data_e_per_A2=1e9)


def per_second(action: Callable[[], object], count: int) -> float:
    """How often `action` runs a second."""
    action()
    began_s = time.perf_counter()
    for _ in range(count):
        action()
    return count / (time.perf_counter() - began_s)


def bare_echo(size: int, count: int, folder: Path) -> float:
    """Round trips per second of a bare ZeroMQ pair: a short question, an answer of `size` bytes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    back, front = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    address = f"ipc://{folder}/bare"
    back.bind(address)
    front.connect(address)
    answer = np.zeros(size, dtype=np.uint8).tobytes()

    def echo() -> None:
        while True:
            identity, question = back.recv_multipart()
            if question == b"end":
                return
            back.send_multipart([identity, answer])

    def ask() -> None:
        front.send(b"?" * 300)
        front.recv()

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    rate = per_second(ask, count)
    front.send(b"end")
    thread.join()
    back.close()
    front.close()
    context.term()
    return rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fake = FakeAdapter(clock=WallClock())
        with DoseLedger(folder / "ledger.sqlite", LIMITS, fake.clock) as ledger:
            guarded = GuardedMicroscope(fake, ledger, sink=MemorySink())
            with (
                served(guarded, keyed(folder)) as server,
                server.client("agent") as microscope,
                server.client("viewer") as watcher,
                microscope.drive(),
            ):
                questions = per_second(microscope.stage.pose, given.calls)
                bare = bare_echo(200, given.calls, folder)
                print(f"stage.pose     {questions:8.0f} a second   bare ZeroMQ {bare:8.0f}"
                      f"   ratio {questions / bare:.2f}")  # fmt: skip
                exposure = Exposure(
                    exposure_id=uuid4(), area="S00", purpose=Purpose.SURVEY,
                    detector="camera", duration_s=0.01,
                )  # fmt: skip
                microscope.expose(exposure)
                # the same id again: the wire and the picture without the exposure
                pictures = per_second(lambda: microscope.expose(exposure), given.pictures)
                size = fake.capabilities.detector("camera").shape
                bare = bare_echo(size[0] * size[1] * 2, given.pictures, folder)
                print(f"frames {size}  {pictures:8.0f} a second   bare ZeroMQ {bare:8.0f}"
                      f"   ratio {pictures / bare:.2f}")  # fmt: skip
                print("STOP during a move:", stop_latency(microscope, watcher, fake))


def stop_latency(microscope: object, watcher: object, fake: FakeAdapter, count: int = 20) -> str:
    """Time from the call of a second client to the beam blanked and the stage told to halt."""
    from controller.hardware.errors import StoppedByOtherError

    fake.faults.slow_factor = 100.0
    took_s = []
    for number in range(count):

        def move(target: float = 30.0 * (-1) ** number) -> None:
            with contextlib.suppress(StoppedByOtherError):
                microscope.stage.move(PartialPose(x_um=target))  # type: ignore[attr-defined]

        thread = threading.Thread(target=move)
        thread.start()
        time.sleep(0.3)
        seen = len(fake.diary)
        began_s = time.perf_counter()
        watcher.stop("a benchmark")  # type: ignore[attr-defined]
        took_s.append(time.perf_counter() - began_s)
        assert "halt" in fake.diary[seen:]
        thread.join()
    return f"median {1e3 * statistics.median(took_s):.1f} ms, worst {1e3 * max(took_s):.1f} ms"


if __name__ == "__main__":
    main()
