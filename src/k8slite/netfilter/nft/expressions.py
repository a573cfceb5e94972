"""The expressions of nftables' rules, in the form in which the kernel lists them (nf_tables.h).

A rule is a row of expressions that work on registers of four bytes: one loads a field, another
compares, looks up or acts. ``R`` names them in order; a wider value takes as many as it needs.
Fields of packets stand there as on the wire, marks and counts in the machine's own order.
"""

from __future__ import annotations

import sys

from k8slite.netfilter.nft.netlink import attribute, attributes, text, word

#: Registers of four bytes, by the names that the kernel lists them under.
R = (1, 9, 10, 11, 2, 13)

JUMP, GOTO, RETURN = (2**32 - n for n in (3, 4, 5))
ADD, UPDATE, DELETE = range(3)  # what ``remember`` does

_SOURCE, _TARGET = 1, 2  # NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR
_LOCAL = 2  # RTN_LOCAL


def native(value: int) -> bytes:
    """A number as it stands in a register."""
    return value.to_bytes(4, sys.byteorder)


def expression(name: str, *values: tuple[int, bytes]) -> bytes:
    data = b"".join(attribute(kind, value) for kind, value in values)
    return attribute(1, attribute(1, text(name)) + attribute(2, data))


def meta(key: int, register: int) -> bytes:
    return expression("meta", (2, word(key)), (1, word(register)))


def protocol(register: int) -> bytes:
    """The transport protocol's number."""
    return meta(16, register)


def out_interface(register: int) -> bytes:
    """The name of the interface that the packet leaves by: 16 bytes."""
    return meta(7, register)


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    fields = enumerate((register, base, offset, size), 1)
    return expression("payload", *((kind, word(value)) for kind, value in fields))


def network(offset: int, size: int, register: int) -> bytes:
    """Bytes of the network header."""
    return _payload(1, offset, size, register)


def target_port(register: int) -> bytes:
    return _payload(2, 2, 2, register)


def connection_mark(register: int) -> bytes:
    return expression("ct", (1, word(register)), (2, word(3)))


def connection_status(register: int) -> bytes:
    return expression("ct", (1, word(register)), (2, word(2)))


def set_connection_mark(register: int) -> bytes:
    return expression("ct", (2, word(3)), (4, word(register)))


def masked(register: int, mask: bytes) -> bytes:
    return expression(
        "bitwise",
        (1, word(register)),
        (2, word(register)),
        (3, word(len(mask))),
        (4, attribute(1, mask)),
        (5, attribute(1, bytes(len(mask)))),
    )


def equals(register: int, value: bytes) -> bytes:
    return _compare(register, 0, value)


def differs(register: int, value: bytes) -> bytes:
    return _compare(register, 1, value)


def _compare(register: int, operator: int, value: bytes) -> bytes:
    return expression(
        "cmp", (1, word(register)), (2, word(operator)), (3, attribute(1, value))
    )  # fmt: skip


def address_type(flag: int, register: int) -> bytes:
    return expression("fib", (1, word(register)), (2, word(3)), (3, word(flag)))


def target_is_local() -> bytes:
    return address_type(_TARGET, R[0]) + equals(R[0], native(_LOCAL))


def source_is_foreign() -> bytes:
    return address_type(_SOURCE, R[0]) + differs(R[0], native(_LOCAL))


def immediate(register: int, value: bytes) -> bytes:
    return expression("immediate", (1, word(register)), (2, attribute(1, value)))


def verdict_data(code: int, chain: str = "") -> bytes:
    """A verdict as the data of an element or of an immediate expression."""
    name = attribute(2, text(chain)) if chain else b""
    return attribute(2, attribute(1, word(code)) + name)


def verdict(code: int, chain: str = "") -> bytes:
    return expression("immediate", (1, word(0)), (2, verdict_data(code, chain)))


def found(name: str, register: int) -> bytes:
    """Go on when the set has what stands from ``register`` on."""
    return expression("lookup", (1, text(name)), (2, word(register)), (5, word(0)))


def mapped(name: str, register: int, into: int) -> bytes:
    """Go on when the map has what stands from ``register`` on, with what it leads to ``into``;
    0: obey the verdict."""
    return expression(
        "lookup", (1, text(name)), (2, word(register)), (3, word(into)), (5, word(0))
    )  # fmt: skip


def remember(operation: int, name: str, key: int, data: int | None = None) -> bytes:
    """Put into, refresh in, or take out of a dynamic set or map."""
    value = () if data is None else ((5, word(data)),)
    return expression(
        "dynset", (4, word(key)), *value, (3, word(operation)), (1, text(name)), (9, word(0))
    )  # fmt: skip


def in_turn(modulus: int, offset: int, register: int) -> bytes:
    """``offset`` + 0, 1 … ``modulus`` - 1 in turn, one for each packet that comes here."""
    fields = enumerate((register, modulus, 0, offset), 1)
    return expression("numgen", *((kind, word(value)) for kind, value in fields))


def rewrite_target(family: int, address: int, port: int) -> bytes:
    """Translate the destination to the address and port in these registers."""
    fields = (1, family, address, address, port, port, 3)
    return expression("nat", *((kind, word(value)) for kind, value in enumerate(fields, 1)))


def redirect(port: int) -> bytes:
    """Translate the destination to the interface's own address and the port in this register."""
    return expression("redir", (1, word(port)), (2, word(port)), (3, word(2)))


def masquerade() -> bytes:
    """Take the source address of the outgoing interface, and a port that is drawn at random."""
    return expression("masq", (1, word(0x10)))


def reset() -> bytes:
    return expression("reject", (1, word(1)))


def unreachable(code: int) -> bytes:
    """Answer by ICMP (or ICMPv6) that nobody is there; ``code`` is the protocol's own."""
    return expression("reject", (1, word(0)), (2, bytes((code,))))


def counter() -> bytes:
    return expression("counter", (1, bytes(8)), (2, bytes(8)))


def parsed(expressions: bytes) -> list[tuple[bytes, dict[int, bytes]]]:
    """Name and attributes of each expression of a rule."""
    rows = []
    for _, body in attributes(expressions):
        parts = dict(attributes(body))
        rows.append((parts.get(1, b"").rstrip(b"\0"), dict(attributes(parts.get(2, b"")))))
    return rows


def same(ours: bytes, listed: bytes) -> bool:
    """Whether the kernel's rule is ours, whatever it counted and whatever else it tells of it."""
    if ours == listed:
        return True
    wanted, there = parsed(ours), parsed(listed)
    return len(wanted) == len(there) and all(
        name == other and (name == b"counter" or values.items() <= more.items())
        for (name, values), (other, more) in zip(wanted, there, strict=True)
    )
