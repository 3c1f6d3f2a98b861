"""What keeps the specimen and the stage safe: limits, dose ledger, interlocks, the gate.

``limits`` says what must not be exceeded, ``dose`` keeps the ledger of what every patch of
specimen has received, and ``gate.GuardedMicroscope`` is the only way to the beam.
"""

from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits

__all__ = ["DoseLedger", "DoseLimits", "GuardedMicroscope"]
