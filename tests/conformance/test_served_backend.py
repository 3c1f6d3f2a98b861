"""The conformance suite through the hardware server: ZeroMQ with CURVE keys, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.hardware.contract import Microscope
from controller.safety.gate import GuardedMicroscope
from sim_microscope.adapter import SimulatedAdapter, open_adapter
from tests.conformance.fake_adapter import FakeAdapter
from tests.conformance.microscope_suite import MicroscopeTests
from tests.controller.server.serving import keyed, served


class _Served(MicroscopeTests):
    @contextmanager
    def present(self, guarded: GuardedMicroscope, folder: Path) -> Iterator[Microscope]:
        with (
            served(guarded, keyed(folder)) as server,
            server.client("agent") as microscope,
            microscope.drive(),
        ):
            yield microscope


class TestFakeMicroscopeServed(_Served):
    def open_adapter(self, folder: Path) -> FakeAdapter:
        return FakeAdapter()


class TestSimulatedMicroscopeServed(_Served):
    def open_adapter(self, folder: Path) -> SimulatedAdapter:
        return open_adapter({"scenario": "easy", "seed": 1})
