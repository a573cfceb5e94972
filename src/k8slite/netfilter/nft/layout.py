"""What our table is made of: its maps, the families' differences, and the messages that make them.

One table ``k8slite`` for each family. What its chains do is told in ``nft.chains``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
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
