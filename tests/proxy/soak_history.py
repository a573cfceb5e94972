"""Which failures of a soak an endpoint's own death explains. Pure.

Each endpoint process has a name of its own and one life: listed for clients at some time, taken
off the list, dead. An exchange fails for its endpoint's death when that came while it went on. An
exchange that did not hear who served it may have been on its way to any that died meanwhile. A
datagram gets no answer either when it was sent to one that was dead but still listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Seconds that two processes may differ in when something happened.
TOLERANCE = 0.25


@dataclass(slots=True)
class Life:
    """Times are seconds of one clock; infinite: not yet. A process ``died`` when it was killed and
    is ``gone`` when its parent heard of that: a busy machine takes its time in between."""

    listed: float = float("inf")
    unlisted: float = float("inf")
    died: float = float("inf")
    gone: float = float("inf")

    def died_during(self, start: float, end: float) -> bool:
        return start - TOLERANCE <= self.gone and self.died <= end + TOLERANCE

    def deaf_during(self, start: float, end: float) -> bool:
        """Dead and still listed."""
        return self.died <= end + TOLERANCE and start <= self.unlisted + TOLERANCE


@dataclass(frozen=True, slots=True)
class Failure:
    """An exchange that failed; ``server`` is the endpoint that it heard of, or ""."""

    kind: str
    start: float
    end: float
    server: str
    error: str


def explained(failure: Failure, lives: Mapping[str, Life]) -> bool:
    if "Mismatch" in failure.error:
        return False  # a death cuts off; it changes nothing
    if failure.kind == "udp":
        return any(life.deaf_during(failure.start, failure.end) for life in lives.values())
    if failure.server:
        return lives[failure.server].died_during(failure.start, failure.end)
    return any(life.died_during(failure.start, failure.end) for life in lives.values())


def unexplained(failures: Iterable[Failure], lives: Mapping[str, Life]) -> list[Failure]:
    return [failure for failure in failures if not explained(failure, lives)]


def nearest_death(failure: Failure, lives: Mapping[str, Life]) -> float:
    """Seconds from the failure to the death that is nearest to it."""
    return min((abs(life.died - failure.end) for life in lives.values()), default=float("inf"))
