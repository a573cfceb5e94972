"""A proxy's knowledge without a proxy: what it serves, and what it counted."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.telling.counters import ProxyCounters
from k8slite.roles.proxy.telling.report import Report


@dataclass
class Node:
    """Named n1."""

    counters: ProxyCounters = field(default_factory=ProxyCounters)
    served: dict[str, tuple[PortalPort, Balancer]] = field(default_factory=dict)

    def serve(self, name: str, *endpoints: Endpoint) -> Balancer:
        balancer = Balancer(random.Random(1))
        balancer.set_endpoints(endpoints)
        self.counters.of(name).keep(balancer.endpoints)
        port = PortalPort(name, "tcp", ("10.0.0.1",), 80, name.rpartition(":")[2], None)
        self.served[name] = (port, balancer)
        return balancer

    def ports(self) -> Iterable[PortalPort]:
        return [port for port, _ in self.served.values()]

    def endpoints(self, port: PortalPort) -> frozenset[Endpoint]:
        return self.served[port.name][1].endpoints

    def balancer(self, name: str) -> Balancer | None:
        return self.served[name][1]

    @property
    def report(self) -> Report:
        return Report(self, self.counters, Clock(), "n1")

    async def connections(self) -> dict[str, int]:
        return {}
