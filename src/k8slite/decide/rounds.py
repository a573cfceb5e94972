"""Round robin over the endpoints of a service port: whose turn it is.

The promise. Take any endpoints that stay, are healthy and warm the whole time. Whatever comes,
goes, fails or warms up between them, and however many connections are being set up at once, draws
go round among them in one fixed order: each gets its next draw after each other of them had
exactly one. So n draws over n such endpoints give each exactly one, at whatever draw one begins to
count. (Draws of a connection that goes on with another endpoint after a failure count as draws.)

A warming endpoint of weight w has its turn in w of the rounds: each time the round comes by it
earns w, and is drawn when it has earned a whole turn. That is smooth weighted round robin, without
any cost for the warm ones.

An endpoint that refuses is ejected: passed over for 1 s, then 2, 4, up to 30 s. When its time is
over one connection probes it, the others go on passing it over until that tells how it went.
However many refuse, all are ejected, unlike with Envoy's max_ejection_percent: a limit is worth
something where what goes to a bad host is lost; here it is tried again with another, so those
that are left would have no less to bear, and clients would wait for a timeout. When none is left
to pass over to, the round goes over all of them as if none were ejected (Envoy's panic mode).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from k8slite.kit.backoff import Backoff

#: A new endpoint begins with this share of a warm one's connections.
FIRST_SHARE = 0.1

#: Seconds after which a probe that nothing was heard of is taken for good news: longer than any
#: attempt to connect lasts, and UDP servers that never answer have no better news.
PROBE_SECONDS = 10.0

#: Earned turns are sums of fractions.
_WHOLE = 1.0 - 1e-9


class Endpoint(NamedTuple):
    """One place that serves."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


class Shuffler(Protocol):
    """The part of a random source that balancing needs."""

    def randrange(self, stop: int, /) -> int: ...


@dataclass(slots=True)
class Trouble:
    """What is held against an endpoint."""

    failures: int  # in a row; those that were on their way when it was ejected are none
    until: float  # passed over before this time
    probing: bool = False


class Ejections:
    """Which endpoints are passed over, because connections to them did not come about: ``held``,
    which is mostly empty. Times are seconds of any clock that never jumps."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self.held: dict[Endpoint, Trouble] = {}

    def failed(self, endpoint: Endpoint, now: float) -> None:
        trouble = self.held.get(endpoint)
        if trouble is None:
            trouble = self.held[endpoint] = Trouble(0, now)
        elif now < trouble.until and not trouble.probing:
            return  # it was ejected since this connection set out
        trouble.failures += 1
        trouble.until = now + self._backoff.delay(trouble.failures)
        trouble.probing = False

    def served(self, endpoint: Endpoint) -> None:
        self.held.pop(endpoint, None)

    def keep(self, members: Collection[Endpoint]) -> None:
        """Forget all others."""
        for endpoint in [held for held in self.held if held not in members]:
            del self.held[endpoint]

    def passes_over(self, endpoint: Endpoint, now: float) -> bool:
        trouble = self.held.get(endpoint)
        return trouble is not None and now < trouble.until

    def drawn(self, endpoint: Endpoint, now: float) -> None:
        """A connection sets out to ``endpoint``: if its time is over, it is the probe."""
        trouble = self.held.get(endpoint)
        if trouble is None or now < trouble.until:
            return
        if trouble.probing:
            del self.held[endpoint]  # nothing bad was heard of the last one
        else:
            trouble.probing = True
            trouble.until = now + PROBE_SECONDS


class Round:
    """The endpoints in the order of their turns, which is random. ``ejections`` may be shared
    with other rounds over the same endpoints."""

    def __init__(self, rng: Shuffler, ejections: Ejections) -> None:
        self.members: frozenset[Endpoint] = frozenset()
        self._rng = rng
        self._ejections = ejections
        self._held = ejections.held
        self._ring: list[Endpoint] = []
        self._next = 0
        self._warm_up = 0.0
        self._since: dict[Endpoint, float] = {}  # when those appeared that are not yet warm
        self._earned: dict[Endpoint, float] = {}  # parts of a turn
        self._served_yet = False

    def set(self, endpoints: Iterable[Endpoint], now: float, warm_up: float) -> bool:
        """Serve from these from now on. Those that stay keep their order and the place in the
        round; new ones are put in at random, and warm up for ``warm_up`` seconds. Those of the
        first time are warm: they were there before us. Returns whether the set changed."""
        self._warm_up = warm_up
        wanted = dict.fromkeys(endpoints)
        if self.members == wanted.keys():
            return False
        upcoming = self._ring[self._next :] + self._ring[: self._next]
        ring = [endpoint for endpoint in upcoming if endpoint in wanted]
        kept = len(ring)
        for endpoint in wanted:
            if endpoint not in self.members:
                ring.insert(self._rng.randrange(len(ring) + 1), endpoint)
                if warm_up and self._served_yet:
                    self._since[endpoint] = now
        # A round that starts anew also starts anywhere; one that goes on goes on.
        self._ring, self._next = ring, 0 if kept or not ring else self._rng.randrange(len(ring))
        self.members = frozenset(ring)
        self._served_yet = True
        for endpoint in self._since.keys() - self.members:
            self._warmed(endpoint)
        return True

    def weight(self, endpoint: Endpoint, now: float) -> float:
        """The share of a warm endpoint's connections that ``endpoint`` gets: 1 once it is warm."""
        since = self._since.get(endpoint)
        if since is None:
            return 1.0
        if now - since >= self._warm_up:
            self._warmed(endpoint)
            return 1.0
        return max(FIRST_SHARE, (now - since) / self._warm_up)

    def turn(self, now: float, avoid: Collection[Endpoint]) -> Endpoint | None:
        """The next endpoint that is neither ejected nor to be avoided; else the next that is not
        to be avoided; else simply the next. None without endpoints."""
        ring, index = self._ring, self._next
        if not ring:
            return None
        if avoid or self._since or self._held:
            return self._search(now, avoid)
        self._next = (index + 1) % len(ring)
        return ring[index]

    def _search(self, now: float, avoid: Collection[Endpoint]) -> Endpoint:
        """The slow way: at most as many times round as it takes to earn a turn."""
        ring, size, start = self._ring, len(self._ring), self._next
        held, warming = self._held, self._since
        fallback: int | None = None
        index, earning = start, True
        while earning:
            earning = False
            for _ in range(size):
                here, index = index, (index + 1) % size
                endpoint = ring[here]
                if endpoint in avoid:
                    continue
                if endpoint in held and self._ejections.passes_over(endpoint, now):
                    fallback = here if fallback is None else fallback
                elif endpoint in warming and not self._earns(endpoint, now):
                    earning = True
                else:
                    self._next = index
                    if endpoint in held:
                        self._ejections.drawn(endpoint, now)
                    return endpoint
        here = start if fallback is None else fallback
        self._next = (here + 1) % size
        return ring[here]

    def _earns(self, endpoint: Endpoint, now: float) -> bool:
        """The round comes by ``endpoint``: whether it has a whole turn by now."""
        weight = self.weight(endpoint, now)
        if weight >= 1.0:
            return True
        earned = self._earned.get(endpoint, 0.0) + weight
        whole = earned >= _WHOLE
        self._earned[endpoint] = earned - 1.0 if whole else earned
        return whole

    def _warmed(self, endpoint: Endpoint) -> None:
        self._since.pop(endpoint, None)
        self._earned.pop(endpoint, None)
