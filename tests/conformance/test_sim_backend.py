"""The conformance suite on the simulated microscope, in process and in virtual time."""

from __future__ import annotations

from pathlib import Path

from sim_microscope.adapter import SimulatedAdapter, open_adapter
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests


class TestSimulatedMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> SimulatedAdapter:
        return open_adapter({"scenario": "easy", "seed": 1})


class TestSimulatedAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> SimulatedAdapter:
        return open_adapter({"scenario": "easy", "seed": 1})
