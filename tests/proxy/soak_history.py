"""Which failures of a soak an endpoint's own death explains. Pure.

Each endpoint process has a name of its own and one life: listed for clients at some time, taken
off the list, dead. An exchange fails for its endpoint's death when that came while it went on. An
exchange that did not hear who served it may have been on its way to any that died meanwhile. A
datagram gets no answer either when it was sent to one that was dead but still listed.

Where the kernel forwards nobody tries another endpoint: a connection fails as well when it was
led to one that was dead but still listed. A client's flow of datagrams stays with its endpoint
until it is forgotten, soon after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Seconds that two processes may differ in when something happened.
TOLERANCE = 0.25
#: Seconds until the flows to an endpoint that is gone are forgotten by a busy machine's kernel.
FORGOTTEN = 1.0


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

    def deaf_during(self, start: float, end: float, more: float = 0.0) -> bool:
        """Dead and still listed, or so many seconds after."""
        return self.died <= end + TOLERANCE and start <= self.unlisted + more + TOLERANCE


@dataclass(frozen=True, slots=True)
class Failure:
    """An exchange that failed; ``server`` is the endpoint that it heard of, or ""."""

    kind: str
    start: float
    end: float
    server: str
    error: str


def explained(failure: Failure, lives: Mapping[str, Life], *, kernel: bool = False) -> bool:
    """``kernel``: it is the kernel that forwards."""
    start, end = failure.start, failure.end
    if "Mismatch" in failure.error:
        return False  # a death cuts off; it changes nothing
    if failure.kind == "udp":
        more = FORGOTTEN if kernel else 0.0
        return any(life.deaf_during(start, end, more) for life in lives.values())
    if failure.server:
        return lives[failure.server].died_during(start, end)
    return any(
        life.died_during(start, end) or (kernel and life.deaf_during(start, end))
        for life in lives.values()
    )


def unexplained(
    failures: Iterable[Failure], lives: Mapping[str, Life], *, kernel: bool = False
) -> list[Failure]:
    return [failure for failure in failures if not explained(failure, lives, kernel=kernel)]


def nearest_death(failure: Failure, lives: Mapping[str, Life]) -> float:
    """Seconds from the failure to the death that is nearest to it."""
    return min((abs(life.died - failure.end) for life in lives.values()), default=float("inf"))
