"""Is the column fit for a beam?  Bad, unknown and stale readings all mean no."""

from __future__ import annotations

from dataclasses import dataclass

from controller.hardware.errors import (
    FlashingRequiredError,
    GunOffError,
    HighTensionOffError,
    HolderAbsentError,
    HolderChangedError,
    InterlockError,
    RefillingError,
    ScreenDownError,
    StaleHealthError,
    VacuumBadError,
    ValveClosedError,
)
from controller.hardware.values import ColumnHealth, Condition

MAX_AGE_S = 10.0


@dataclass(frozen=True)
class Interlock:
    """What a bad reading means."""

    error: type[InterlockError]
    says: str
    remedy: str


INTERLOCKS: dict[str, Interlock] = {
    "holder_inserted": Interlock(
        HolderAbsentError, "no holder is inserted", "Insert the holder and start a new run."
    ),
    "vacuum_ready": Interlock(
        VacuumBadError, "the vacuum is not ready", "Wait for the pumps, then open the valve."
    ),
    "high_tension_on": Interlock(
        HighTensionOffError, "the high tension is off", "A person has to switch it on and wait."
    ),
    "gun_on": Interlock(GunOffError, "the gun does not emit", "A person has to restart the gun."),
    "no_flash_due": Interlock(
        FlashingRequiredError, "the tip asks for a flash", "Flash it, then measure the current."
    ),
    "not_refilling": Interlock(
        RefillingError, "a dewar is being refilled", "Wait until it is full and the stage is calm."
    ),
    "screen_up": Interlock(
        ScreenDownError, "the screen intercepts the beam", "Lift it; somebody may be at work."
    ),
    "valve_open": Interlock(
        ValveClosedError, "the column valve is closed", "Open it once the vacuum is ready."
    ),
}
"""In the order in which they are reported: causes before their effects."""


def check_interlocks(
    health: ColumnHealth,
    *,
    holder_id: str | None,
    max_age_s: float = MAX_AGE_S,
    outcome: str = "nothing was exposed",
) -> None:
    """Refuse a column that is not known to be fit.

    Parameters
    ----------
    holder_id
        The holder that the session started with.
    outcome
        What a refusal means now, in words.

    Raises
    ------
    InterlockError
        The class names the first bad part; `StaleHealthError` if a reading is unknown or old.
    """
    readings = health.readings()
    for name, interlock in INTERLOCKS.items():
        reading = readings[name]
        if reading.condition is Condition.BAD:
            raise interlock.error(
                f"{interlock.says}{_detail(reading.detail)}; {outcome} and the beam is "
                f"blanked. {interlock.remedy}",
                snapshot=_snapshot(health),
            )
    if health.holder_id != holder_id:
        raise HolderChangedError(
            f"holder {health.holder_id!r} is inserted, the session started with {holder_id!r}; "
            f"{outcome}. The dose map and the calibrations belong to the old holder: "
            f"start a new run.",
            snapshot=_snapshot(health),
        )
    for name, reading in readings.items():
        if reading.condition is not Condition.GOOD:
            raise StaleHealthError(
                f"{name} is unknown{_detail(reading.detail)}; {outcome} and the beam is "
                f"blanked. Read the column again; if it stays unknown a person has to look.",
                snapshot=_snapshot(health),
            )
        if not reading.age_s <= max_age_s:
            raise StaleHealthError(
                f"{name} was read {reading.age_s:.1f} s ago (limit {max_age_s:g} s); {outcome} "
                f"and the beam is blanked. Read the column again.",
                snapshot=_snapshot(health),
            )


def check_source(health: ColumnHealth) -> None:
    """Name a gun or a high tension that is off: without them no setting reads back as asked.

    Raises
    ------
    HighTensionOffError, GunOffError
        The optics are partly changed, the beam is blanked.
    """
    readings = health.readings()
    for name in ("high_tension_on", "gun_on"):
        reading, interlock = readings[name], INTERLOCKS[name]
        if reading.condition is Condition.BAD:
            raise interlock.error(
                f"{interlock.says}{_detail(reading.detail)}; the optics are partly changed and the "
                f"beam is blanked. {interlock.remedy}",
                snapshot=_snapshot(health),
            )


def check_holder(health: ColumnHealth, *, holder_id: str | None) -> None:
    """Refuse to move a stage whose holder is absent or another one.

    Raises
    ------
    HolderAbsentError, HolderChangedError
        Nothing has moved.
    """
    if health.holder_inserted.condition is Condition.BAD:
        raise HolderAbsentError(
            "no holder is inserted; nothing moved. Insert the holder and start a new run.",
            snapshot=_snapshot(health),
        )
    if health.holder_id != holder_id:
        raise HolderChangedError(
            f"holder {health.holder_id!r} is inserted, the session started with {holder_id!r}; "
            f"nothing moved. Its limits and the dose map are not known: start a new run.",
            snapshot=_snapshot(health),
        )


def _detail(text: str) -> str:
    return f" ({text})" if text else ""


def _snapshot(health: ColumnHealth) -> dict[str, object]:
    return {"health": health.model_dump(mode="json")}
