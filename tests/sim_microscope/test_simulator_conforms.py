"""The simulator under the conformance suites that every driver inherits."""

from __future__ import annotations

from pathlib import Path

from controller.hardware.contract import Adapter
from sim_microscope.adapter import open_adapter
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests


class TestSimulatedMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> Adapter:
        return open_adapter({"scenario": "easy", "seed": 3})


class TestSimulatedAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> Adapter:
        return open_adapter({"scenario": "easy", "seed": 3})
