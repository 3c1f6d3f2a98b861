"""The conformance suite on the fake adapter: checks the guard and the suite itself."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.fake_adapter import FakeAdapter
from tests.conformance.microscope_suite import MicroscopeTests


class TestFakeMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> FakeAdapter:
        return FakeAdapter()


class TestFakeAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> FakeAdapter:
        return FakeAdapter()
