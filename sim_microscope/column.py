"""Gun, valve, vacuum, screen and blanker: is there a beam, how strong, and what do the meters say.

Between the command to open and the beam on the specimen lies the latency of the blanker, and the
same again after the command to blank.  Meters read with noise of their own.
"""

from __future__ import annotations

import numpy as np

from controller.hardware.values import (
    ColumnHealth,
    Condition,
    HealthReading,
    LongOperation,
    LongOperationResult,
)
from sim_microscope.faults import FaultBoard
from sim_microscope.randomness import instant, stream
from sim_microscope.scenario import BeamSpec

BEAM_FAULTS = ("valve-closes", "gun-off", "ht-trip", "current-jump", "current-drop")
OPERATION_S = {
    LongOperation.FLASH_LOW: 90.0,
    LongOperation.FLASH_HIGH: 300.0,
    LongOperation.REFILL: 600.0,
    LongOperation.PUMP_CYCLE: 240.0,
    LongOperation.OPEN_VALVE: 4.0,
    LongOperation.CLOSE_VALVE: 1.0,
}
_NOT_YET = float("inf")
_NOISE_PERIOD_S = 30.0
_REFILL_EVERY_S = 5 * 3600.0


class SimulatedColumn:
    """Everything above and below the specimen but the lenses.  The owner holds the lock."""

    def __init__(self, spec: BeamSpec, seed: int, faults: FaultBoard) -> None:
        self._spec = spec
        self._seed = seed
        self._faults = faults
        self._valve_log = [(-_NOT_YET, True)]
        """(instant, open) of what the valve was told."""
        self._flashed_at_s = 0.0
        self._flashes = 0
        self._filled_at_s = 0.0
        self._wobbles: dict[int, float] = {}
        self._openings: list[tuple[float, float]] = []

    # --- blanker ---------------------------------------------------------------------------

    def open(self, now_s: float) -> None:
        """Command: beam on."""
        if self.is_blanked():
            self._openings.append((now_s + self._spec.blank_latency_s, _NOT_YET))

    def blank(self, now_s: float) -> float:
        """Command: beam off; a stuck blanker ignores it.  Return when the beam will be gone."""
        if not self.is_blanked() and not self._faults.active("blanker-stuck", now_s):
            self._openings[-1] = (self._openings[-1][0], now_s + self._spec.blank_latency_s)
        return now_s if not self._openings else self._openings[-1][1]

    def is_blanked(self) -> bool:
        """What the blanker reports."""
        return not self._openings or self._openings[-1][1] < _NOT_YET

    def openings(self, from_s: float, to_s: float) -> list[tuple[float, float]]:
        """Intervals in which the blanker let the beam through, within the given one."""
        clipped = [(max(on, from_s), min(off, to_s)) for on, off in self._openings]
        return [(on, off) for on, off in clipped if off > on]

    # --- beam ------------------------------------------------------------------------------

    def passes(self, t_s: float) -> bool:
        """Gun on, high tension on, valve open: an unblanked beam reaches the specimen."""
        return self.passes_gun(t_s) and self.valve_is_open(t_s)

    def reaches_detector(self, t_s: float) -> bool:
        """Past the specimen, and the screen is up."""
        return self.passes(t_s) and not self._faults.active("screen-down", t_s)

    def valve_is_open(self, t_s: float) -> bool:
        """Column valve at an instant; a fault shuts it and only OPEN_VALVE opens it again."""
        self._faults.active_since("valve-closes", t_s)
        told_s, is_open = max(entry for entry in self._valve_log if entry[0] <= t_s)
        onsets = self._faults.onsets("valve-closes", t_s)
        return is_open and not any(onset >= told_s for onset in onsets)

    def current_factor(self, t_s: float) -> float:
        """True current over the nominal one: drift, flashes, slow noise and faults."""
        hours = (t_s - self._flashed_at_s) / 3600
        factor = max(0.05, 1 + self._spec.current_drift_per_h * hours)
        factor *= self._spec.flash_gain if self._flashes else 1.0
        if self._spec.current_noise:
            slot, share = divmod(max(t_s, 0.0) / _NOISE_PERIOD_S, 1.0)
            ends = [self._wobble(int(slot) + k) for k in (0, 1)]
            factor *= 1 + self._spec.current_noise * float(
                np.clip((1 - share) * ends[0] + share * ends[1], -3, 3)
            )
        if self._faults.active("current-jump", t_s):
            factor *= 1.3
        if self._faults.active("current-drop", t_s):
            factor *= 0.6
        return factor if self.passes_gun(t_s) else 0.0

    def _wobble(self, slot: int) -> float:
        if slot not in self._wobbles:
            self._wobbles[slot] = float(stream(self._seed, "beam.noise", slot).standard_normal())
        return self._wobbles[slot]

    def passes_gun(self, t_s: float) -> bool:
        """Gun and high tension are on."""
        return not any(self._faults.active(name, t_s) for name in ("gun-off", "ht-trip"))

    def measured_pA(self, nominal_pA: float, t_s: float) -> float:
        """What the meter at the condenser aperture says: works with the beam blanked."""
        noise = stream(self._seed, "beam.meter", instant(t_s)).standard_normal()
        error = 1 + self._spec.read_noise * float(np.clip(noise, -3, 3))
        return nominal_pA * self.current_factor(t_s) * error

    # --- health ------------------------------------------------------------------------------

    def health(self, nominal_pA: float, t_s: float) -> ColumnHealth:
        """All interlocks now."""
        on = self._faults.active
        vacuum_bad = on("vacuum-bad", t_s) or on("valve-closes", t_s)
        changed = on("holder-changed", t_s)
        return ColumnHealth(
            valve_open=_reading(self.valve_is_open(t_s), "column valve closed"),
            vacuum_ready=_reading(not vacuum_bad, "column pressure 3e-4 Pa"),
            gun_on=_reading(not on("gun-off", t_s), "no emission"),
            high_tension_on=_reading(not on("ht-trip", t_s), "high tension tripped"),
            screen_up=_reading(not on("screen-down", t_s), "screen is down"),
            holder_inserted=_reading(True, ""),
            not_refilling=_reading(not on("refill", t_s), "dewar refill in progress"),
            no_flash_due=_reading(not on("flash-due", t_s), "tip asks for a flash"),
            holder_id="double-tilt-9" if changed else "double-tilt-1",
            dewar_remaining_s=max(0.0, _REFILL_EVERY_S - (t_s - self._filled_at_s)),
            probe_current_pA=self.measured_pA(nominal_pA, t_s),
        )

    def finish(self, operation: LongOperation, began_s: float, t_s: float) -> LongOperationResult:
        """The effect of a long operation that has just ended."""
        succeeded, detail = True, ""
        match operation:
            case LongOperation.FLASH_LOW | LongOperation.FLASH_HIGH:
                self._flashed_at_s = t_s
                self._flashes += 1
                self._faults.clear("flash-due")
            case LongOperation.REFILL:
                self._filled_at_s = t_s
                self._faults.clear("refill")
            case LongOperation.PUMP_CYCLE:
                self._faults.clear("vacuum-bad")
            case LongOperation.OPEN_VALVE:
                if any(self._faults.active(n, t_s) for n in ("vacuum-bad", "valve-closes")):
                    succeeded, detail = False, "vacuum not ready; the valve stayed closed"
                else:
                    self._valve_log.append((t_s, True))
            case LongOperation.CLOSE_VALVE:
                self._valve_log.append((t_s, False))
        return LongOperationResult(
            operation=operation, succeeded=succeeded, elapsed_s=t_s - began_s, detail=detail
        )


def _reading(ok: bool, trouble: str) -> HealthReading:
    condition = Condition.GOOD if ok else Condition.BAD
    return HealthReading(condition=condition, detail="" if ok else trouble)
