"""Neighbour discovery on Ethernet (RFC 4861): where an IPv6 address is. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from k8slite.network import tongue
from k8slite.network.tongue import ETHERNET, Heard

SOLICITATION, ADVERTISEMENT = 135, 136
#: Flags of an advertisement: it was asked for; it replaces what one knew.
SOLICITED, OVERRIDE = 0x40, 0x20

_ETHERTYPE = 0x86DD
_ICMPV6 = 58
#: Nothing that came over a router counts (RFC 4861, 7.1).
_HOPS = 255
_IPV6 = struct.Struct("!IHBB16s16s")  # version and such, length, next header, hops, from, to
_MESSAGE = struct.Struct("!BBHB3x16s")  # type, code, checksum, flags, target
_SOURCE_OPTION, _TARGET_OPTION = 1, 2  # a hardware address, in units of eight bytes

#: Places in a frame: next header, ICMPv6 type, the last four bytes of the target.
_NEXT, _TYPE, _TARGET_END = 20, 54, 74

_NOBODY = IPv6Address("::")
_ALL_NODES = IPv6Address("ff02::1")
_SOLICITED_NODE = int(IPv6Address("ff02::1:ff00:0"))


@dataclass(frozen=True, slots=True)
class Ndp:
    """A solicitation or an advertisement; ``mac`` is that of the frame's sender."""

    kind: int
    mac: bytes
    source: str
    target: str
    flags: int = 0


def parse(data: bytes) -> Ndp | None:
    """None for what is no such message, or is broken."""
    end = ETHERNET.size + _IPV6.size
    if len(data) < end + _MESSAGE.size or data[12:14] != b"\x86\xdd":
        return None
    head, length, following, hops, source, to = _IPV6.unpack_from(data, ETHERNET.size)
    if head >> 28 != 6 or following != _ICMPV6 or hops != _HOPS:
        return None
    body = data[end : end + length]
    if len(body) != length or length < _MESSAGE.size or _sum(source, to, body):
        return None
    kind, code, _, flags, target = _MESSAGE.unpack_from(body)
    if code or kind not in (SOLICITATION, ADVERTISEMENT):
        return None
    return Ndp(kind, data[6:12], str(IPv6Address(source)), str(IPv6Address(target)), flags)


def frame(to_mac: bytes, to: IPv6Address, said: Ndp) -> bytes:
    """The Ethernet frame that carries it, with its sender's hardware address as an option."""
    source, target = IPv6Address(said.source), IPv6Address(said.target)
    option = b""
    if said.kind == ADVERTISEMENT:
        option = bytes((_TARGET_OPTION, 1)) + said.mac
    elif source != _NOBODY:
        option = bytes((_SOURCE_OPTION, 1)) + said.mac
    empty = _MESSAGE.pack(said.kind, 0, 0, said.flags, target.packed) + option
    checksum = _sum(source.packed, to.packed, empty)
    body = _MESSAGE.pack(said.kind, 0, checksum, said.flags, target.packed) + option
    head = _IPV6.pack(6 << 28, len(body), _ICMPV6, _HOPS, source.packed, to.packed)
    return ETHERNET.pack(to_mac, said.mac, _ETHERTYPE) + head + body


def _sum(source: bytes, to: bytes, body: bytes) -> int:
    """The checksum over pseudo header and body (RFC 4443, 2.3); 0 for a body that has it right."""
    data = source + to + struct.pack("!II", len(body), _ICMPV6) + body
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def solicited_node(address: str) -> IPv6Address:
    """The group in which questions for ``address`` are asked (RFC 4291, 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE | (int(IPv6Address(address)) & 0xFFFFFF))


def _multicast_mac(group: IPv6Address) -> bytes:
    return b"\x33\x33" + group.packed[12:]


class NdpTongue:
    """``tongue.Tongue`` for IPv6."""

    name = "NDP"
    version = 6
    ethertype = _ETHERTYPE

    def program(self, addresses: Iterable[str]) -> bytes:
        ends = sorted({int(IPv6Address(address)) & 0xFFFFFFFF for address in addresses})
        if len(ends) > tongue.MOST_FILTERED:
            return b""
        lines = [
            tongue.load(tongue.LOAD_BYTE, _NEXT),
            *tongue.unless(_ICMPV6),
            tongue.load(tongue.LOAD_WORD, _TARGET_END),
        ]
        for end in ends:
            lines += tongue.accept_if(end)
        return tongue.assembled(lines)

    def hear(self, data: bytes, own: bytes) -> Iterator[Heard]:
        found = parse(data)
        if found is None or found.mac == own:
            return
        if found.kind == ADVERTISEMENT:
            yield Heard(found.target, found.mac, claimed=True)
            return
        source = IPv6Address(found.source)
        if source == _NOBODY:  # he asks whether he may have it: all shall hear that he may not
            (answer,) = self.unasked(found.target, own)
        else:
            flags = SOLICITED | OVERRIDE
            said = Ndp(ADVERTISEMENT, own, found.target, found.target, flags)
            answer = frame(found.mac, source, said)
        yield Heard(found.target, found.mac, answer)

    def unasked(self, address: str, mac: bytes) -> tuple[bytes, ...]:
        said = Ndp(ADVERTISEMENT, mac, address, address, OVERRIDE)
        return (frame(_multicast_mac(_ALL_NODES), _ALL_NODES, said),)

    def question(self, address: str, mac: bytes, own: str) -> bytes:
        """As one who asks whether he may have the address: the answer goes to all nodes."""
        group = solicited_node(address)
        return frame(_multicast_mac(group), group, Ndp(SOLICITATION, mac, "::", address))

    def group(self, address: str) -> bytes:
        return solicited_node(address).packed
