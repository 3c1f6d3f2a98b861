"""What the screens show follows from the run alone; frames travel whole."""

from __future__ import annotations

import asyncio
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from controller.console.frames import decode_frame, encode_frame, to_bytes, to_jpeg
from controller.console.hub import MOST_ON_THE_WAY, Hub
from controller.console.instrument import Heard
from controller.console.night import Follower, Night
from controller.console.picture_routes import line_profile, power_spectrum
from controller.console.pictures import message_of
from controller.console.vendoring import checksums, locked
from controller.console.views.alarms import alarms_of, unacknowledged
from controller.console.views.align import align_view, quote, tilt_of_drag
from controller.console.views.log import log_view
from controller.console.views.queue import queue_view
from controller.console.views.regions import map_view
from controller.console.views.settings import settings_view
from controller.console.views.shell import Surroundings, shell_view, state_of
from controller.decision.knowledge import holder_frame
from controller.perception.alignment.geometry import predicted_tilt, zone_in_holder
from tests.console.stand import StandRun, tilt


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    with StandRun(tmp_path / "run", [tilt(1.0, -0.5)]) as run:
        deadline_s = time.monotonic() + 30
        follower = Follower(run.folder)
        while time.monotonic() < deadline_s:
            follower.look()
            found = follower.night()
            if found.proposal is not None:
                yield found
                return
            time.sleep(0.05)
        raise AssertionError("nothing was proposed")


def around(**more: object) -> Surroundings:
    return Surroundings(now=datetime.now(UTC), now_s=100.0, **more)  # type: ignore[arg-type]


def heard(age_s: float, blanked: bool | None = True) -> Heard:
    return Heard(100.0 - age_s, {"blanked": blanked})


def test_the_state_is_one_word_that_follows_from_run_and_instrument(night: Night) -> None:
    assert state_of(None, around()) == "IDLE"
    assert state_of(night, around()) == "NEEDS APPROVAL"
    assert state_of(night, around(heard=heard(0.1))) == "NEEDS APPROVAL"
    assert state_of(night, around(heard=heard(2.1))) == "OFFLINE"
    assert state_of(night, around(heard=heard(float("nan")))) == "OFFLINE"
    assert state_of(night, around(stop_sent=True)) == "STOPPING"
    silent = replace(night, desk=night.desk | {"utc": "2026-01-01T00:00:00+00:00"})  # type: ignore[operator]
    assert state_of(silent, around()) == "FAULT"
    paused = replace(night, belief=replace(night.belief, paused="STOP", stopped=True))
    assert state_of(paused, around()) == "STOPPED"


def test_the_beam_is_never_said_to_be_blanked_by_old_news(night: Night) -> None:
    assert shell_view(night, around(heard=heard(0.1))).beam == "BLANKED"
    assert shell_view(night, around(heard=heard(0.1, blanked=False))).beam == "ON"
    for unknown in (around(), around(heard=heard(3.0)), around(heard=heard(0.1, blanked=None))):
        assert shell_view(night, unknown).beam == "UNKNOWN"


def test_an_instrument_is_never_taken_for_a_simulator(night: Night) -> None:
    assert shell_view(None, around()).mode == "HARDWARE"
    assert shell_view(None, around(simulated=True)).mode == "SIMULATOR"
    real = night.started.capabilities.replace(simulated=False)  # type: ignore[union-attr]
    started = night.started.model_copy(update={"capabilities": real})  # type: ignore[union-attr]
    at_work = replace(night, belief=replace(night.belief, started=started))
    assert shell_view(at_work, around(simulated=True)).mode == "HARDWARE"
    assert shell_view(night, around()).mode == "SIMULATOR"
    assert shell_view(night, around(replay=True)).mode == "REPLAY"


def test_the_card_says_what_it_costs_and_what_is_left(night: Night) -> None:
    card = align_view(night).card
    assert card is not None
    rows = dict(card.rows)
    assert rows["α"].startswith("+0.00° → +1.00°")
    assert card.used_share + card.next_share <= 1.0
    assert [f.name for f in card.fields] == ["alpha_deg", "beta_deg"]
    assert "spots, circle centre 4.1" in card.twin


def test_dragging_the_circle_to_where_it_was_fitted_asks_for_that_tilt(night: Night) -> None:
    target = night.belief.target("R1")
    fit = target.last_answered
    assert fit is not None
    assert fit.setting is not None
    from controller.console.views.align import overlay_of

    circle = overlay_of(night, fit.frame)["circle"]
    aimed = tilt_of_drag(night, circle["x"], circle["y"])
    assert aimed is not None
    frame = holder_frame(night.belief, target)
    zone = zone_in_holder(fit.tilt_mrad, fit.setting.alpha_deg, fit.setting.beta_deg, frame)
    left = predicted_tilt(zone, *aimed, frame)
    assert math.hypot(*left) < 1e-3


def test_a_quote_refuses_what_lies_outside_the_limits(night: Night) -> None:
    assert quote(night, {"alpha_deg": 2.0}).refusal == ""
    assert "alpha" in quote(night, {"alpha_deg": 26.0}).refusal
    assert "cannot be edited" in quote(night, {"defocus_nm": 1.0}).refusal
    assert "not a finite number" in quote(night, {"alpha_deg": float("nan")}).refusal


def test_every_screen_has_something_to_show(night: Night) -> None:
    queue, chart, settings = queue_view(night), map_view(night), settings_view(night)
    assert queue is not None
    assert [row.name for row in queue.rows] == ["R1", "R2", "R3"]
    assert chart is not None
    assert chart.chosen is not None
    assert chart.chosen.name == "R1"
    assert settings is not None
    assert [line.source for line in log_view(night, text="tilt")]
    assert log_view(night, level="major") == []


