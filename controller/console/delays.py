"""Growing delays after wrong passwords, per account and per address.  Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

FREE_FAILURES = 5
LONGEST_S = 900.0
FORGET_S = 3600.0
MOST_KEYS = 10_000


@dataclass
class Delays:
    """How long whoever failed has to wait before the next try is even looked at."""

    _failures: dict[str, tuple[int, float]] = field(default_factory=dict)

    def wait_s(self, keys: tuple[str, ...], now_s: float) -> float:
        """Seconds left to wait, for the worst of `keys`."""
        return max((self._left_s(key, now_s) for key in keys), default=0.0)

    def failed(self, keys: tuple[str, ...], now_s: float) -> None:
        """One more failure for each of `keys`."""
        if len(self._failures) > MOST_KEYS:
            self._failures = {
                key: seen for key, seen in self._failures.items() if now_s - seen[1] < FORGET_S
            }
        for key in keys:
            count, last_s = self._failures.get(key, (0, now_s))
            count = 0 if now_s - last_s > FORGET_S else count
            self._failures[key] = (count + 1, now_s)

    def succeeded(self, keys: tuple[str, ...]) -> None:
        """Forget what failed."""
        for key in keys:
            self._failures.pop(key, None)

    def _left_s(self, key: str, now_s: float) -> float:
        count, last_s = self._failures.get(key, (0, now_s))
        if count < FREE_FAILURES:
            return 0.0
        delay_s = min(2.0 ** (count - FREE_FAILURES), LONGEST_S)
        return max(0.0, last_s + delay_s - now_s)
