"""What stands in our table whatever the services are: its maps, and the chains that read them.

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
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from k8slite.netfilter.nft import expressions as x
from k8slite.netfilter.nft import netlink as nl
from k8slite.netfilter.nft.expressions import R
from k8slite.netfilter.nft.netlink import Message, attribute, text, word

TABLE = "k8slite"

#: The bit of a connection's mark that says that it is ours, and how many of the lower bits number
#: the endpoints of one service's chain.
OURS = 1 << 31
SLOT_BITS = 14
SLOTS = 1 << SLOT_BITS

#: So many clients are remembered by one service port, and so many pods that talk to themselves.
_REMEMBERED = 65_536

# The types of nft's listing (datatype.h).
_INTEGERS = {"ip": 7, "ip6": 8}
_PROTOCOL, _SERVICE, _MARK, _VERDICT = 12, 13, 19, 0xFFFFFF00
_MAP, _TIMEOUT, _DYNAMIC = 8, 16, 32

#: Before others at the same hook: Docker's rules, the article's chains, K8SLITE-MASQ.
_EARLIER = 10


class Family(NamedTuple):
    """What differs between IPv4 and IPv6."""

    number: int
    word: str
    size: int  # of an address
    source: int  # where in the header the addresses are
    target: int
    unreachable: int  # the code of "port unreachable"

    @property
    def port_register(self) -> int:
        """The register behind an address that stands in the first."""
        return R[self.size // 4]


IP = Family(nl.IPV4, "ip", 4, 12, 16, 3)
IP6 = Family(nl.IPV6, "ip6", 16, 8, 24, 4)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a node's table must know of the node: the pod network (IPv4, as 172.16.0.0/16), the
    bridge of its pods, and whether bridged packets meet the rules (bridge-nf-call-iptables)."""

    pod_network: str
    bridge: str
    bridged: bool = True


class Shape(NamedTuple):
    """A set or map: sizes in bytes, the timeout in seconds (0: none)."""

    name: str
    flags: int
    key_type: int
    key_size: int
    data_type: int = 0
    data_size: int = 0
    timeout: float = 0


def doors_map(node_port: bool, outside: bool) -> str:
    return ("nodeports" if node_port else "doors") + ("-outside" if outside else "")


#: The map of node ports that are served at the host's loopback addresses, too: those of listeners.
#: The kernel sends nothing from there to another interface.
LOOPBACK_MAP = "nodeports-loopback"

#: All maps of doors.
DOORS = (
    *(doors_map(node_port, outside) for node_port in (False, True) for outside in (False, True)),
    LOOPBACK_MAP,
)


def maps(family: Family) -> tuple[Shape, ...]:
    address, size = _INTEGERS[family.word], family.size
    door = (address << 12 | _PROTOCOL << 6 | _SERVICE, size + 8)
    port = (_PROTOCOL << 6 | _SERVICE, 8)
    verdict = (_VERDICT, 0)
    return (
        *(Shape(doors_map(False, outside), _MAP, *door, *verdict) for outside in (False, True)),
        *(Shape(doors_map(True, outside), _MAP, *port, *verdict) for outside in (False, True)),
        Shape(LOOPBACK_MAP, _MAP, *port, *verdict),
        Shape("endpoints", _MAP, _MARK, 4, address << 6 | _SERVICE, size + 4),
        Shape("ring", _MAP, _MARK, 4, _MARK, 4),
        Shape("itself", _DYNAMIC | _TIMEOUT, address << 6 | address, 2 * size, timeout=60),
    )


def affinity_map(family: Family, name: str, seconds: float) -> Shape:
    flags = _MAP | _DYNAMIC | _TIMEOUT
    return Shape(name, flags, _INTEGERS[family.word], family.size, _MARK, 4, seconds)


class Chain(NamedTuple):
    """A chain and its rules; ``hook`` is its number (NF_INET_*) and the priority there."""

    name: str
    rules: tuple[bytes, ...]
    hook: tuple[int, int] | None = None


