"""Who may come in by the doors that a service of type LoadBalancer opens to the outside
(spec.loadBalancerSourceRanges)."""

from __future__ import annotations

import ipaddress

from k8slite.kit.addresses import plain
from k8slite.netfilter.conntrack import Address, canonical
from k8slite.roles.proxy.ports import PortalPort


class Sources:
    """Call it with a client's address and what it asked for. Like kube-proxy it asks nobody at
    the portal and at external IPs; at all other doors it asks pods and hosts too."""

    def __init__(self, port: PortalPort) -> None:
        self._networks = [ipaddress.ip_network(text) for text in port.ranges]
        self._open = frozenset(
            (canonical(address), port.port)
            for address in port.addresses
            if address not in port.guarded
        )

    def __call__(self, client: str, target: Address) -> bool:
        if target in self._open:
            return True
        address = ipaddress.ip_address(plain(client))
        return any(address in network for network in self._networks)


def sources_of(port: PortalPort) -> Sources | None:
    """None when everybody may come."""
    return Sources(port) if port.ranges else None
