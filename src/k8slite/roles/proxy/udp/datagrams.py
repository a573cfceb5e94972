"""Datagrams in and out of a UDP listener: what is asked of the I/O, and the plain way to do it.

A datagram must leave by the address that it came in to, or connection tracking does not know its
flow and the client does not know its server: IP_PKTINFO and IPV6_PKTINFO tell and set that address.

One listening socket serves IPv4 and IPv6 (IPv4 addresses are mapped, ``::ffff:192.0.2.1``, in
there; outside of these classes they are written as usual). Where the kernel has no IPv6 it is an
IPv4 socket.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

from k8slite.decide.allocation import NODE_PORTS
from k8slite.kit.addresses import unmapped
from k8slite.netfilter.conntrack import Address

#: The largest datagram there is fits in.
DATAGRAM_BYTES = 65_536

#: Datagrams that are taken at once.
SLOTS = 64

#: What waits in the kernel while others have their turn.
_RECEIVE_BYTES = 2 * 1_048_576
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_ANCILLARY = socket.CMSG_SPACE(20)
_TRIES = 16
_LINK_LOCAL = b"\xfe\x80"

#: Who sent a datagram and to which of our addresses, in the form that is cheapest to compare.
Caller = Hashable


class Origin(NamedTuple):
    """A caller in words: the sender, and the address of ours that its datagram reached."""

    client: Address
    local: str


class DatagramIO(Protocol):
    """Takes datagrams from clients by the batch and hands answers back by the batch.

    One object serves all listeners of a process, one after the other: what ``take`` brought is
    there until the next ``take``; what ``answer`` read goes out with ``close`` at the latest.
    """

    #: ``close`` was arranged for.
    due: bool

    @property
    def dual(self) -> bool:
        """Whether IPv6 is spoken."""

    def listen(self) -> socket.socket:
        """A socket on a random port of all addresses. Raises OSError."""

    def connect(self, endpoint: Address) -> socket.socket:
        """A socket for one client's datagrams to ``endpoint``. Raises OSError."""

    def take(
        self, listener: socket.socket, most: int = SLOTS
    ) -> tuple[Sequence[Caller], Sequence[int]]:
        """Up to ``most`` datagrams, which is up to ``SLOTS``: who sent each, and its bytes. Fewer:
        there are no more now."""

    def origin(self, caller: Caller) -> Origin | None:
        """None when the kernel did not tell the address that the datagram reached."""

    def forward(self, upstream: int, places: Sequence[int]) -> None:
        """Send the datagrams at these ascending places of the last ``take`` to the endpoint that
        ``upstream`` is connected to. What cannot be sent is lost, as datagrams may be. Raises
        ConnectionRefusedError when its host said that nobody listens."""

    def reply(self, caller: Caller) -> object:
        """How to answer: to be handed to ``answer``."""

    def answer(
        self, upstream: int, listener: socket.socket, reply: object
    ) -> tuple[int, int, bool]:
        """Read what the endpoint said, up to ``SLOTS`` datagrams, and send it to the client from
        ``listener``, at once or with ``close``. Returns datagrams, bytes, and whether there may be
        more now. Raises OSError when the endpoint's host said that nobody listens."""

    def close(self) -> None:
        """The batch is complete: send what waits."""


def listening_socket(dual: bool) -> socket.socket:
    """Bound to a random port of all addresses, and to none that a service may be given; tells the
    address that each datagram reached. Raises OSError."""
    for _ in range(_TRIES):
        sock = _listening_socket(dual)
        if sock.getsockname()[1] not in NODE_PORTS:
            return sock
        sock.close()
    raise OSError(errno.EADDRINUSE, "no free port was found")


def _listening_socket(dual: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.bind(("::" if dual else "0.0.0.0", 0))
    except OSError:
        sock.close()
        raise
    return sock


def upstream_socket(endpoint: Address) -> socket.socket:
    """Connected to ``endpoint``. Raises OSError."""
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(endpoint)
    except OSError:
        sock.close()
        raise
    return sock


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def pktinfo(local: bytes, interface: int) -> tuple[int, int, bytes]:
    """The control message that makes a datagram leave by ``local`` (4 or 16 bytes). Only a
    link-local address needs its interface."""
    if len(local) == 4:
        return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, local, bytes(4))
    scope = interface if local.startswith(_LINK_LOCAL) else 0
    return socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16sI", local, scope)


class SingleDatagrams:
    """One call for each datagram, by Python's own means: for where the other is not to be had."""

    def __init__(self) -> None:
        self.dual = has_ipv6()
        self.due = False
        self._taken: list[bytes] = []

    def listen(self) -> socket.socket:
        return listening_socket(self.dual)

    def connect(self, endpoint: Address) -> socket.socket:
        return upstream_socket(endpoint)

    def take(
        self, listener: socket.socket, most: int = SLOTS
    ) -> tuple[Sequence[Caller], Sequence[int]]:
        callers: list[Caller] = []
        self._taken.clear()
        for _ in range(most):
            try:
                data, ancillary, _, client = listener.recvmsg(DATAGRAM_BYTES, _ANCILLARY)
            except OSError:
                break  # no more for now, or an error that an earlier answer met
            self._taken.append(data)
            callers.append((client, _local_address(ancillary)))
        return callers, [len(data) for data in self._taken]

    def origin(self, caller: Caller) -> Origin | None:
        assert isinstance(caller, tuple)
        client, local = caller
        if local is None:
            return None
        family = socket.AF_INET if len(local) == 4 else socket.AF_INET6
        text = unmapped(socket.inet_ntop(family, local))
        return Origin((unmapped(client[0]), client[1]), text)

    def forward(self, upstream: int, places: Sequence[int]) -> None:
        for place in places:
            send(upstream, self._taken[place])

    def reply(self, caller: Caller) -> object:
        assert isinstance(caller, tuple)
        client, local = caller
        return client, [pktinfo(local, client[3] if len(client) > 2 else 0)]

    def answer(
        self, upstream: int, listener: socket.socket, reply: object
    ) -> tuple[int, int, bool]:
        assert isinstance(reply, tuple)
        client, ancillary = reply
        count = size = 0
        for _ in range(SLOTS):
            try:
                data = os.read(upstream, DATAGRAM_BYTES)
            except BlockingIOError:
                break
            count += 1
            size += len(data)
            try:
                listener.sendmsg([data], ancillary, 0, client)
            except OSError:
                pass  # a datagram that cannot be sent is a datagram lost
        return count, size, count == SLOTS

    def close(self) -> None:
        self.due = False  # nothing waits here


def send(upstream: int, data: bytes | memoryview) -> None:
    """Raises ConnectionRefusedError; any other datagram that cannot be sent is lost."""
    try:
        os.write(upstream, data)
    except ConnectionRefusedError:
        raise
    except OSError:
        pass


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    """The address that the datagram reached: in_pktinfo (interface, ours, the header's) or
    in6_pktinfo (the header's, interface)."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return data[:16]
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return data[8:12]
    return None
