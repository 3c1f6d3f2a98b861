"""When to stop: at the turn of the likelihood of electrons that the fit has never seen."""

import math
from dataclasses import dataclass


@dataclass
class HeldOutStop:
    """Watch the held-out loss; stop after ``patience`` passes without a gain worth having.

    A gain counts if it is at least ``worth`` of all that was gained since the first pass: minima
    at low dose are shallow, and the noise of the difference between two passes small.
    """

    patience: int
    worth: float = 0.004
    best_pass: int = 0
    best: float = math.inf
    _first: float = math.nan
    _waited: int = 0

    def observe(self, pass_number: int, loss: float) -> bool:
        """Note the loss after a pass; True if it is the best so far."""
        if pass_number == 1:
            self._first = loss
        needed = self.worth * max(self._first - self.best, 0.0) if self.best < math.inf else 0.0
        self._waited = 0 if loss < self.best - needed else self._waited + 1
        if loss < self.best:
            self.best, self.best_pass = loss, pass_number
            return True
        return False

    @property
    def should_stop(self) -> bool:
        """No gain worth having for ``patience`` passes."""
        return self._waited >= self.patience
