"""A read-back that fails keeps no command from going out, and the valve is there for the rest."""

from __future__ import annotations

import pytest

from controller.hardware.values import LongOperation
from controller.safety.blanking import BeamGuard
from tests.conformance.fake_adapter import FakeAdapter


def broken(adapter: FakeAdapter, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(f"{name}: the interface is gone")

    monkeypatch.setattr(adapter, name, fail)


def test_a_dead_read_back_blanks_and_shuts_the_valve(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = FakeAdapter()
    adapter.open_beam()
    broken(adapter, "read_blanked", monkeypatch)
    result = BeamGuard(adapter).blank()
    assert adapter.blanked
    assert not adapter.valve_open
    assert (result.blanked, result.confirmed, result.guard) == (True, False, "valve")


def test_a_dead_blanker_shuts_the_valve(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = FakeAdapter()
    adapter.open_beam()
    broken(adapter, "blank_beam", monkeypatch)
    result = BeamGuard(adapter).blank()
    assert LongOperation.CLOSE_VALVE.value in adapter.diary
    assert result.guard == "valve"


def test_where_nothing_works_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = FakeAdapter()
    adapter.open_beam()
    guard = BeamGuard(adapter)
    for name in ("blank_beam", "run_operation"):
        broken(adapter, name, monkeypatch)
    result = guard.blank()
    assert (result.blanked, result.guard) == (False, "none")
    assert guard.suspect is not None
