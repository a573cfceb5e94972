"""What a service asks of the proxy: one frozen value for each of its ports. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from k8slite.api.kinds.endpoints.types import Endpoints, EndpointSubset
from k8slite.api.kinds.service import proxying
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.config import Settings
from k8slite.decide.allocation import wants_node_ports
from k8slite.decide.balancing import AFFINITY_SECONDS, Endpoint
from k8slite.decide.endpoints import terminating_of
from k8slite.netfilter.portals import Claim


@dataclass(frozen=True, slots=True)
class PortalPort:
    """One port of one service. ``name`` is ``namespace/service:portname``; ``affinity`` the
    seconds that a client stays with its endpoint, or None; ``warm_up`` the seconds in which a new
    endpoint gets its full share. Clients inside or outside of the cluster may be kept to the
    endpoints of this node. ``client_address`` is how endpoints learn who the client is: one of
    ``proxying.CLIENT_ADDRESSES``, or "" for not at all; TCP alone. ``node_port`` is 0 for none.
    ``public`` are those of the ``addresses`` that reach it from outside: they may be this host's
    own. With ``ranges`` (networks) only clients of these may come to the ``guarded`` ones
    of the addresses and to the node port."""

    name: str
    protocol: str  # tcp or udp
    addresses: tuple[str, ...]
    port: int
    port_name: str
    affinity: float | None
    warm_up: float = 0.0
    inside_local: bool = False
    outside_local: bool = False
    client_address: str = ""
    node_port: int = 0
    public: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What it asks for, but for the node port."""
        return tuple(Claim(address, self.protocol, self.port) for address in self.addresses)

    @property
    def held(self) -> tuple[Claim, ...]:
        """What of it may be a port of this host, which only one can have."""
        places = [(address, self.port) for address in self.public]
        if self.node_port:
            places.append(("", self.node_port))
        return tuple(Claim(address, self.protocol, number) for address, number in places)

    def without(self, claims: Collection[Claim]) -> PortalPort:
        """The port without what it may not have."""
        lost = [claim.address for claim in claims]
        return dataclasses.replace(
            self,
            addresses=tuple(address for address in self.addresses if address not in lost),
            node_port=0 if "" in lost else self.node_port,
        )


def portal_ports(service: Service) -> tuple[PortalPort, ...]:
    """The ports that the proxy opens for a service: none for a headless one (``None``), one
    without an address yet, and for an ExternalName."""
    spec = service.spec
    if spec.type == "ExternalName" or spec.cluster_ip in ("", "None"):
        return ()
    public = _addresses(spec.external_ips)
    # A service that was of type LoadBalancer once is reached there no longer.
    ingress = service.status.load_balancer.ingress if spec.type == "LoadBalancer" else ()
    given = _addresses(entry.ip for entry in ingress)
    chosen = (*_addresses([spec.cluster_ip]), *public)
    addresses = tuple(dict.fromkeys((*chosen, *given)))
    ranges = _ranges(service)
    if not addresses:
        return ()
    return tuple(
        PortalPort(
            name=f"{service.key}:{port.name}",
            protocol=(port.protocol or "TCP").lower(),
            addresses=addresses,
            port=port.port,
            port_name=port.name,
            affinity=_affinity(service),
            warm_up=proxying.warm_up(service.metadata.annotations),
            inside_local=spec.internal_traffic_policy == "Local",
            outside_local=spec.external_traffic_policy == "Local",
            client_address=_client_address(service, port),
            node_port=port.node_port if wants_node_ports(spec) else 0,
            public=tuple(dict.fromkeys((*public, *given))),
            ranges=ranges,
            guarded=tuple(address for address in given if ranges and address not in chosen),
        )
        for port in spec.ports
        if (port.protocol or "TCP") in ("TCP", "UDP")
    )


def lifelines(settings: Settings) -> frozenset[Claim]:
    """Where this node reaches the masters and the store: rules for a service there would cut it
    off from those who could tell it that the service is gone."""
    found = set()
    for url in (*settings.server, *settings.etcd):
        try:
            parts = urlsplit(url)
            address = str(ipaddress.ip_address(parts.hostname or ""))
            found.add(Claim(address, "tcp", parts.port or 443))
        except ValueError:
            continue  # a name, which no service can have
    return frozenset(found)


def doors_at(endpoint: Endpoint, protocol: str) -> Iterator[Claim]:
    """What a portal would claim that an endpoint is the door of; a node port, if it is one of this
    host's addresses."""
    plain = str(ipaddress.ip_address(endpoint.ip)) if ":" in endpoint.ip else endpoint.ip
    yield Claim(plain, protocol, endpoint.port)
    yield Claim("", protocol, endpoint.port)


def endpoints_of(
    endpoints: Endpoints | None, port: PortalPort, node: str | None = None
) -> tuple[Endpoint, ...]:
    """What serves a port: the ready endpoints under the same port name and protocol; without any,
    those that are on their way out yet still ready (Kubernetes' ProxyTerminatingEndpoints).
    With ``node``, the endpoints of that node alone."""
    if endpoints is None:
        return ()
    ready = _of_subsets(endpoints.subsets, port, node)
    return ready or _of_subsets(terminating_of(endpoints), port, node)


def local_endpoints_of(
    endpoints: Endpoints | None, port: PortalPort, node: str
) -> tuple[Endpoint, ...]:
    """What serves the clients that are kept to ``node``; nothing when none are."""
    if not (port.inside_local or port.outside_local):
        return ()
    return endpoints_of(endpoints, port, node)


def _of_subsets(
    subsets: Iterable[EndpointSubset], port: PortalPort, node: str | None
) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(address.ip, target.port)
        for subset in subsets
        for target in subset.ports
        if target.name == port.port_name and (target.protocol or "TCP").lower() == port.protocol
        for address in subset.addresses
        if (node is None or address.node_name == node) and _is_ip(address.ip)
    )


def _client_address(service: Service, port: ServicePort) -> str:
    if (port.protocol or "TCP") != "TCP":
        return ""  # a datagram has no beginning that a header could stand at
    return proxying.client_address(service.metadata.annotations)


def _affinity(service: Service) -> float | None:
    if service.spec.session_affinity != "ClientIP":
        return None
    config = service.spec.session_affinity_config
    chosen = config.client_ip.timeout_seconds if config and config.client_ip else None
    return float(chosen) if chosen else AFFINITY_SECONDS


def _ranges(service: Service) -> tuple[str, ...]:
    """spec.loadBalancerSourceRanges in their plain form."""
    if service.spec.type != "LoadBalancer":
        return ()
    texts = (text.strip() for text in service.spec.load_balancer_source_ranges)
    return tuple(dict.fromkeys(str(ipaddress.ip_network(text, strict=False)) for text in texts))


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """In their plain form, each once; what is none is left out."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(ipaddress.ip_address(text))] = None
        except ValueError:
            continue
    return tuple(found)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
