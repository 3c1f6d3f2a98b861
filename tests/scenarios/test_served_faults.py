"""Nights over a link that fails: whatever is lost, repeated or swapped, the beam opens once each.

The faults are played by the server, at the lanes, as ``lodestem simulate --listen --fault`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controller.cli.compose import NightResult, run_night
from controller.injection.night import hooks_for
from controller.record.events import Fault
from controller.safety.limits import DoseLimits
from controller.server import client as client_module
from controller.server.session import Session, open_session
from tests.controller.server.serving import Keyring, Served, served
from tests.scenarios.test_nights import events, plan, quick_eyes

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

ROOMY = DoseLimits(specimen_e_per_A2=1e4, before_scan_e_per_A2=1e3, data_e_per_A2=1e4)


@contextmanager
def simulator(folder: Path, *faults: str) -> Iterator[tuple[Served, Session]]:
    """A served simulator that these faults happen to."""
    hooks = hooks_for(faults)
    options = {"scenario": "easy", "seed": 1, "faults": faults}
    with open_session(
        "sim", options, run_dir=folder / "server", dose_limits=ROOMY, hooks=hooks
    ) as session:
        ring = Keyring(folder)
        door = replace(ring.door, passage=lambda: hooks.link(session.injected))
        with served(session.microscope, replace(ring, door=door)) as server:
            yield server, session


def night(folder: Path, *faults: str) -> tuple[NightResult, Session]:
    wanted = plan()
    with simulator(folder, *faults) as (server, session):
        remote = wanted.replace(
            instrument=wanted.instrument.replace(backend="server", options={"url": server.url})
        )
        result = run_night(remote, folder / "run", eyes=quick_eyes(wanted))
        hold_the_invariants(result, session)
        assert server.service.lease is None
        return result, session


def hold_the_invariants(result: NightResult, session: Session) -> None:
    """What is true whatever the link does."""
    booked = [record.booking.exposure_id for record in session.ledger.records()]
    assert len(booked) == len(set(booked))
    states = {record.state.value.upper() for record in session.ledger.records()}
    assert not states & {"RESERVED", "OPENING"}
    opened = [r for r in session.ledger.records() if r.state.value.upper() != "RELEASED"]
    assert len(session.microscope._adapter.witness()["openings_s"]) == len(opened)
    assert session.microscope.blank("the test looks").blanked
    assert all(fault.handled for fault in events(result.run_dir, Fault))


def struck(session: Session) -> list[str]:
    return [name for _, name in session.microscope._adapter.faults.struck]


def test_a_night_does_not_notice_a_message_that_comes_twice(tmp_path: Path) -> None:
    """What was asked is done once."""
    result, session = night(tmp_path, *(f"message-repeated@step:{n}" for n in (3, 4, 6)))
    assert result.ended.outcome == "completed", result.ended.reason
    assert not events(result.run_dir, Fault)
    assert struck(session) == ["message-repeated"] * 3


def test_answers_that_change_places_find_who_asked(tmp_path: Path) -> None:
    with simulator(tmp_path, "replies-swapped@24h") as (server, session), server.client() as client:
        adapter = session.microscope._adapter
        adapter.faults.inject("replies-swapped", adapter.clock.now_s())
        link = client._link.commands
        asked = [link.send("clock.now"), link.send("clock.utc")]
        assert all(pending.wait(5) for pending in asked)
        assert isinstance(asked[0].answer()[0], float)
        assert isinstance(asked[1].answer()[0], str)
        assert struck(session) == ["replies-swapped"]


@pytest.mark.soak
def test_a_night_with_answers_that_change_places_goes_on_or_holds(tmp_path: Path) -> None:
    """The first of two waits for the second: if that is a heartbeat's, silence ends the lease."""
    result, session = night(tmp_path, *(f"replies-swapped@step:{n}" for n in (4, 6)))
    assert result.ended.outcome in ("completed", "held"), result.ended.reason
    assert struck(session)


@pytest.mark.parametrize(
    "fault",
    [
        "reply-lost",
        pytest.param("request-lost", marks=pytest.mark.soak),
        pytest.param("server-thread-dead", marks=pytest.mark.soak),
    ],
)
def test_a_night_whose_link_is_cut_holds_and_leaves_the_beam_blanked(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears the other: the client gives up, the lease runs out, the server blanks."""
    monkeypatch.setattr(client_module, "ANSWER_S", 1.0)
    monkeypatch.setattr(client_module, "SILENT_S", 0.6)
    result, _ = night(tmp_path, f"{fault}@step:4")
    assert result.ended.outcome == "held", result.ended.reason
    first = events(result.run_dir, Fault)[0]
    assert first.error in ("ReplyTimeout", "LeaseLost", "Unreachable")


def test_without_a_fault_of_the_link_nothing_lies_in_the_way() -> None:
    assert hooks_for(["valve-closes@10s"]).link is hooks_for([]).link
    assert hooks_for(["reply-lost@10s"]).link is not hooks_for([]).link
    with pytest.raises(ValueError, match="no fault is called"):
        hooks_for(["reply-found@10s"])
