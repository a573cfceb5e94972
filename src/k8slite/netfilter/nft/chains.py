"""What stands in our table whatever the services are: the chains that read its maps.

One table ``k8slite`` for each family. A new connection meets, in ``prerouting`` or ``output``, a
map of doors: address, protocol and port lead to the chain of a service port, and that is found in
constant time however many there are. The service's chain only draws a number, the mark of the
connection; ``pick`` translates to the endpoint that has it. So a change of endpoints is a change
of elements and of one rule that names no other object, and costs the kernel no look at the rest.

Marks of ours have the top bit. Whether a connection's source must be disguised, so that answers
come back by this node, is decided in ``postrouting``; only connections with our mark go there.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from k8slite.netfilter.nft import expressions as x
from k8slite.netfilter.nft.expressions import R
from k8slite.netfilter.nft.layout import (
    IP6,
    LOOPBACK_MAP,
    OURS,
    SLOTS,
    Family,
    doors_map,
    maps,
    new_chain,
    new_rule,
    new_set,
    new_table,
)
from k8slite.netfilter.nft.netlink import Message

#: Before others at the same hook: Docker's rules, the article's chains, K8SLITE-MASQ.
_EARLIER = 10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a node's table must know of the node: the pod network (IPv4, as 172.16.0.0/16), the
    bridge of its pods, and whether bridged packets meet the rules (bridge-nf-call-iptables)."""

    pod_network: str
    bridge: str
    bridged: bool = True


class Chain(NamedTuple):
    """A chain and its rules; ``hook`` is its number (NF_INET_*) and the priority there."""

    name: str
    rules: tuple[bytes, ...]
    hook: tuple[int, int] | None = None


def chains(family: Family, around: Surroundings) -> tuple[Chain, ...]:
    """In an order in which each names only earlier ones."""
    door = (
        x.network(family.target, family.size, R[0])
        + x.protocol(family.port_register)
        + x.target_port(R[R.index(family.port_register) + 1])
    )
    node_port = x.protocol(R[0]) + x.target_port(R[1])
    outsider = _inside(family, around, unless=True) + x.source_is_foreign()
    loopback = _to_loopback(family)
    at_doors, at_doors_outside, at_ports, at_ports_outside = (
        x.mapped(doors_map(node_port, outside), R[0], 0)
        for node_port in (False, True)
        for outside in (False, True)
    )
    local = (outsider + node_port + at_ports_outside, node_port + at_ports)
    prerouting = (
        outsider + door + at_doors_outside,
        door + at_doors,
        x.target_is_local() + x.verdict(x.GOTO, "local"),
    )
    output = (
        door + at_doors,
        loopback + node_port + x.mapped(LOOPBACK_MAP, R[0], 0),
        loopback + x.verdict(x.RETURN),
        x.target_is_local() + node_port + at_ports,
    )
    return (
        *_picking(family),
        Chain("source", tuple(_source(family, around))),
        Chain("local", local),
        Chain("prerouting", prerouting, (0, -100 - _EARLIER)),
        Chain("output", output, (3, -100 - _EARLIER)),
        Chain("postrouting", (_is_ours() + x.verdict(x.GOTO, "source"),), (4, 100 - _EARLIER)),
    )


def _picking(family: Family) -> tuple[Chain, ...]:
    """To the endpoint that the mark says; ``stay`` comes back when there is none."""
    aim = (
        x.connection_mark(R[0])
        + x.mapped("endpoints", R[0], R[0])
        + x.rewrite_target(family.number, R[0], family.port_register)
    )
    # While a transaction takes effect a packet may meet its rule and not yet its elements: then
    # the first endpoint serves. There is one, unless there is none.
    first = (
        x.connection_mark(R[0])
        + x.masked(R[0], x.native(2**32 - SLOTS))
        + x.set_connection_mark(R[0])
    )
    return Chain("stay", (aim,)), Chain("pick", (aim, first, aim, *refusal(family)))


def _is_ours() -> bytes:
    """Whether the connection has our mark and its destination was translated."""
    return (
        x.connection_mark(R[0])
        + x.masked(R[0], x.native(OURS))
        + x.equals(R[0], x.native(OURS))
        + x.connection_status(R[0])
        + x.masked(R[0], x.native(1 << 5))  # IPS_DST_NAT
        + x.differs(R[0], bytes(4))
    )


def _to_loopback(family: Family) -> bytes:
    """Whether the target is 127.0.0.0/8, or ::1."""
    if family is IP6:
        return x.network(family.target, 16, R[0]) + x.equals(R[0], bytes(15) + b"\1")
    return (
        x.network(family.target, 4, R[0])
        + x.masked(R[0], b"\xff\0\0\0")
        + x.equals(R[0], b"\x7f\0\0\0")
    )


def refusal(family: Family) -> tuple[bytes, ...]:
    """Rules that tell the client that nobody is there."""
    return (
        x.protocol(R[0]) + x.equals(R[0], bytes((socket.IPPROTO_TCP,))) + x.reset(),
        x.unreachable(family.unreachable),
    )


def comes_from(family: Family, network: str) -> bytes | None:
    """Go on when the source is of a network (as 10.0.0.0/8); None when that is of the other
    family."""
    found = ipaddress.ip_network(network)
    if len(found.network_address.packed) != family.size:
        return None
    return (
        x.network(family.source, family.size, R[0])
        + x.masked(R[0], found.netmask.packed)
        + x.equals(R[0], found.network_address.packed)
    )


def _source(family: Family, around: Surroundings) -> Iterator[bytes]:
    """Which connections of ours take this node's address: from outside or from the host itself to
    an endpoint that is not here; a pod's to itself; and one between pods of this bridge, when
    their answers would go past the rules."""
    inside = _inside(family, around)
    bridge = around.bridge.encode()[:15].ljust(16, b"\0")
    here = x.out_interface(R[0]) + x.equals(R[0], bridge)
    elsewhere = x.out_interface(R[0]) + x.differs(R[0], bridge)
    loopback = x.out_interface(R[0]) + x.equals(R[0], b"lo".ljust(16, b"\0"))
    source = x.network(family.source, family.size, R[0])
    target = x.network(family.target, family.size, R[0])
    again = x.network(family.target, family.size, family.port_register)
    yield loopback + x.verdict(x.RETURN)
    yield _inside(family, around, unless=True) + elsewhere + x.masquerade()
    if not around.bridged:
        yield inside + here + x.masquerade()
    # The set only ever has pairs of twice the same, so finding a pair proves that they are.
    yield inside + here + target + again + x.remember(x.UPDATE, "itself", R[0])
    yield source + again + x.found("itself", R[0]) + x.masquerade()


def _inside(family: Family, around: Surroundings, *, unless: bool = False) -> bytes:
    """Whether the source is of the pod network; ``unless``: is not. IPv6 has none of ours: there
    nothing is asked."""
    if family is IP6 or not around.pod_network:
        return b""
    network = ipaddress.IPv4Network(around.pod_network)
    test = x.differs if unless else x.equals
    return (
        x.network(family.source, 4, R[0])
        + x.masked(R[0], network.netmask.packed)
        + test(R[0], network.network_address.packed)
    )


def skeleton(family: Family, around: Surroundings) -> Iterator[Message]:
    """The table with nothing in it but what always stands there."""
    yield new_table(family)
    for shape in maps(family):
        yield new_set(family, shape)
    for chain in chains(family, around):
        yield new_chain(family, chain.name, chain.hook)
        for rule in chain.rules:
            yield new_rule(family, chain.name, rule)
