"""How fast a detector's stream becomes a scan file, as ratios measured in one run.

``python -m benchmarks.ingest [--frames N] [--rounds N] [--json FILE]``

Another process sends 128 x 128 frames of 16 bits with 100 electrons each by ZeroMQ on loopback, as
a DECTRIS detector does (Stream V2; one message per frame).  Measured on the same messages:

- *receive*: plain ZeroMQ, every message taken from the socket and dropped;
- *count*: the frames, in memory, to lists of events;
- *memcpy*: the frames, in memory, copied;
- *ingest*: receive, check numbers, decode, count and commit into a native scan file.

Sender and receiver share the machine, so on two cores the sender is part of every rate.  The four
take turns and the fastest round of each is given: on a shared machine that is the one that was
disturbed least.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Process, Queue, get_context
from pathlib import Path
from uuid import UUID

import cbor2
import numpy as np
import zmq
from numpy.typing import NDArray

from controller.backends.detectors.arrivals import (
    Arrival,
    FrameArrived,
    Gathering,
    SeriesEnded,
    batches,
)
from controller.backends.detectors.dectris.messages import SeriesEnd, SeriesImage
from controller.backends.detectors.dectris.receiver import StreamReceiver
from controller.backends.detectors.dectris.stream_v2 import parse_v2
from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import WallClock
from recon.dataset import ScanFileWriter, ScanHeader, events_from_dense, open_scan

SHAPE = (128, 128)
ELECTRONS = 100
DISTINCT = 512
"""Frames that differ; they are sent again and again."""
BATCH = 256
QUEUED = 100
"""Frames that wait in the sender: a detector keeps them in its own memory, not in our caches."""
GOAL = 0.5


def patterns() -> NDArray[np.uint16]:
    """Frames as a low-dose scan has them, uint16, (DISTINCT, row, col)."""
    rng = np.random.default_rng(20260301)
    return rng.poisson(ELECTRONS / (SHAPE[0] * SHAPE[1]), (DISTINCT, *SHAPE)).astype(np.uint16)


def message(number: int, frame: NDArray[np.uint16], packing: str) -> bytes:
    """One image of Stream V2."""
    stored: object = frame.tobytes()
    if packing == "bslz4":
        stored = cbor2.CBORTag(56500, ["bslz4", 2, packed(frame)])
    array = cbor2.CBORTag(40, [list(SHAPE), cbor2.CBORTag(69, stored)])
    return cbor2.dumps(
        {
            "type": "image",
            "series_id": 1,
            "series_unique_id": "benchmark",
            "image_id": number,
            "real_time": [1, 1000],
            "start_time": [number, 1000],
            "stop_time": [number + 1, 1000],
            "data": {"threshold_1": array},
        }
    )


def packed(frame: NDArray[np.uint16]) -> bytes:
    """`frame` as bitshuffle and LZ4 leave it."""
    import h5py
    import hdf5plugin

    with h5py.File("packed", "w", driver="core", backing_store=False) as file:
        filters = hdf5plugin.Bitshuffle(cname="lz4")
        dataset = file.create_dataset("x", frame.shape, frame.dtype, chunks=frame.shape, **filters)
        dataset[...] = frame
        return bytes(dataset.id.read_direct_chunk((0, 0))[1])


def send(orders: Queue[int], ports: Queue[int], packing: str) -> None:
    """The detector: for every number on `orders` sends so many frames and an end, on a new port."""
    bodies = [message(0, frame, packing) for frame in patterns()]
    # the number stands in the message as four bytes, so a frame costs the sender a patch only
    where = [body.index(b"himage_id\x00") + 9 for body in bodies]
    cut = [(body[:at] + b"\x1a", body[at + 1 :]) for body, at in zip(bodies, where, strict=True)]
    end = cbor2.dumps({"type": "end", "series_id": 1, "series_unique_id": "benchmark"})
    with zmq.Context() as context:
        while (count := orders.get()) > 0:
            with context.socket(zmq.PUSH) as push:
                push.setsockopt(zmq.SNDHWM, QUEUED)
                ports.put(push.bind_to_random_port("tcp://127.0.0.1"))
                for number in range(count):
                    head, tail = cut[number % DISTINCT]
                    push.send(b"%b%b%b" % (head, number.to_bytes(4, "big"), tail))
                push.send(end)


@dataclass
class Stream:
    """The receiving end, and the order book of the sender."""

    orders: Queue[int]
    ports: Queue[int]

    def ordered(self, count: int) -> int:
        """Order `count` frames; returns the port that they come on."""
        self.orders.put(count)
        return self.ports.get(timeout=60)

    def take_plainly(self, count: int) -> None:
        """The least that a receiver can do: a PULL socket, one `recv` per message."""
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.setsockopt(zmq.RCVTIMEO, 10_000)
            pull.connect(f"tcp://127.0.0.1:{self.ordered(count)}")
            for _ in range(count + 1):
                pull.recv()

    def arrivals(self, count: int) -> Iterator[Arrival]:
        """Take `count` frames and the end as a detector's driver does."""
        receiver = StreamReceiver("127.0.0.1", self.ordered(count), 1 << 22)
        for _ in range(count + 1):
            parts = receiver.receive(10.0)
            if parts is None:
                raise TimeoutError("the sender fell silent")
            match parse_v2(parts[0]):
                case SeriesImage(_, number, decode):
                    yield FrameArrived(number, decode)
                case SeriesEnd():
                    yield SeriesEnded()
        receiver.close()


