"""Which endpoint serves the next connection: round robin (``decide.rounds``), with ClientIP
affinity, and kept to this node where the service asks for it.

Affinity is kube-proxy's: it lasts as long as since the client's last use, whatever the port, for
each address, IPv4 or IPv6. It outlives an ejection: what other connections met is no reason to
take a client away from the endpoint that has its state, so a client is brought to its own first;
only when this very connection failed there does it move, and then for good.

Nothing here waits or looks at a clock, so one call is one step: any number of connections that are
being set up at once draw from the same sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from k8slite.decide.rounds import Ejections, Endpoint, Round, Shuffler
from k8slite.kit.addresses import unmapped
from k8slite.kit.backoff import Backoff

__all__ = ["AFFINITY_SECONDS", "Balancer", "Endpoint", "Shuffler"]

#: ClientIP affinity lasts so many seconds after the last use (kube-proxy: 180 minutes).
AFFINITY_SECONDS = 10_800.0

#: So many clients are remembered for one service port; the longest unseen is forgotten first.
AFFINITY_CLIENTS = 65_536

_EJECTION = Backoff(initial=1.0, maximum=30.0)


class Balancer:
    """The endpoints of one service port. Times are seconds of any clock that never jumps.

    ``affinity`` is the seconds that a client stays with its endpoint, or None for none.
    ``inside(client)`` says whether a client's address is a pod's or this host's.
    """

    def __init__(
        self,
        rng: Shuffler,
        *,
        affinity: float | None = None,
        ejection: Backoff = _EJECTION,
        inside: Callable[[str], bool] = lambda client: True,
    ) -> None:
        self._rng = rng
        self._affinity = affinity
        self._warm_up = 0.0
        self._is_inside = inside
        self._ejections = Ejections(ejection)
        self._everywhere = self._new_round()
        self._here = self._everywhere  # of this node; made when it is needed
        self._inside = self._outside = self._everywhere  # which round serves whom
        self._clients: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()

    def _new_round(self) -> Round:
        return Round(self._rng, self._ejections)

    def __len__(self) -> int:
        if self._inside is self._outside:
            return len(self._inside.members)
        return len(self._everywhere.members)

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """All that may be drawn."""
        if self._inside is self._outside:
            return self._inside.members
        return self._everywhere.members

    def set_affinity(self, seconds: float | None) -> None:
        self._affinity = seconds
        if seconds is None:
            self._clients.clear()

    def set_warm_up(self, seconds: float) -> None:
        """Endpoints that come from now on get their full share only after so many seconds."""
        self._warm_up = seconds

    def set_local(self, *, inside: bool, outside: bool) -> None:
        """Whether clients inside and outside of the cluster are served by endpoints on this node
        alone. To be followed by ``set_endpoints``."""
        if self._here is self._everywhere and (inside or outside):
            self._here = self._new_round()
        self._inside = self._here if inside else self._everywhere
        self._outside = self._here if outside else self._everywhere

    def set_endpoints(
        self, endpoints: Iterable[Endpoint], now: float = 0.0, local: Iterable[Endpoint] = ()
    ) -> bool:
        """Serve from these from now on; ``local`` are those for whoever is kept to this node.
        Returns whether anything changed."""
        changed = self._everywhere.set(endpoints, now, self._warm_up)
        if self._here is not self._everywhere:
            changed |= self._here.set(local, now, self._warm_up)
        if self._ejections.held:
            self._ejections.keep(self._everywhere.members | self._here.members)
        return changed

    def pick(self, client: str, now: float, avoid: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a connection of ``client`` (its address), or None when there is none
        for it.

        ``avoid`` are those that this connection tried already: they come again only when there is
        no other. A client with affinity keeps its endpoint unless it is gone or to be avoided.
        """
        turns = self._inside
        if turns is not self._outside and not self._is_inside(client):
            turns = self._outside
        if self._affinity is None:
            return turns.turn(now, avoid)
        return self._faithful(turns, client, now, avoid)

    def serves(self, client: str, endpoint: Endpoint) -> bool:
        """May a flow of ``client`` go on at ``endpoint``, as things are now?"""
        if self._inside is self._outside or self._is_inside(client):
            return endpoint in self._inside.members
        return endpoint in self._outside.members

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """A connection to ``endpoint`` did not come about: pass it over for a while."""
        if endpoint in self._everywhere.members or endpoint in self._here.members:
            self._ejections.failed(endpoint, now)

    def served(self, endpoint: Endpoint) -> None:
        """A connection to ``endpoint`` came about: what was held against it is forgotten."""
        if self._ejections.held:
            self._ejections.served(endpoint)

    def ejected(self, endpoint: Endpoint, now: float) -> bool:
        """Is ``endpoint`` passed over now?"""
        return self._ejections.passes_over(endpoint, now)

    def weight(self, endpoint: Endpoint, now: float) -> float:
        """The share of a warm endpoint's connections that ``endpoint`` gets; 0 when it is not to
        be drawn at all."""
        return max(
            turns.weight(endpoint, now) if endpoint in turns.members else 0.0
            for turns in (self._inside, self._outside)
        )

    def _faithful(
        self, turns: Round, client: str, now: float, avoid: Collection[Endpoint]
    ) -> Endpoint | None:
        """The client's own endpoint, or its new own one."""
        client = unmapped(client)
        self._expire(now)
        known = self._clients.get(client)
        if known and known[0] in turns.members and known[0] not in avoid:
            endpoint: Endpoint | None = known[0]
        else:
            endpoint = turns.turn(now, avoid)
        if endpoint is None:
            return None
        self._clients[client] = (endpoint, now)
        self._clients.move_to_end(client)
        if len(self._clients) > AFFINITY_CLIENTS:
            self._clients.popitem(last=False)
        return endpoint

    def _expire(self, now: float) -> None:
        """Forget clients that were not seen for the affinity's time; they stand at the front."""
        limit = now - (self._affinity or 0.0)
        clients = self._clients
        while clients:
            client, (_, seen) = next(iter(clients.items()))
            if seen > limit:
                break
            del clients[client]
