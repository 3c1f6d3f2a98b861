"""Optics are believed only when they are read back."""

from __future__ import annotations

import pytest

from controller.hardware.errors import (
    GunOffError,
    HighTensionOffError,
    InterlockError,
    ModeError,
    ReplyTimeoutError,
    StoppedByOtherError,
    UnsupportedError,
)
from controller.hardware.values import Condition, HealthReading, Mode, OpticsChange
from controller.safety.blanking import BeamGuard
from controller.safety.illumination import GuardedOptics
from tests.conformance.fake_adapter import FakeAdapter, capabilities, good_health


def optics(adapter: FakeAdapter) -> GuardedOptics:
    return GuardedOptics(adapter, BeamGuard(adapter))


@pytest.mark.parametrize(
    ("clamp", "change"),
    [
        ({"beam_diameter_nm": 900.0}, OpticsChange(beam_diameter_nm=600.0)),
        ({"beam_shift_nm": (100.0, 0.0)}, OpticsChange(beam_shift_nm=(300.0, 0.0))),
        ({"mode": Mode.IMAGE}, OpticsChange(mode=Mode.DIFFRACTION)),
        ({"probe_current_pA": 13.0}, OpticsChange(probe_current_pA=10.0)),
    ],
)
def test_a_setting_that_was_clamped_is_an_error(
    clamp: dict[str, object], change: OpticsChange
) -> None:
    adapter = FakeAdapter()
    adapter.faults.optics_clamp = clamp
    name = next(iter(clamp))
    with pytest.raises(ModeError, match=f"{name} reads .* was asked for; the optics are partly"):
        optics(adapter).apply(change)
    assert adapter.read_blanked()


@pytest.mark.parametrize(
    ("off", "error"), [("gun_on", GunOffError), ("high_tension_on", HighTensionOffError)]
)
def test_a_source_that_is_off_is_not_taken_for_a_lens_that_was_clamped(
    off: str, error: type[InterlockError]
) -> None:
    """No current reads back as asked: that is for a person, and no other setting helps."""
    adapter = FakeAdapter()
    adapter.faults.optics_clamp = {"probe_current_pA": 0.0}
    adapter.health = good_health(**{off: HealthReading(condition=Condition.BAD)})
    with pytest.raises(error, match="the optics are partly changed and the beam is blanked"):
        optics(adapter).apply(OpticsChange(probe_current_pA=10.0))
    assert adapter.read_blanked()


def test_what_is_not_named_is_not_compared() -> None:
    adapter = FakeAdapter()
    state = optics(adapter).apply(OpticsChange(mode=Mode.STEM, defocus_nm=80.0))
    assert state.mode is Mode.STEM
    assert state.defocus_nm == 80.0


def test_a_mode_that_is_not_there_is_unsupported() -> None:
    adapter = FakeAdapter(caps=capabilities(modes=frozenset({Mode.IMAGE})))
    with pytest.raises(UnsupportedError, match=r"mode stem is not among \['image'\]"):
        optics(adapter).apply(OpticsChange(mode=Mode.STEM))
    assert adapter.diary == []


def test_the_beam_is_blanked_before_lenses_change() -> None:
    adapter = FakeAdapter()
    adapter.open_beam()
    optics(adapter).apply(OpticsChange(defocus_nm=10.0))
    assert adapter.diary == ["open", "blank", "write_optics"]


def test_the_noise_of_the_current_is_not_taken_for_a_wrong_setting() -> None:
    adapter = FakeAdapter(caps=capabilities(current_relative_sigma=0.02))
    adapter.faults.optics_clamp = {"probe_current_pA": 10.8}
    assert optics(adapter).apply(OpticsChange(probe_current_pA=10.0)).probe_current_pA == 10.8


def test_lenses_that_hang_are_an_error_when_they_come_back() -> None:
    adapter = FakeAdapter()
    write = adapter.write_optics

    def slowly(change: OpticsChange) -> None:
        adapter.clock.sleep(120.0)
        write(change)

    adapter.write_optics = slowly
    with pytest.raises(ReplyTimeoutError, match=r"took 120 s to change \(limit 60 s\)"):
        optics(adapter).apply(OpticsChange(defocus_nm=10.0))
    assert adapter.read_blanked()


def test_a_stop_while_lenses_change_is_heard() -> None:
    adapter = FakeAdapter()
    beam = BeamGuard(adapter)
    adapter.on_event = lambda event: beam.note_stop("a person") if "optics" in event else None
    with pytest.raises(StoppedByOtherError, match="stopped while the optics changed: a person"):
        GuardedOptics(adapter, beam).apply(OpticsChange(defocus_nm=10.0))
