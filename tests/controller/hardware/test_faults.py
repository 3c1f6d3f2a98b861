"""The list of faults: complete, named once, in the manual, and closed to real instruments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.hardware.faults import (
    FAULTS,
    NUMBERS,
    Injectable,
    NoFaults,
    Place,
    fault_table,
    faults_of,
    kind_of,
)
from sim_microscope.adapter import open_adapter
from tests.conformance.fake_adapter import FakeAdapter

MANUAL = Path(__file__).parents[3] / "docs" / "faults.md"


def test_every_number_of_the_list_has_a_name() -> None:
    assert list(NUMBERS) == list(range(1, 43))
    assert {kind.number for kind in FAULTS.values()} == set(NUMBERS)


def test_every_place_is_somebodys() -> None:
    assert {kind.place for kind in FAULTS.values()} == set(Place)


def test_every_fault_says_what_happens_and_how_it_is_answered() -> None:
    for kind in FAULTS.values():
        assert kind.effect
        assert kind.answer
        assert kind.lasts_s >= 0


def test_the_manual_is_the_list() -> None:
    written = [
        line
        for line in MANUAL.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    assert written == [
        f"| {row['number']} | `{row['name']}` | {row['where']} | {row['effect']} | "
        f"{row['answer']} |"
        for row in fault_table()
    ]


def test_the_command_line_prints_the_list() -> None:
    said = CliRunner().invoke(app, ["faults"])
    assert said.exit_code == 0
    assert all(name in said.stdout for name in FAULTS)
    listed = json.loads(CliRunner().invoke(app, ["faults", "--json"]).stdout)
    assert {row["name"] for row in listed["result"]["faults"]} == set(FAULTS)


def test_every_fault_can_be_named_in_the_options_of_the_simulator() -> None:
    everything = tuple(f"{name}@1h" for name in sorted(FAULTS))
    adapter = open_adapter({"scenario": "easy", "faults": everything})
    assert isinstance(adapter, Injectable)
    assert not any(adapter.injected.strikes(name) for name in FAULTS)
    adapter.clock.sleep(3601.0)
    assert all(adapter.injected.strikes(name) for name in FAULTS)


def test_an_unknown_fault_is_refused_with_the_list() -> None:
    for source in (NoFaults(), open_adapter({"scenario": "easy"}).injected):
        with pytest.raises(ValueError, match=r"no fault is called 'gremlins'; there are .*valve"):
            source.strikes("gremlins")
    with pytest.raises(ValueError, match="no fault is called"):
        kind_of("gremlins")


def test_nothing_can_be_injected_into_a_real_instrument() -> None:
    source = faults_of(FakeAdapter())
    assert isinstance(source, NoFaults)
    assert not any(source.strikes(name) or source.is_on(name) for name in FAULTS)
