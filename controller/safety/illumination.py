"""Changing lenses and deflectors with the beam off, and believing only the read-back."""

from __future__ import annotations

from controller.hardware.contract import Adapter
from controller.hardware.errors import (
    LimitError,
    ModeError,
    ReplyTimeoutError,
    StoppedByOtherError,
    UnsupportedError,
)
from controller.hardware.values import Mode, OpticsChange, OpticsState
from controller.safety.blanking import BeamGuard
from controller.safety.fluence import CURRENT_SIGMAS
from controller.safety.interlocks import check_source

CHANGE_TIMEOUT_S = 60.0
"""A change of mode with all lenses normalised takes some ten seconds."""
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = {
    "probe_current_pA": 0.05,
    "beam_diameter_nm": 0.1,
    "convergence_semiangle_mrad": 0.05,
    "defocus_nm": 20.0,
    "pixel_size_nm": 1e-3,
    "detector_sampling_mrad": 1e-4,
    "beam_shift_nm": 10.0,
    "image_shift_nm": 10.0,
    "beam_tilt_mrad": 0.1,
    "scan_rotation_deg": 0.2,
}
"""What a read-back may differ from the request besides 5 %: its noise, and the lens steps."""


class GuardedOptics:
    """Validates a change as a whole, blanks, writes, reads back, compares."""

    def __init__(self, adapter: Adapter, beam: BeamGuard) -> None:
        self._adapter = adapter
        self._beam = beam

    def apply(self, change: OpticsChange) -> OpticsState:
        """Do what `contract.Optics.apply` promises; the caller holds the drive lane."""
        self._check(change)
        if not self._beam.blank().blanked:
            self._beam.check_trusted()
        self._write(change)
        state = self._adapter.read_optics()
        for name, asked in change.model_dump(exclude_none=True).items():
            got = getattr(state, name)
            if not _close(name, asked, got, self._relative_tolerance(name)):
                check_source(self._adapter.read_health())
                raise ModeError(
                    f"{name} reads {_words(got)} after {_words(asked)} was asked for; the optics "
                    f"are partly changed, the beam is blanked. Read the optics, then apply the "
                    f"whole setting again or choose one that the instrument offers.",
                    snapshot={"optics": state.model_dump(mode="json")},
                )
        return state

    def _write(self, change: OpticsChange) -> None:
        """Send the change; say so if the lenses hung, or somebody stopped meanwhile."""
        stops = self._beam.stop_count()
        began_s = self._adapter.clock.now_s()
        self._adapter.write_optics(change)
        took_s = self._adapter.clock.now_s() - began_s
        if self._beam.stop_count() != stops:
            raise StoppedByOtherError(
                f"stopped while the optics changed: {self._beam.reason}; the beam is blanked. "
                f"Read the optics before anything else."
            )
        if not took_s <= CHANGE_TIMEOUT_S:
            raise ReplyTimeoutError(
                f"the optics took {took_s:.0f} s to change (limit {CHANGE_TIMEOUT_S:g} s); the "
                f"beam was blanked meanwhile. Read the optics, then have the lenses looked at."
            )

    def _relative_tolerance(self, name: str) -> float:
        """The current is *measured*: its noise comes on top."""
        if name != "probe_current_pA":
            return RELATIVE_TOLERANCE
        return (
            RELATIVE_TOLERANCE + CURRENT_SIGMAS * self._adapter.capabilities.current_relative_sigma
        )

    def _check(self, change: OpticsChange) -> None:
        capabilities = self._adapter.capabilities
        missing = change.model_dump(exclude_none=True).keys() - capabilities.settings
        if missing:
            raise UnsupportedError(
                f"this instrument cannot set {', '.join(sorted(missing))} (it sets "
                f"{', '.join(sorted(capabilities.settings)) or 'nothing'}); nothing was changed. "
                f"A person has to set it by hand."
            )
        mode = change.mode or self._adapter.read_optics().mode
        if mode not in capabilities.modes:
            raise UnsupportedError(
                f"mode {mode.value} is not among {sorted(m.value for m in capabilities.modes)}; "
                f"nothing was changed. Choose one of these."
            )
        current = change.probe_current_pA
        if current is not None and not current <= capabilities.max_current_pA:
            raise LimitError(
                f"probe_current_pA = {current:g} is above the {capabilities.max_current_pA:g} pA "
                f"that the gun can give; nothing was changed. Ask for less."
            )
        tilt = change.beam_tilt_mrad
        if tilt is not None and not max(map(abs, tilt)) <= capabilities.beam_tilt_mrad:
            raise LimitError(
                f"beam_tilt_mrad = ({tilt[0]:g}, {tilt[1]:g}) is outside "
                f"±{capabilities.beam_tilt_mrad:g} mrad, which this column reaches; nothing was "
                f"changed. Tilt the goniometer instead."
            )
        low, high = capabilities.beam_diameter_nm
        diameter = change.beam_diameter_nm
        if mode is not Mode.STEM and diameter is not None and not low <= diameter <= high:
            raise LimitError(
                f"beam_diameter_nm = {diameter:g} is outside {low:g} .. {high:g} nm; nothing was "
                f"changed. Choose a diameter in this range."
            )


def _close(name: str, asked: object, got: object, relative: float) -> bool:
    if isinstance(asked, tuple) and isinstance(got, tuple):
        return all(_close(name, a, g, relative) for a, g in zip(asked, got, strict=True))
    if isinstance(asked, float) and isinstance(got, float):
        allowed = relative * abs(asked) + ABSOLUTE_TOLERANCE[name]
        return abs(got - asked) <= allowed
    return asked == got


def _words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
