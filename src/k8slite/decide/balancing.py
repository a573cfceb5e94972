"""Which endpoint serves the next connection: round robin, ClientIP affinity, failing ones skipped.

The rules are kube-proxy's (v0.17, pkg/proxy/roundrobin.go): endpoints in a shuffled list, the next
one is the one after the last; affinity lasts as long as since the client's last use. Kept better:
a changed endpoint set keeps the place and the order of those that stay, and an endpoint that just
refused is passed over for a while instead of being tried first by every new client.

Nothing here waits or looks at a clock, so one call is one step: any number of connections that are
being set up at once draw from the same sequence, and n draws over n healthy endpoints give each
exactly one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from k8slite.kit.backoff import Backoff

#: ClientIP affinity lasts so many seconds after the last use (kube-proxy: 180 minutes).
AFFINITY_SECONDS = 10_800.0

#: So many clients are remembered for one service port; the longest unseen is forgotten first.
AFFINITY_CLIENTS = 65_536


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
class _Trouble:
    failures: int
    until: float  # passed over before this time


class Balancer:
    """The endpoints of one service port. Times are seconds of any clock that never jumps.

    ``affinity`` is the seconds that a client stays with its endpoint, or None for none.
    """

    def __init__(
        self,
        rng: Shuffler,
        *,
        affinity: float | None = None,
        ejection: Backoff = Backoff(initial=1.0, maximum=30.0),  # noqa: B008 (a frozen value)
    ) -> None:
        self._rng = rng
        self._affinity = affinity
        self._ejection = ejection
        self._ring: list[Endpoint] = []
        self._members: frozenset[Endpoint] = frozenset()
        self._next = 0
        self._clients: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()
        self._trouble: dict[Endpoint, _Trouble] = {}

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        return self._members

    def set_affinity(self, seconds: float | None) -> None:
        self._affinity = seconds
        if seconds is None:
            self._clients.clear()

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> bool:
        """Serve from these from now on. Those that stay keep their order and the place in the
        round; new ones are put in at random. Returns whether the set changed."""
        wanted = dict.fromkeys(endpoints)
        if self._members == wanted.keys():
            return False
        upcoming = self._ring[self._next :] + self._ring[: self._next]
        ring = [endpoint for endpoint in upcoming if endpoint in wanted]
        kept = len(ring)
        for endpoint in wanted:
            if endpoint not in self._members:
                ring.insert(self._rng.randrange(len(ring) + 1), endpoint)
        # A balancer that starts anew also starts anywhere; one that goes on goes on.
        self._ring, self._next = ring, 0 if kept or not ring else self._rng.randrange(len(ring))
        self._members = frozenset(ring)
        for endpoint in self._trouble.keys() - self._members:
            del self._trouble[endpoint]
        return True

    def pick(self, client: str, now: float, avoid: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a connection of ``client`` (its address), or None without endpoints.

        ``avoid`` are those that this connection tried already: they come again only when there is
        no other. A client with affinity keeps its endpoint unless it is gone or to be avoided.
        """
        if not self._ring:
            return None
        if self._affinity is None:
            return self._turn(now, avoid)
        self._expire(now)
        known = self._clients.get(client)
        if known and known[0] in self._members and known[0] not in avoid:
            endpoint = known[0]
        else:
            endpoint = self._turn(now, avoid)
        self._clients[client] = (endpoint, now)
        self._clients.move_to_end(client)
        if len(self._clients) > AFFINITY_CLIENTS:
            self._clients.popitem(last=False)
        return endpoint

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """A connection to ``endpoint`` did not come about: pass it over for a while."""
        if endpoint in self._members:
            trouble = self._trouble.setdefault(endpoint, _Trouble(0, now))
            trouble.failures += 1
            trouble.until = now + self._ejection.delay(trouble.failures)

    def served(self, endpoint: Endpoint) -> None:
        """A connection to ``endpoint`` came about: what was held against it is forgotten."""
        if self._trouble:
            self._trouble.pop(endpoint, None)

    def _turn(self, now: float, avoid: Collection[Endpoint]) -> Endpoint:
        """The next endpoint in the round that is not in trouble; else the next not yet tried;
        else simply the next."""
        ring, start = self._ring, self._next
        size = len(ring)
        if not avoid and not self._trouble:
            self._next = (start + 1) % size
            return ring[start]
        fallback: int | None = None
        for step in range(size):
            index = (start + step) % size
            if ring[index] in avoid:
                continue
            trouble = self._trouble.get(ring[index])
            if trouble is None or now >= trouble.until:
                self._next = (index + 1) % size
                return ring[index]
            if fallback is None:
                fallback = index
        index = start if fallback is None else fallback
        self._next = (index + 1) % size
        return ring[index]

    def _expire(self, now: float) -> None:
        """Forget clients that were not seen for the affinity's time; they stand at the front."""
        limit = now - (self._affinity or 0.0)
        clients = self._clients
        while clients:
            client, (_, seen) = next(iter(clients.items()))
            if seen > limit:
                break
            del clients[client]