def test_alarms_latch_until_their_cause_is_gone_and_somebody_has_seen_them(tmp_path: Path) -> None:
    from controller.record.events import Fault, StepEnded
    from tests.controller.record.conftest import Night as Written

    written = Written(tmp_path)
    written.start()
    fault = Fault(
        error="ValveClosed",
        message="closed <b>from outside</b>",
        action="Tilt",
        target=None,
        beam_state="blanked",
        dose_state="none",
        handled="wait (rule)",
    )
    written.say(fault)
    written.say(fault.replace(handled="hold (rule)"))
    written.say(fault)
    follower = Follower(tmp_path)
    follower.look()
    (alarm,) = alarms_of(follower.night(), around())
    assert (alarm.severity, alarm.count, alarm.active) == ("MAJOR", 3, True)
    assert alarm.guidance
    written.say(StepEnded(step=1, ok=True))
    follower.look()
    (alarm,) = alarms_of(follower.night(), around())
    assert (alarm.active, unacknowledged([alarm])) == (False, 1)
    ack = {"key": alarm.key, "sequence": 99, "by": "Ann", "utc": "2026-01-01T22:10:00"}
    (tmp_path / "acknowledged.jsonl").write_text(json.dumps(ack) + "\n")
    assert alarms_of(follower.night(), around()) == []
    written.journal.close()


def test_silence_of_instrument_and_run_is_an_alarm(night: Night) -> None:
    keys = [a.key for a in alarms_of(night, around(heard=heard(6.0)))]
    assert keys == ["hardware silent"]
    assert alarms_of(night, around(heard=heard(6.0), replay=True)) == []


def test_a_replay_shows_the_run_as_it_was_then(night: Night) -> None:
    follower = Follower(night.folder)
    follower.look()
    first, final = follower.span_s
    revisions = [
        follower.at(first + share * (final - first)).belief.revision for share in (0, 0.3, 0.7, 1)
    ]
    assert revisions == sorted(revisions)
    assert revisions[0] < revisions[-1] == len(follower.night().entries)


def test_what_is_shown_is_compared_with_what_was_taken(night: Night) -> None:
    message = message_of(night, "pattern")
    assert message is not None
    header, jpeg = decode_frame(message)
    assert header["intact"]
    assert header["overlay"]["circle"]["rx"] > 0
    assert Image.open(io.BytesIO(jpeg)).size == tuple(reversed(header["shape"]))


@given(
    header=st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=5),
    jpeg=st.binary(max_size=64),
)
def test_frames_come_back_as_they_were_sent(header: dict[str, object], jpeg: bytes) -> None:
    message = encode_frame(header, jpeg)
    assert decode_frame(message) == (header, jpeg)
    for short in (message[:3], message[: 4 + len(json.dumps(header)) - 3]):
        if len(short) < len(message):
            with pytest.raises(ValueError, match=r"header"):
                decode_frame(short[: min(len(short), 3)])


def test_grey_values_keep_their_order_and_bad_pixels_are_black() -> None:
    counts = np.array([[0.0, 1.0, 4.0], [np.nan, 9.0, 1e4]])
    for log in (True, False):
        grey, low, high = to_bytes(counts, log=log)
        assert list(grey[0]) == sorted(grey[0])
        assert grey[1, 0] == 0
        assert low < high
    assert to_jpeg(np.zeros((1500, 700), np.uint8))[:2] == b"\xff\xd8"
    assert max(Image.open(io.BytesIO(to_jpeg(np.zeros((1500, 700), np.uint8)))).size) == 1024


def test_a_profile_reads_along_the_line_and_a_spectrum_finds_the_period() -> None:
    rows, cols = np.indices((61, 87))
    ramp = (2.0 * cols + rows).astype(np.float32)
    assert line_profile(ramp, (10, 5), (20, 5)) == pytest.approx([25 + 2 * k for k in range(11)])
    waves = np.cos(2 * np.pi * cols / 8.7).astype(np.float32)
    spectrum = power_spectrum(waves)
    y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert (y, abs(x - 43)) == (30, 10)


def test_whoever_reads_too_slowly_gets_the_newest_only() -> None:
    async def watch() -> list[str | bytes]:
        hub = Hub()
        hub.tell("state", "old")
        with hub.viewing() as viewer:
            for n in range(100):
                hub.tell("pattern", f"picture {n}".encode())
            hub.tell("state", "new")
            return [await viewer.take(), await viewer.take()]

    assert asyncio.run(watch()) == [b"picture 99", "new"]


def test_pictures_wait_for_those_before_them_and_words_do_not() -> None:
    async def watch() -> list[str | bytes]:
        hub, got = Hub(), []
        with hub.viewing() as viewer:
            for n in range(MOST_ON_THE_WAY):
                hub.tell("pattern", f"picture {n}".encode())
                got.append(await viewer.take())
            hub.tell("pattern", b"late")
            hub.tell("state", "words")
            got.append(await viewer.take())
            viewer.arrived()
            got.append(await viewer.take())
        return got

    assert asyncio.run(watch()) == [b"picture 0", b"picture 1", "words", b"late"]


def test_vendored_libraries_are_those_of_the_lock_and_have_their_licences() -> None:
    assert checksums() == locked()
    assert {"htmx.LICENSE", "uplot.LICENSE"} <= set(locked())
