"""Back-off as data: a rule and a count give a delay; nobody's clock is touched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays in seconds: ``initial``, times ``factor`` a failure, up to ``maximum``."""

    initial: float
    maximum: float
    factor: float = 2.0

    def delay(self, failures: int) -> float:
        """The delay after ``failures`` failures in a row (none after zero)."""
        if failures <= 0:
            return 0.0
        # The exponent is capped so that a week of failures cannot overflow a float.
        return float(min(self.maximum, self.initial * self.factor ** min(failures - 1, 64)))
