"""What the instrument says of itself, published a few times a second, and watched for hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from controller.hardware.values import Frozen, OpticsState, StagePose
from controller.safety.gate import GuardedMicroscope
from controller.server.hand import HandWatch
from controller.server.publisher import Publisher

STATUS_S = 0.2


class StatusReport:
    """Reads pose, optics and health, publishes them with the state of the service.

    Parameters
    ----------
    state
        Of the service; ``busy`` in it says whether a command is under way.
    """

    def __init__(
        self,
        microscope: GuardedMicroscope,
        publisher: Publisher,
        hand: HandWatch,
        state: Callable[[], dict[str, Any]],
    ) -> None:
        self._microscope = microscope
        self._publisher = publisher
        self._hand = hand
        self._state = state

    def run(self, closing: threading.Event) -> None:
        """Report until `closing`; a driver that fails is reported, and ends nothing."""
        while not closing.wait(STATUS_S):
            generation = self._hand.generation
            body: dict[str, Any] = {"service": self._state()}
            read: dict[str, Frozen] = {}
            for name, ask in (
                ("pose", self._microscope.stage.pose),
                ("optics", self._microscope.optics.state),
                ("health", self._microscope.column.health),
            ):
                try:
                    read[name] = ask()
                    body[name] = read[name].model_dump(mode="json")
                except Exception as problem:  # noqa: BLE001  (whatever a vendor's interface raises)
                    body[name] = {"error": type(problem).__name__, "message": str(problem)}
            body["blanked"] = self._blanked()
            self._publisher.publish("status", body)
            if not body["service"]["busy"]:
                self._watch_hands(read, generation)

    def _blanked(self) -> bool | None:
        """As read back; None where nobody can tell."""
        try:
            return self._microscope.is_blanked()
        except Exception:  # noqa: BLE001  (as above)
            return None

    def _watch_hands(self, read: dict[str, Frozen], generation: int) -> None:
        pose, optics = read.get("pose"), read.get("optics")
        if isinstance(pose, StagePose) and isinstance(optics, OpticsState):
            changed = self._hand.look(pose, optics, time.monotonic(), generation=generation)
            if changed:
                self._publisher.publish("hand", {"changed": changed})
