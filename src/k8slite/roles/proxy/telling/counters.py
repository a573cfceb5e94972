"""What the proxy counts, as plain numbers; ``/metrics`` and ``/stats/services`` read them.

Each thing is counted once, at its endpoint; what a service port did in all is added up when
somebody asks. So a connection costs a few additions, however much is shown of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from k8slite.decide.balancing import Endpoint


@dataclass(slots=True, eq=False)
class EndpointCounters:
    """Connections (TCP) or sessions (UDP) that came about, those that are open, attempts that
    failed, and the seconds that connecting took in all. Bytes are the payload from clients
    (``received``) and to them (``sent``)."""

    connections: int = 0
    active: int = 0
    failures: int = 0
    connect_seconds: float = 0.0
    received: int = 0
    sent: int = 0

    def add(self, other: EndpointCounters) -> None:
        self.connections += other.connections
        self.active += other.active
        self.failures += other.failures
        self.connect_seconds += other.connect_seconds
        self.received += other.received
        self.sent += other.sent


@dataclass(slots=True, eq=False)
class PortCounters:
    """One service port.

    ``strangers`` came to the listener past the portal and got nothing; ``unserved`` found no
    endpoint that answered; ``overrun`` are datagrams of new UDP clients when too many came at once.
    ``endpoints`` are those that served so far and still do; one that was taken away stays until its
    last connection ends.
    """

    strangers: int = 0
    unserved: int = 0
    overrun: int = 0
    endpoints: dict[Endpoint, EndpointCounters] = field(default_factory=dict)
    _former: EndpointCounters = field(default_factory=EndpointCounters)
    _seconds: float = 0.0  # told last
    _members: frozenset[Endpoint] = frozenset()

    def of(self, endpoint: Endpoint) -> EndpointCounters:
        found = self.endpoints.get(endpoint)
        if found is None:
            found = self.endpoints[endpoint] = EndpointCounters()
        return found

    def keep(self, endpoints: frozenset[Endpoint]) -> None:
        """These are the endpoints from now on. What others did is kept as a sum, so that churn
        costs no memory and no total ever goes down."""
        self._members = endpoints
        self._sum_up_former()

    def total(self) -> EndpointCounters:
        """What all endpoints did since there is the port."""
        self._sum_up_former()
        total = EndpointCounters()
        total.add(self._former)
        for counters in self.endpoints.values():
            total.add(counters)
        # Added up in another order it may be less in the last digit; Prometheus would take that for
        # a counter that began anew.
        self._seconds = total.connect_seconds = max(self._seconds, total.connect_seconds)
        return total

    def _sum_up_former(self) -> None:
        for endpoint in self.endpoints.keys() - self._members:
            counters = self.endpoints[endpoint]
            if not counters.active:
                self._former.add(self.endpoints.pop(endpoint))

    @property
    def connections(self) -> int:
        return self.total().connections

    @property
    def active(self) -> int:
        return self.total().active

    @property
    def received(self) -> int:
        return self.total().received

    @property
    def sent(self) -> int:
        return self.total().sent


@dataclass(slots=True)
class ProxyCounters:
    """The whole proxy: ``ports`` by ``namespace/service:portname``."""

    ports: dict[str, PortCounters] = field(default_factory=dict)
    rule_changes: int = 0
    rule_syncs: int = 0
    rule_failures: int = 0

    def of(self, name: str) -> PortCounters:
        return self.ports.setdefault(name, PortCounters())
