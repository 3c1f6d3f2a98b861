"""How fast a detector's stream becomes a scan file, as ratios measured in one run.

``python -m benchmarks.ingest [--frames N] [--rounds N] [--json FILE]``

Another process sends 128 x 128 frames of 16 bits with 100 electrons each by ZeroMQ on loopback, in
three ways: 64 plain frames per message; one uncompressed DECTRIS message (Stream V2) per frame; one
packed with bslz4.  Measured on the same messages:

- *receive*: plain ZeroMQ, every message taken from the socket and dropped;
- *count*: the frames, in memory, to lists of events;
- *memcpy*: the frames, in memory, copied;
- *decode*: the messages, in memory, to frames;
- *ingest*: receive, check numbers, decode, count and commit into a native scan file.

Sender and receiver share the machine, so on two cores the sender is part of every rate.  The
actions take turns in short rounds; a ratio is taken within each round and its median is given with
the quartiles, since a neighbour on the machine disturbs alike what is close in time.  Where more
runs than there are cores, every thread gets a share of one and the ratio falls towards that of the
busiest threads: prefer the benchmark (on Linux, as root, ``echo -10 > /proc/self/autogroup`` in the
shell that starts it).
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
from typing import Literal, get_args
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
from controller.backends.detectors.keeping import BLOCK_BYTES
from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import WallClock
from recon.dataset import ScanFileWriter, ScanHeader, events_from_dense, open_scan

Sending = Literal["64 per message", "dectris", "dectris bslz4"]
SHAPE = (128, 128)
FRAME_BYTES = 2 * SHAPE[0] * SHAPE[1]
ELECTRONS = 100
DISTINCT = 512
"""Frames that differ; they are sent again and again."""
TOGETHER = 64
QUEUED_BYTES = 100 * FRAME_BYTES
"""What waits in the sender: a detector keeps it in its own memory, not in our caches."""
MAX_MESSAGE_BYTES = 1 << 22
GOAL = 0.5
GOAL_OF = "ingest / slowest of receive, decode and count"


def patterns() -> NDArray[np.uint16]:
    """Frames as a low-dose scan has them, uint16, (DISTINCT, row, col)."""
    rng = np.random.default_rng(20260301)
    return rng.poisson(ELECTRONS / (SHAPE[0] * SHAPE[1]), (DISTINCT, *SHAPE)).astype(np.uint16)


# --- the sender ---------------------------------------------------------------------------------


def message(frame: NDArray[np.uint16], sending: Sending) -> bytes:
    """One image of Stream V2 with the number 0."""
    stored: object = frame.tobytes()
    if sending == "dectris bslz4":
        stored = cbor2.CBORTag(56500, ["bslz4", 2, packed(frame)])
    array = cbor2.CBORTag(40, [list(SHAPE), cbor2.CBORTag(69, stored)])
    return cbor2.dumps(
        {
            "type": "image",
            "series_id": 1,
            "series_unique_id": "benchmark",
            "image_id": 0,
            "real_time": [1, 1000],
            "start_time": [0, 1000],
            "stop_time": [1, 1000],
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


def messages(sending: Sending, count: int) -> Iterator[bytes]:
    """The messages of a series, the end last."""
    frames = patterns()
    if sending == "64 per message":
        blocks = [frames[i : i + TOGETHER].tobytes() for i in range(0, DISTINCT, TOGETHER)]
        for first in range(0, count, TOGETHER):
            yield first.to_bytes(4, "big") + blocks[first % DISTINCT // TOGETHER]
        yield b"end"
        return
    bodies = [message(frame, sending) for frame in frames]
    # the number stands in the message as four bytes, so a frame costs the sender a patch only
    where = [body.index(b"himage_id\x00") + 9 for body in bodies]
    cut = [(body[:at] + b"\x1a", body[at + 1 :]) for body, at in zip(bodies, where, strict=True)]
    yield b""  # ready
    for number in range(count):
        head, tail = cut[number % DISTINCT]
        yield b"%b%b%b" % (head, number.to_bytes(4, "big"), tail)
    yield cbor2.dumps({"type": "end", "series_id": 1, "series_unique_id": "benchmark"})


def send(orders: Queue[int], ports: Queue[int], sending: Sending) -> None:
    """The detector: for every number on `orders` sends so many frames, on a new port."""
    with zmq.Context() as context:
        while (count := orders.get()) > 0:
            series = messages(sending, count)
            first = next(series)
            with context.socket(zmq.PUSH) as push:
                push.setsockopt(zmq.SNDHWM, max(2, QUEUED_BYTES // max(len(first), FRAME_BYTES)))
                ports.put(push.bind_to_random_port("tcp://127.0.0.1"))
                if first:
                    push.send(first)
                for body in series:
                    push.send(body)


# --- the receiver -------------------------------------------------------------------------------


def arrivals_in(body: bytes | memoryview, sending: Sending) -> Iterator[Arrival]:
    """What a message brings."""
    if sending != "64 per message":
        match parse_v2(body):
            case SeriesImage(_, number, decode):
                yield FrameArrived(number, decode)
            case SeriesEnd():
                yield SeriesEnded()
    elif len(body) < FRAME_BYTES:
        yield SeriesEnded()
    else:
        first = int.from_bytes(body[:4], "big")
        frames = np.frombuffer(body, np.uint16, offset=4).reshape(-1, *SHAPE)
        for number, frame in enumerate(frames, first):
            yield FrameArrived(number, lambda frame=frame: frame)  # type: ignore[misc]


@dataclass
class Stream:
    """The order book of the sender."""

    sending: Sending
    orders: Queue[int]
    ports: Queue[int]

    def ordered(self, count: int) -> int:
        """Order `count` frames; returns the port that they come on."""
        self.orders.put(count)
        return self.ports.get(timeout=60)

    def n_messages(self, count: int) -> int:
        """How many messages a series of `count` frames has."""
        return (count // TOGETHER if self.sending == "64 per message" else count) + 1

    def receive(self, count: int) -> float:
        """The least that a receiver can do, frames/s: a PULL socket, one `recv` per message."""
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.setsockopt(zmq.RCVTIMEO, 10_000)
            port = self.ordered(count)
            began = time.perf_counter()
            pull.connect(f"tcp://127.0.0.1:{port}")
            for _ in range(self.n_messages(count)):
                pull.recv()
            return count / (time.perf_counter() - began)

    def arrivals(self, receiver: StreamReceiver) -> Iterator[Arrival]:
        """Hand messages on as a detector's driver does."""
        while (parts := receiver.receive(10.0)) is not None:
            yield from arrivals_in(parts[0], self.sending)
        raise TimeoutError("the sender fell silent")

    def ingest(self, count: int, path: Path) -> float:
        """Receive, check, decode, count, commit: frames/s."""
        how = Gathering(UUID(int=1), "benchmark", SHAPE, 4096, True, lambda: False, WallClock())
        tally = SeriesTally(count)
        port = self.ordered(count)
        began = time.perf_counter()
        receiver = StreamReceiver("127.0.0.1", port, MAX_MESSAGE_BYTES)
        with ScanFileWriter(path, scan_header(count)) as writer:
            for batch in batches(self.arrivals(receiver), tally, how, 600.0):
                writer.append_events(batch.pixel, batch.count)
        seconds = time.perf_counter() - began
        receiver.close()
        tally.report().check()
        return count / seconds


