"""A column with condenser, deflectors and cameras: what is the same whoever built it.

A driver inherits `CameraColumn` and says how single values are read and written.  Here a change
is checked as a whole before the first command, illuminations come from the site file, and
deflectors are calibrated or watched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from controller.backends.deflection import Deflection
from controller.backends.readings import RawOptics, optics_state
from controller.backends.site import DEFLECTORS, Site
from controller.hardware.values import (
    Calibration,
    Capabilities,
    Mode,
    OpticsChange,
    OpticsState,
    StageLimits,
    Vector,
)

ILLUMINATION = frozenset({"probe_current_pA", "beam_diameter_nm", "convergence_semiangle_mrad"})
"""Settings that choose among the calibrated illuminations."""

Coils = tuple[Callable[[], Vector], Callable[[Vector], None]]


class CameraColumn(ABC):
    """The optics part of `backends.instrument.Instrument`."""

    _capabilities: Capabilities

    def __init__(self, site: Site) -> None:
        self._site = site
        self._deflections = {
            name: Deflection(name, site.deflectors.get(name), *self._coils(name))
            for name in DEFLECTORS
        }

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """From the site file."""
        return self._site.calibration

    def holder_limits(self) -> StageLimits:
        """From the site file, for the axes that there are."""
        ranges = self._site.holder_limits().ranges
        known = self._capabilities.axes
        return StageLimits(ranges={axis: ranges[axis] for axis in ranges if axis in known})

    def read_optics(self) -> OpticsState:
        """Read back.

        Raises
        ------
        ModeError
            A mode that is not driven, an illumination that is not calibrated, or a deflector
            that somebody moved.
        """
        mode = self._mode()
        raw = RawOptics(
            mode=mode,
            energy_keV=self._energy_keV() or self._site.energy_keV,
            spot=self._spot(),
            lens=self._lens(),
            defocus_nm=self._defocus_nm(),
            magnification=self._magnification(),
            camera_length_mm=self._camera_length_mm(),
            beam_shift_nm=self._deflections["beam_shift_nm"].get(),
            image_shift_nm=self._deflections["image_shift_nm"].get(),
        )
        return optics_state(self._site, raw)

    def write_optics(self, change: OpticsChange) -> None:
        """Send; what can be refused is refused before the first command."""
        now = self._mode()
        mode = change.mode or now
        row = self._site.illumination_for(change, mode)
        step = self._site.projection_for(change, mode)
        shifts = {
            name: value
            for name in self._deflections
            if (value := getattr(change, name)) is not None
        }
        for name, value in shifts.items():
            self._deflections[name].check(value)
        if mode is not now:
            self._set_mode(mode)
        if step is not None:
            self._set_projection(mode, step.index)
        if row is not None:
            self._set_illumination(row.spot, row.lens)
        if change.defocus_nm is not None:
            self._set_defocus_nm(change.defocus_nm)
        for name, value in shifts.items():
            self._deflections[name].set(value)
        self._settle_lenses()

    # --- what a driver says --------------------------------------------------------------------

    @abstractmethod
    def _coils(self, name: str) -> Coils:
        """How the raw values of a deflector are read and written."""

    @abstractmethod
    def _mode(self) -> Mode:
        """Present mode; `ModeError` for one that is not driven."""

    @abstractmethod
    def _set_mode(self, mode: Mode) -> None:
        """Change to one of ``capabilities.modes``."""

    @abstractmethod
    def _set_projection(self, mode: Mode, index: int) -> None:
        """Choose a magnification (image mode) or a camera length by the vendor's index."""

    @abstractmethod
    def _spot(self) -> int:
        """Spot size index."""

    @abstractmethod
    def _lens(self) -> float:
        """Raw read-back of the lens that spreads the beam."""

    @abstractmethod
    def _set_illumination(self, spot: int, lens: float) -> None:
        """Send spot size and lens."""

    @abstractmethod
    def _energy_keV(self) -> float | None:
        """Beam energy if it can be read."""

    @abstractmethod
    def _defocus_nm(self) -> float:
        """Positive is underfocus; 0 where it cannot be read."""

    @abstractmethod
    def _set_defocus_nm(self, defocus_nm: float) -> None:
        """Send; never called where ``defocus_nm`` is not among the settings."""

    @abstractmethod
    def _magnification(self) -> float | None:
        """As indicated, None out of image mode."""

    @abstractmethod
    def _camera_length_mm(self) -> float | None:
        """As indicated, None out of diffraction mode."""

    def _settle_lenses(self) -> None:
        """Normalise, where the vendor can; by default nothing."""
        return