@contextmanager
def streaming(packing: str) -> Iterator[Stream]:
    """A sender in a process of its own."""
    start = get_context("spawn")
    orders: Queue[int] = start.Queue()
    ports: Queue[int] = start.Queue()
    sender: Process = start.Process(target=send, args=(orders, ports, packing), daemon=True)
    sender.start()
    try:
        yield Stream(orders, ports)
    finally:
        orders.put(0)
        sender.join(10)


def ingest(stream: Stream, count: int, path: Path) -> None:
    """Receive, check, decode, count, commit."""
    header = ScanHeader(
        energy_keV=300,
        convergence_semiangle_mrad=20,
        scan_step_A=1,
        detector_sampling_mrad=1,
        scan_shape=(count // 512, 512),
        frame_shape=SHAPE,
        start_time="2026-01-01T00:00:00+00:00",
        run_uuid="benchmark",
    )
    how = Gathering(UUID(int=1), "benchmark", SHAPE, BATCH, True, lambda: False, WallClock())
    tally = SeriesTally(count)
    arrivals = stream.arrivals(count)
    with ScanFileWriter(path, header) as writer:
        for batch in batches(arrivals, tally, how, 600.0):
            writer.append_dense(batch.data)
    for _ in arrivals:  # the end comes after the last frame
        pass
    tally.report().check()


def check(path: Path, count: int) -> None:
    """What is in the file is what was sent."""
    truth, data = patterns(), open_scan(path)
    for first in range(0, count, DISTINCT):
        np.testing.assert_array_equal(data.dense(first, first + DISTINCT), truth)


def rate(action: Callable[[], object], count: int) -> float:
    """Frames per second."""
    began = time.perf_counter()
    action()
    return count / (time.perf_counter() - began)


def measure(packing: str, count: int, rounds: int) -> dict[str, float]:
    """Rates of the fastest rounds, frames/s."""
    frames = patterns()
    copy = np.empty_like(frames)
    repeats = count // DISTINCT
    taken: dict[str, list[float]] = {name: [] for name in ("receive", "count", "memcpy", "ingest")}

    def count_all() -> None:
        for _ in range(repeats):
            for first in range(0, DISTINCT, BATCH):
                events_from_dense(frames[first : first + BATCH])

    def copy_all() -> None:
        for _ in range(repeats):
            np.copyto(copy, frames)

    with tempfile.TemporaryDirectory() as folder, streaming(packing) as stream:
        stream.take_plainly(count)
        for number in range(rounds):
            path = Path(folder) / f"{number}.h5"
            taken["receive"].append(rate(lambda: stream.take_plainly(count), count))
            taken["count"].append(rate(count_all, count))
            taken["memcpy"].append(rate(copy_all, count))
            taken["ingest"].append(rate(lambda: ingest(stream, count, path), count))  # noqa: B023
            if number == 0:
                check(path, count)
            path.unlink()
    return {name: max(values) for name, values in taken.items()}


def main() -> None:
    """Print a table; exit 1 where the goal is missed on uncompressed frames."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=8192, help="a multiple of 512")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    results = {}
    print(
        "frames/s of 128 x 128 uint16 | receive | count | memcpy | ingest | ingest / slower of two"
    )
    for packing in ("none", "bslz4"):
        rates = measure(packing, given.frames, given.rounds)
        ratio = rates["ingest"] / min(rates["receive"], rates["count"])
        results[packing] = rates | {
            "ingest_to_slower": ratio,
            "ingest_to_receive": rates["ingest"] / rates["receive"],
            "ingest_to_memcpy": rates["ingest"] / rates["memcpy"],
        }
        cells = " | ".join(f"{rates[name]:,.0f}" for name in rates)
        print(f"{packing:>28} | {cells} | {ratio:.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1))
    if not results["none"]["ingest_to_slower"] >= GOAL:
        raise SystemExit(f"below the goal of {GOAL}")


if __name__ == "__main__":
    main()
