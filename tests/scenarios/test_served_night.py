"""A night driven over the wire is the same night."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.cli.compose import dose_limits, run_night
from controller.cli.output import InputError
from controller.record.events import ExposureMade, QueueChanged, ScanTaken, TargetsChosen
from controller.record.inbox import QueueRequest, send
from controller.record.journal import Entry
from controller.record.library import Library, default_url
from controller.safety.limits import DoseLimits
from controller.server.session import open_session
from tests.controller.server.serving import Keyring, served
from tests.scenarios.test_nights import events, plan, quick_eyes


@pytest.mark.timeout(600)
def test_a_night_over_the_wire(tmp_path: Path) -> None:
    wanted = plan()
    roomy = DoseLimits(specimen_e_per_A2=1e4, before_scan_e_per_A2=1e3, data_e_per_A2=1e4)
    with open_session(
        "sim", {"scenario": "easy", "seed": 1}, run_dir=tmp_path / "server", dose_limits=roomy
    ) as session:
        with served(session.microscope, Keyring(tmp_path)) as server:
            remote = wanted.replace(
                instrument=wanted.instrument.replace(backend="server", options={"url": server.url})
            )

            def meddle(entry: Entry) -> None:
                if isinstance(entry.event, TargetsChosen):
                    for what in ("pause", "go_on"):
                        send(tmp_path / "run", QueueRequest(what=what, by="Ann"))

            result = run_night(remote, tmp_path / "run", eyes=quick_eyes(wanted), listener=meddle)
            assert server.service.lease is None
        assert result.ended.outcome == "completed", result.ended.reason
        assert result.ended.beam_blanked
        assert len(events(tmp_path / "run", ScanTaken)) == 1
        booked = {str(r.booking.exposure_id): r for r in session.ledger.records()}
        journaled = {
            e.exposure_id: e
            for e in events(tmp_path / "run", ExposureMade)
            if e.state not in ("RESERVED", "RELEASED")
        }
        assert set(journaled) <= set(booked)
        for exposure_id, event in journaled.items():
            assert event.charged_e_per_A2 == pytest.approx(booked[exposure_id].charged_e_per_A2)
            assert event.state == booked[exposure_id].state.value.upper()
        # the plan's budgets held inside the server's, and went with the lease
        assert session.ledger.limits == roomy
        assert [e.what for e in events(tmp_path / "run", QueueChanged)] == ["pause", "go_on"]
        (shelved,) = Library(default_url(tmp_path / "run")).runs()
        assert shelved["outcome"] == "completed"
        assert dose_limits(wanted).specimen_e_per_A2 < roomy.specimen_e_per_A2


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    wanted = plan()
    for options in ({"address": "here"}, {"url": "nowhere"}, {"url": "ipc:///x", "key": "a"}):
        remote = wanted.replace(
            instrument=wanted.instrument.replace(backend="server", options=options)
        )
        with pytest.raises(InputError, match=r"url|no address"):
            run_night(remote, tmp_path / "run", eyes=quick_eyes(wanted))
