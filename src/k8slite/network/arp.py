"""ARP frames on Ethernet (RFC 826), and a filter for those that concern us. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8slite.network import tongue
from k8slite.network.tongue import BROADCAST, ETHERNET, NOBODY, Heard

REQUEST, REPLY = 1, 2

#: Hardware type 1 (Ethernet), protocol IPv4, address lengths, operation; sender, target.
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_HEAD = (1, 0x0800, 6, 4)
_ETHERTYPE = 0x0806

#: Where the addresses of sender and target lie in a frame.
_SENDER, _TARGET = 28, 38


@dataclass(frozen=True, slots=True)
class Arp:
    """What a frame says: ``sender`` is at ``sender_mac``, and asks for (or tells) ``target``."""

    operation: int
    sender_mac: bytes
    sender: str
    target_mac: bytes
    target: str


def frame(to: bytes, arp: Arp) -> bytes:
    """The Ethernet frame that carries it from its sender to the hardware address ``to``."""
    body = _ARP.pack(
        *_HEAD, arp.operation, arp.sender_mac, IPv4Address(arp.sender).packed,
        arp.target_mac, IPv4Address(arp.target).packed,
    )  # fmt: skip
    # Ethernet's shortest payload is 46 bytes.
    return ETHERNET.pack(to, arp.sender_mac, _ETHERTYPE) + body.ljust(46, b"\0")


def parse(data: bytes) -> Arp | None:
    """None for what is no ARP for IPv4 on Ethernet."""
    if len(data) < ETHERNET.size + _ARP.size or data[12:14] != b"\x08\x06":
        return None
    kind, protocol, hardware, length, operation, *rest = _ARP.unpack_from(data, ETHERNET.size)
    if (kind, protocol, hardware, length) != _HEAD or operation not in (REQUEST, REPLY):
        return None
    sender_mac, sender, target_mac, target = rest
    return Arp(
        operation, sender_mac, str(IPv4Address(sender)), target_mac, str(IPv4Address(target))
    )


def answer(asked: Arp, mac: bytes) -> bytes:
    """The frame that tells who asked for ``asked.target`` that it is at ``mac``."""
    told = Arp(REPLY, mac, asked.target, asked.sender_mac, asked.sender)
    return frame(asked.sender_mac, told)


class ArpTongue:
    """``tongue.Tongue`` for IPv4."""

    name = "ARP"
    version = 4
    ethertype = _ETHERTYPE

    def program(self, addresses: Iterable[str]) -> bytes:
        numbers = [int(IPv4Address(address)) for address in sorted(addresses)]
        if len(numbers) > tongue.MOST_FILTERED:
            return b""
        lines: list[tongue.Line] = []
        for place in (_TARGET, _SENDER):
            lines.append(tongue.load(tongue.LOAD_WORD, place))
            for number in numbers:
                lines += tongue.accept_if(number)
        return tongue.assembled(lines)

    def hear(self, data: bytes, own: bytes) -> Iterator[Heard]:
        found = parse(data)
        if found is None or found.sender_mac == own:
            return
        if found.operation == REQUEST and found.sender != found.target:
            yield Heard(found.target, found.sender_mac, answer(found, own))
        yield Heard(found.sender, found.sender_mac, claimed=True)

    def unasked(self, address: str, mac: bytes) -> tuple[bytes, ...]:
        """As a request (RFC 5227, an announcement) and as a reply: some hosts heed the one, some
        the other."""
        return (
            frame(BROADCAST, Arp(REQUEST, mac, address, NOBODY, address)),
            frame(BROADCAST, Arp(REPLY, mac, address, BROADCAST, address)),
        )

    def question(self, address: str, mac: bytes, own: str) -> bytes:
        return frame(BROADCAST, Arp(REQUEST, mac, own, NOBODY, address))

    def group(self, address: str) -> bytes:
        return b""