@contextmanager
def streaming(sending: Sending) -> Iterator[Stream]:
    """A sender in a process of its own."""
    start = get_context("spawn")
    orders: Queue[int] = start.Queue()
    ports: Queue[int] = start.Queue()
    sender: Process = start.Process(target=send, args=(orders, ports, sending), daemon=True)
    sender.start()
    try:
        yield Stream(sending, orders, ports)
    finally:
        orders.put(0)
        sender.join(10)


def scan_header(count: int) -> ScanHeader:
    """Of a scan with so many positions."""
    return ScanHeader(
        energy_keV=300,
        convergence_semiangle_mrad=20,
        scan_step_A=1,
        detector_sampling_mrad=1,
        scan_shape=(count // DISTINCT, DISTINCT),
        frame_shape=SHAPE,
        start_time="2026-01-01T00:00:00+00:00",
        run_uuid="benchmark",
    )


def check(path: Path, count: int) -> None:
    """What is in the file is what was sent."""
    truth, data = patterns(), open_scan(path)
    for first in range(0, count, DISTINCT):
        np.testing.assert_array_equal(data.dense(first, first + DISTINCT), truth)


# --- measuring ----------------------------------------------------------------------------------


def rate(action: Callable[[], object], count: int) -> float:
    """Frames per second."""
    began = time.perf_counter()
    action()
    return count / (time.perf_counter() - began)


@dataclass
class InMemory:
    """What can be done without a wire."""

    frames: NDArray[np.uint16]
    bodies: list[bytes]
    sending: Sending

    def count(self) -> None:
        """To events, in pieces of the size that the product counts at once."""
        step = BLOCK_BYTES // FRAME_BYTES
        for first in range(0, DISTINCT, step):
            events_from_dense(self.frames[first : first + step])

    def copy(self) -> None:
        """As fast as memory goes."""
        np.copyto(np.empty_like(self.frames), self.frames)

    def decode(self) -> None:
        """Messages to frames."""
        for body in self.bodies:
            for arrival in arrivals_in(body, self.sending):
                if isinstance(arrival, FrameArrived):
                    arrival.decode()


def measure(sending: Sending, count: int, rounds: int) -> dict[str, list[float]]:
    """Rates of every round, frames/s."""
    memory = InMemory(patterns(), [b for b in messages(sending, DISTINCT) if b][:-1], sending)
    taken: dict[str, list[float]] = {
        name: [] for name in ("receive", "count", "memcpy", "decode", "ingest")
    }
    with tempfile.TemporaryDirectory() as folder, streaming(sending) as stream:
        stream.receive(DISTINCT)
        for number in range(rounds):
            path = Path(folder) / f"{number}.h5"
            taken["receive"].append(stream.receive(count))
            taken["count"].append(rate(memory.count, DISTINCT))
            taken["memcpy"].append(rate(memory.copy, DISTINCT))
            taken["decode"].append(rate(memory.decode, DISTINCT))
            taken["ingest"].append(stream.ingest(count, path))
            if number == 0:
                check(path, count)
            path.unlink()
    return taken


def summary(taken: dict[str, list[float]]) -> dict[str, object]:
    """Medians, fastest rounds, and the ratios within a round."""
    rates = {name: np.array(values) for name, values in taken.items()}
    ratios = {
        "ingest / slower of receive and count": np.minimum(rates["receive"], rates["count"]),
        GOAL_OF: np.minimum.reduce([rates["receive"], rates["count"], rates["decode"]]),
        "ingest / receive": rates["receive"],
        "ingest / memcpy": rates["memcpy"],
    }
    return {
        "median": {name: float(np.median(values)) for name, values in rates.items()},
        "fastest": {name: float(values.max()) for name, values in rates.items()},
        "ratios": {
            name: [float(q) for q in np.percentile(rates["ingest"] / whole, (25, 50, 75))]
            for name, whole in ratios.items()
        },
    }


def main() -> None:
    """Print a table; exit 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=16_384, help="a multiple of 512")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    results = {}
    for sending in get_args(Sending):
        found = summary(measure(sending, given.frames, given.rounds))
        results[sending] = found
        for kind in ("median", "fastest"):
            cells = ", ".join(f"{name} {value:,.0f}" for name, value in found[kind].items())
            print(f"{sending:>14}, {kind:>7} frames/s: {cells}")
        for name, (low, middle, high) in found["ratios"].items():
            print(f"{'':>14}  {name}: {middle:.3f} ({low:.3f} .. {high:.3f})")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1))
    reached = {sending: found["ratios"][GOAL_OF][1] for sending, found in results.items()}
    missed = [f"{name} {ratio:.2f}" for name, ratio in reached.items() if not ratio >= GOAL]
    if missed:
        raise SystemExit(f"below the goal of {GOAL}: {', '.join(missed)}")


if __name__ == "__main__":
    main()
