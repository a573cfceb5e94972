"""How hosts of a LAN ask each other where an address is: ARP for IPv4, NDP for IPv6. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

BROADCAST = b"\xff" * 6
NOBODY = b"\0" * 6

ETHERNET = struct.Struct("!6s6sH")


class Heard(NamedTuple):
    """What a frame of somebody else (``mac``) says about ``address``: a question, with the frame
    that answers it, or that he has it himself."""

    address: str
    mac: bytes
    answer: bytes = b""
    claimed: bool = False


class Tongue(Protocol):
    """``ethertype`` is what its frames bear; ``name`` is for people."""

    name: str
    version: int
    ethertype: int

    def program(self, addresses: Iterable[str]) -> bytes:
        """A classic BPF program that accepts no frame but those that may concern ``addresses``;
        b"" when they are too many for one."""
        ...

    def hear(self, data: bytes, own: bytes) -> Iterator[Heard]:
        """What a frame says; ``own`` is the hardware address that answers give."""
        ...

    def unasked(self, address: str, mac: bytes) -> tuple[bytes, ...]:
        """Frames that tell everybody that ``address`` is at ``mac``."""
        ...

    def question(self, address: str, mac: bytes, own: str) -> bytes:
        """Who has ``address``? Tell ``own``, which is at ``mac``."""
        ...

    def group(self, address: str) -> bytes:
        """The multicast group (IPv6) that one must be in to hear questions for ``address``; b""
        when they are broadcast."""
        ...


def spelt(mac: bytes) -> str:
    return mac.hex(":")


# -- classic BPF, linux/filter.h -----------------------------------------------------------------

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_EQUAL, _RETURN = 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
#: A program has at most 4,096 instructions; two for each address and place.
MOST_FILTERED = 1000

Line = tuple[int, int, int, int]


def load(how: int, place: int) -> Line:
    """The number at a place of the frame."""
    return how, 0, 0, place


def unless(number: int) -> tuple[Line, Line]:
    """Refuse the frame unless the number is this one."""
    return (_JUMP_EQUAL, 1, 0, number), (_RETURN, 0, 0, 0)


def accept_if(number: int) -> tuple[Line, Line]:
    """Accept the frame if the number is this one."""
    return (_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, 0xFFFF)


def assembled(lines: Iterable[Line]) -> bytes:
    """The program; what is not accepted by its end is refused."""
    refuse = (_RETURN, 0, 0, 0)
    return b"".join(_INSTRUCTION.pack(*line) for line in (*lines, refuse))


#: A program of one instruction: all of it.
ACCEPT_ALL = _INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFF)
