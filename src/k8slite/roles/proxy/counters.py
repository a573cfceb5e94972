"""What the proxy counts, as plain numbers; ``/metrics`` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from k8slite.decide.balancing import Endpoint


@dataclass(slots=True)
class EndpointCounters:
    """Connections (TCP) or sessions (UDP) that came about, attempts that failed, and the seconds
    that connecting took in all."""

    connections: int = 0
    failures: int = 0
    connect_seconds: float = 0.0


@dataclass(slots=True)
class PortCounters:
    """One service port.

    ``strangers`` came to the listener past the portal and got nothing; ``unserved`` found no
    endpoint that answered. Bytes are the payload from clients (``received``) and to them
    (``sent``).
    """

    connections: int = 0
    active: int = 0
    strangers: int = 0
    unserved: int = 0
    received: int = 0
    sent: int = 0
    endpoints: dict[Endpoint, EndpointCounters] = field(default_factory=dict)

    def of(self, endpoint: Endpoint) -> EndpointCounters:
        found = self.endpoints.get(endpoint)
        if found is None:
            found = self.endpoints[endpoint] = EndpointCounters()
        return found

    def keep(self, endpoints: frozenset[Endpoint]) -> None:
        """Forget endpoints that are gone, so that churn does not add up."""
        for endpoint in self.endpoints.keys() - endpoints:
            del self.endpoints[endpoint]


@dataclass(slots=True)
class ProxyCounters:
    """The whole proxy: ``ports`` by ``namespace/service:portname``."""

    ports: dict[str, PortCounters] = field(default_factory=dict)
    rule_changes: int = 0
    rule_syncs: int = 0
    rule_failures: int = 0

    def of(self, name: str) -> PortCounters:
        return self.ports.setdefault(name, PortCounters())
