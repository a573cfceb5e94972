"""Portal addresses and node ports: which a service holds, which are free, which it gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from ipaddress import AddressValueError, IPv4Address, IPv4Network, ip_address

from k8slite.api.errors import FieldError
from k8slite.api.kinds.service.types import Service, ServiceSpec
from k8slite.kit.clock import Rng

#: Services whose portal address is fixed: its distance from the start of the range.
RESERVED = {1: "default/kubernetes-ro", 2: "default/kubernetes"}
NODE_PORTS = range(30000, 32768)
#: Draws before the free ones are listed: enough unless the range is nearly full.
_DRAWS = 8

#: Is this address (or node port) held by another service?
Taken = Callable[[object], bool]


def wants_address(spec: ServiceSpec) -> bool:
    return spec.type != "ExternalName" and spec.cluster_ip != "None"


def wants_node_ports(spec: ServiceSpec) -> bool:
    return spec.type in ("NodePort", "LoadBalancer")


def held_address(service: Service) -> str:
    """The portal address that ``service`` holds; "" for none."""
    return service.spec.cluster_ip if wants_address(service.spec) else ""


def held_ports(service: Service) -> frozenset[int]:
    """The node ports that ``service`` holds."""
    if not wants_node_ports(service.spec):
        return frozenset()
    return frozenset(port.node_port for port in service.spec.ports if port.node_port)


def refuse_address(net: IPv4Network, address: str, service: str, taken: Taken) -> FieldError | None:
    """Why ``service`` (``namespace/name``) may not have ``address``; None when it may."""
    path = "spec.clusterIP"
    try:
        ip = IPv4Address(address)
    except AddressValueError:
        return FieldError(path, f'"{address}" is no IPv4 address; leave it empty, or "None"')
    if ip not in net or ip in (net.network_address, net.broadcast_address):
        return FieldError(path, f'"{address}" is no address of the portal net {net}')
    owner = RESERVED.get(int(ip) - int(net.network_address), service)
    if owner != service:
        return FieldError(path, f'"{address}" is kept for service {owner}')
    if taken(address):
        return FieldError(path, f'"{address}" is taken by another service')
    return None


def draw_address(net: IPv4Network, taken: Taken, rng: Rng) -> str | FieldError:
    """A free address of ``net`` at random."""
    base = int(net.network_address)
    first, beyond = max(RESERVED) + 1, net.num_addresses - 1
    for _ in range(_DRAWS if beyond > first else 0):
        address = str(IPv4Address(base + rng.randrange(first, beyond)))
        if not taken(address):
            return address
    addresses = (str(IPv4Address(base + offset)) for offset in range(first, beyond))
    free = [address for address in addresses if not taken(address)]
    if free:
        return rng.choice(free)
    return FieldError("spec.clusterIP", f"no address is free in the portal net {net}", "Forbidden")


def refuse_public(
    net: IPv4Network, spec: ServiceSpec, path: str, text: str, node: str, doors: Collection[int]
) -> FieldError | None:
    """Why a service may not be reached at the address ``text``, which stands at ``path``; None
    when it may.

    The portal net is handed out by the cluster. ``node`` is the node that has the address, or "":
    to take a node's address is the article's way to reach a service from outside, but on every
    other node the rules would lead the cluster's own connections to its ``doors`` astray, those
    with which a node would hear that the service is gone.
    """
    address = ip_address(text)
    if address in net:
        return FieldError(path, f'"{address}" is in the portal net {net}, which is handed out')
    taken = [port.port for port in spec.ports if port.port in doors] if node else []
    if taken:
        said = (
            f'"{address}" is an address of {node}, and port {taken[0]} there is the cluster\'s own'
        )
        return FieldError(path, said)
    return None


def refuse_port(port: int, path: str, taken: Taken) -> FieldError | None:
    """Why a service may not have the node port ``port``; None when it may."""
    if port not in NODE_PORTS:
        lowest, highest = NODE_PORTS[0], NODE_PORTS[-1]
        return FieldError(path, f"{port} is not between {lowest} and {highest}")
    if taken(port):
        return FieldError(path, f"{port} is taken by another service")
    return None


def draw_port(taken: Taken, own: Container[int], path: str, rng: Rng) -> int | FieldError:
    """A node port at random that is neither taken nor one of the service's ``own``."""
    for _ in range(_DRAWS):
        port = rng.choice(NODE_PORTS)
        if port not in own and not taken(port):
            return port
    free = [port for port in NODE_PORTS if port not in own and not taken(port)]
    if free:
        return rng.choice(free)
    return FieldError(path, "no node port is free", "Forbidden")
