"""A deflector of the column: calibrated, or watched so that nobody moves it unseen."""

from __future__ import annotations

from collections.abc import Callable

from controller.backends.site import Deflector
from controller.hardware.errors import ModeError, UnsupportedError
from controller.hardware.values import Vector


class Deflection:
    """Reads and writes one pair of coils in physical units.

    Parameters
    ----------
    name
        Field of `OpticsState`.
    calibration
        None: the raw values of the first reading count as (0, 0) and have to stay.
    read, write
        Raw values of the vendor.
    """

    def __init__(
        self,
        name: str,
        calibration: Deflector | None,
        read: Callable[[], Vector],
        write: Callable[[Vector], None],
    ) -> None:
        self._name = name
        self._calibration = calibration
        self._read = read
        self._write = write
        self._parked: Vector | None = None

    def get(self) -> Vector:
        """Physical value.

        Raises
        ------
        ModeError
            Not calibrated, and somebody moved it: where the beam lands is not known.
        """
        raw = self._read()
        if self._calibration is not None:
            return self._calibration.value(raw)
        if self._parked is None:
            self._parked = raw
        if raw != self._parked:
            raise ModeError(
                f"{self._name} is not calibrated and stands at the raw values {raw}, at the start "
                f"it was {self._parked}: where the beam lands is not known; the beam stays "
                f"blanked. Put it back, or calibrate it in the site file."
            )
        return 0.0, 0.0

    def check(self, value: Vector) -> None:
        """Refuse what `set` would refuse, before anything is sent."""
        if self._calibration is None:
            raise UnsupportedError(
                f"{self._name} is not calibrated in the site file; nothing was changed."
            )
        self._calibration.raw_for(value)

    def set(self, value: Vector) -> None:
        """Send a physical value.

        Raises
        ------
        LimitError, UnsupportedError
            Out of reach, or not calibrated. Nothing was changed.
        """
        self.check(value)
        if self._calibration is not None:
            self._write(self._calibration.raw_for(value))