def chains(family: Family, around: Surroundings) -> tuple[Chain, ...]:
    """In an order in which each names only earlier ones."""
    port = family.port_register
    aim = (
        x.connection_mark(R[0])
        + x.mapped("endpoints", R[0], R[0])
        + x.rewrite_target(family.number, R[0], port)
    )
    # While a transaction takes effect a packet may meet its rule and not yet its elements: then
    # the first endpoint serves. There is one, unless there is none.
    first = (
        x.connection_mark(R[0])
        + x.masked(R[0], x.native(2**32 - SLOTS))
        + x.set_connection_mark(R[0])
    )
    outsider = _inside(family, around, unless=True) + x.source_is_foreign()
    loopback = _to_loopback(family)
    node_port = x.protocol(R[0]) + x.target_port(R[1])
    door = (
        x.network(family.target, family.size, R[0])
        + x.protocol(port)
        + x.target_port(R[R.index(port) + 1])
    )
    ours = (
        x.connection_mark(R[0])
        + x.masked(R[0], x.native(OURS))
        + x.equals(R[0], x.native(OURS))
        + x.connection_status(R[0])
        + x.masked(R[0], x.native(1 << 5))  # IPS_DST_NAT
        + x.differs(R[0], bytes(4))
    )
    return (
        Chain("stay", (aim,)),
        Chain("pick", (aim, first, aim, *refusal(family))),
        Chain("source", tuple(_source(family, around))),
        Chain(
            "local",
            (
                outsider + node_port + x.mapped(doors_map(True, True), R[0], 0),
                node_port + x.mapped(doors_map(True, False), R[0], 0),
            ),
        ),
        Chain(
            "prerouting",
            (
                outsider + door + x.mapped(doors_map(False, True), R[0], 0),
                door + x.mapped(doors_map(False, False), R[0], 0),
                x.target_is_local() + x.verdict(x.GOTO, "local"),
            ),
            (0, -100 - _EARLIER),
        ),
        Chain(
            "output",
            (
                door + x.mapped(doors_map(False, False), R[0], 0),
                loopback + node_port + x.mapped(LOOPBACK_MAP, R[0], 0),
                loopback + x.verdict(x.RETURN),
                x.target_is_local() + node_port + x.mapped(doors_map(True, False), R[0], 0),
            ),
            (3, -100 - _EARLIER),
        ),
        Chain("postrouting", (ours + x.verdict(x.GOTO, "source"),), (4, 100 - _EARLIER)),
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


# -- messages --------------------------------------------------------------------------------------


def new_table(family: Family) -> Message:
    return Message(
        nl.NEWTABLE, family.number, nl.CREATE, _named(TABLE), f"table {family.word} {TABLE}"
    )


def delete_table(family: Family) -> Message:
    return Message(
        nl.DELTABLE, family.number, 0, _named(TABLE), f"removal of {family.word} {TABLE}"
    )


def _told_to_nft(shape: Shape) -> bytes:
    """That marks stand in the machine's order, as keys (NFTNL_UDATA_SET_KEYBYTEORDER) or as data
    (_DATABYTEORDER). Of addresses and ports the tool knows."""
    kinds = [kind for kind, of in enumerate((shape.key_type, shape.data_type)) if of == _MARK]
    return b"".join(bytes((kind, 4)) + x.native(1) for kind in kinds)


def new_set(family: Family, shape: Shape) -> Message:
    parts = [
        _named(TABLE, shape.name),
        attribute(3, word(shape.flags)),
        attribute(4, word(shape.key_type)),
        attribute(5, word(shape.key_size)),
        # Within a transaction a set may be named by a number; ours are by name, but it is wanted.
        attribute(10, word(1)),
    ]
    if shape.flags & _MAP:
        parts += [attribute(6, word(shape.data_type)), attribute(7, word(shape.data_size))]
    if told := _told_to_nft(shape):
        parts.append(attribute(13, told))
    if shape.timeout:
        parts.append(attribute(9, attribute(1, word(_REMEMBERED))))
        parts.append(attribute(11, int(1e3 * shape.timeout).to_bytes(8, "big")))
    return Message(nl.NEWSET, family.number, nl.CREATE, b"".join(parts), f"map {shape.name}")


def delete_set(family: Family, name: str) -> Message:
    return Message(nl.DELSET, family.number, 0, _named(TABLE, name), f"removal of map {name}")


def new_chain(family: Family, name: str, hook: tuple[int, int] | None = None) -> Message:
    parts = attribute(1, text(TABLE)) + attribute(3, text(name))
    if hook:
        where = attribute(1, word(hook[0])) + attribute(2, struct.pack("!i", hook[1]))
        parts += attribute(4, where) + attribute(7, text("nat"))
    return Message(nl.NEWCHAIN, family.number, nl.CREATE, parts, f"chain {name}")


def delete_chain(family: Family, name: str) -> Message:
    parts = attribute(1, text(TABLE)) + attribute(3, text(name))
    return Message(nl.DELCHAIN, family.number, 0, parts, f"removal of chain {name}")


def new_rule(family: Family, chain: str, rule: bytes) -> Message:
    parts = _named(TABLE, chain) + attribute(4, rule)
    about = f"a rule of chain {chain}"
    return Message(nl.NEWRULE, family.number, nl.CREATE | nl.APPEND, parts, about)


def replace_rule(family: Family, chain: str, handle: int, rule: bytes) -> Message:
    parts = _named(TABLE, chain) + attribute(3, handle.to_bytes(8, "big")) + attribute(4, rule)
    return Message(nl.NEWRULE, family.number, nl.REPLACE, parts, f"a rule of chain {chain}")


def empty_chain(family: Family, name: str) -> Message:
    return Message(nl.DELRULE, family.number, 0, _named(TABLE, name), f"emptying of chain {name}")


#: Bytes of elements in one message; an attribute holds 64 KiB.
_ELEMENTS = 60_000


def elements(family: Family, kind: int, name: str, packed: Iterable[bytes]) -> Iterator[Message]:
    """Put elements (``element``) into a set or map, or take them out (``kind`` DELELEMENT)."""
    flags = nl.CREATE if kind == nl.NEWELEMENT else 0
    head, about = _named(TABLE, name), f"elements of map {name}"
    rows: list[bytes] = []
    size = 0
    for row in packed:
        if size + len(row) > _ELEMENTS:
            yield Message(kind, family.number, flags, head + attribute(3, b"".join(rows)), about)
            rows, size = [], 0
        rows.append(row)
        size += len(row)
    if rows:
        yield Message(kind, family.number, flags, head + attribute(3, b"".join(rows)), about)


def element(key: bytes, data: bytes = b"") -> bytes:
    """``data`` is an attribute: a verdict's, or ``value_data``."""
    body = attribute(1, attribute(1, key))
    return attribute(1, body + (attribute(2, data) if data else b""))


def _named(*names: str) -> bytes:
    return b"".join(attribute(kind, text(name)) for kind, name in enumerate(names, 1))


def skeleton(family: Family, around: Surroundings) -> Iterator[Message]:
    """The table with nothing in it but what always stands there."""
    yield new_table(family)
    for shape in maps(family):
        yield new_set(family, shape)
    for chain in chains(family, around):
        yield new_chain(family, chain.name, chain.hook)
        for rule in chain.rules:
            yield new_rule(family, chain.name, rule)
