"""Probes between announcers: a number goes out, and comes back with a word on how one is.

A datagram of 16 bytes each way, UDP port 10247 at the nodes' own addresses. An answer is no longer
than its question and goes to nodes only, so nobody is served by forging one; a forged answer would
have to know the number.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from k8slite.decide.announcing import PORT

#: A mark, question or answer, well or not, the number.
_FORM = struct.Struct("!4sBBxxQ")
_MARK = b"k8sA"
_QUESTION, _ANSWER = 1, 2


class Message(NamedTuple):
    """``well``: of an answer, how the node is that gives it; of a question, whether the node that
    is asked has answered lately."""

    number: int
    answer: bool = False
    well: bool = True


def encode(message: Message) -> bytes:
    kind = _ANSWER if message.answer else _QUESTION
    return _FORM.pack(_MARK, kind, message.well, message.number)


def decode(data: bytes) -> Message | None:
    """None for what is no message of ours."""
    if len(data) != _FORM.size:
        return None
    mark, kind, well, number = _FORM.unpack(data)
    if mark != _MARK or kind not in (_QUESTION, _ANSWER):
        return None
    return Message(number, kind == _ANSWER, bool(well))


#: ``received(data, address)``
Received = Callable[[bytes, str], None]


class Wire(Protocol):
    def send(self, data: bytes, address: str) -> None:
        """To the announcer at ``address``; it may get lost."""
        ...

    def close(self) -> None: ...


#: Opens a wire at an address. Raises OSError.
Opening = Callable[[str, Received], Awaitable[Wire]]


class UdpWire(asyncio.DatagramProtocol):
    """A socket at ``PORT``."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if addr[1] == PORT:
            self._received(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there: that is no answer, which is counted."""

    def send(self, data: bytes, address: str) -> None:
        self._transport.sendto(data, (address, PORT))

    def close(self) -> None:
        self._transport.close()


async def open_udp(address: str, received: Received) -> Wire:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_datagram_endpoint(
        lambda: UdpWire(received), local_addr=(address, PORT)
    )
    return wire
