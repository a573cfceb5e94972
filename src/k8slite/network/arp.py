"""ARP frames on Ethernet (RFC 826), and a filter for those that concern us. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

REQUEST, REPLY = 1, 2
BROADCAST = b"\xff" * 6
NOBODY = b"\0" * 6

_ETHERTYPE = 0x0806
_ETHERNET = struct.Struct("!6s6sH")
#: Hardware type 1 (Ethernet), protocol IPv4, address lengths, operation; sender, target.
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_HEAD = (1, 0x0800, 6, 4)

#: Where the addresses of sender and target lie in a frame.
_SENDER, _TARGET = 28, 38
#: struct sock_filter of linux/filter.h, and what is used of classic BPF.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
#: A program has at most 4,096 instructions, four of them for each address.
MOST_FILTERED = 1000


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
    return _ETHERNET.pack(to, arp.sender_mac, _ETHERTYPE) + body.ljust(46, b"\0")


def parse(data: bytes) -> Arp | None:
    """None for what is no ARP for IPv4 on Ethernet."""
    if len(data) < _ETHERNET.size + _ARP.size or data[12:14] != b"\x08\x06":
        return None
    kind, protocol, hardware, length, operation, *rest = _ARP.unpack_from(data, _ETHERNET.size)
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


def gratuitous(address: str, mac: bytes) -> tuple[bytes, bytes]:
    """The two forms of telling everybody unasked that ``address`` is at ``mac``: a request
    (RFC 5227, an announcement) and a reply; some hosts heed the one, some the other."""
    return (
        frame(BROADCAST, Arp(REQUEST, mac, address, NOBODY, address)),
        frame(BROADCAST, Arp(REPLY, mac, address, BROADCAST, address)),
    )


def question(address: str, mac: bytes, own: str) -> bytes:
    """Who has ``address``? Tell ``own``, which is at ``mac``."""
    return frame(BROADCAST, Arp(REQUEST, mac, own, NOBODY, address))


def spelt(mac: bytes) -> str:
    return mac.hex(":")


def program(addresses: Iterable[str]) -> bytes:
    """A classic BPF program that accepts frames whose sender or target is one of ``addresses``;
    b"" when they are too many for one."""
    numbers = [int(IPv4Address(address)) for address in sorted(addresses)]
    if len(numbers) > MOST_FILTERED:
        return b""
    lines = []
    for place in (_TARGET, _SENDER):
        lines.append((_LOAD_WORD, 0, 0, place))
        for number in numbers:
            lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, 0xFFFF)]
    lines.append((_RETURN, 0, 0, 0))
    return b"".join(_INSTRUCTION.pack(*line) for line in lines)
