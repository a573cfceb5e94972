"""Where clients of a TCP portal come in: a listening socket of IPv4 or IPv6, on a random port of
all addresses, because REDIRECT goes to whatever interface the packet came in by.

A gate can be shut without losing its port: then the kernel refuses clients at their first packet
(RST to the SYN), and nobody else gets the port meanwhile.
"""

from __future__ import annotations

import errno
import socket
import struct
from socket import SocketType
from typing import Any

from k8slite.decide.allocation import NODE_PORTS
from k8slite.roles.proxy.tcp.proxyprotocol import Side
from k8slite.roles.proxy.tcp.stream import keep_watch

_BACKLOG = 4096
_TRIES = 16

# Plain numbers: members of socket's enumerations cost a call. The last is SO_ORIGINAL_DST of
# linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST.
_SOL_IP, _SOL_IPV6, _IPV6_V6ONLY = 0, 41, 26
_AF_INET, _AF_INET6, _SOCK_STREAM = 2, 10, 1
_ORIGINAL_DST = 80


def origin(address: str, port: int) -> bytes:
    """A destination as ``Gate.take`` tells it: port, then address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return struct.pack("!H", port) + socket.inet_pton(family, address)


def destination(told: bytes) -> Side:
    """The inverse."""
    (port,) = struct.unpack_from("!H", told)
    family = socket.AF_INET if len(told) == 6 else socket.AF_INET6
    return Side(socket.inet_ntop(family, told[2:]), port)


class Gate:
    """A new gate is shut."""

    def __init__(self, sock: SocketType, family: int) -> None:
        self.socket = sock
        self.fd: int = sock.fileno()
        self.family = family
        self.port: int = sock.getsockname()[1]
        self.is_open = False
        # What ``socket.accept`` calls; the rest of that is written in Python, and every connection
        # would pay for it.
        self._accept: Any = sock._accept  # type: ignore[attr-defined]

    def open(self) -> None:
        """Raises OSError."""
        # Established connections hold the port too. While we listen this lets nobody else in.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.listen(_BACKLOG)
        self.is_open = True

    def shut(self) -> None:
        """Refuse clients, also those that wait to be accepted; to be out of the reactor by now."""
        self.socket.shutdown(socket.SHUT_RD)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self.is_open = False

    def close(self) -> None:
        self.socket.close()

    def take(self) -> tuple[SocketType, tuple[str, int], bytes]:
        """The next client: its socket, its address and port, and what it asked for, as ``origin``
        writes that; b"" when nothing was rewritten on its way. Raises OSError."""
        fd, peer = self._accept()
        client = SocketType(self.family, _SOCK_STREAM, 0, fd)
        client.setblocking(False)
        try:
            if self.family == _AF_INET:
                return client, peer, client.getsockopt(_SOL_IP, _ORIGINAL_DST, 16)[2:8]
            told = client.getsockopt(_SOL_IPV6, _ORIGINAL_DST, 28)
        except OSError:
            return client, peer[:2], b""  # not tracked
        return client, peer[:2], told[2:4] + told[8:24]


def make_gate() -> Gate:
    """One for IPv4, at a port that the kernel picks. Raises OSError."""
    for _ in range(_TRIES):
        # A port that was asked for by its number stays bound when the socket stops listening.
        port = _free_port()
        if port in NODE_PORTS:
            continue  # a service may be given that one
        try:
            return Gate(_bound(_AF_INET, ("0.0.0.0", port)), _AF_INET)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port was found")


def _free_port() -> int:
    """Free in both families, where there are both: there may be a gate for IPv6 beside."""
    try:
        probe = socket.socket(_AF_INET6)
        probe.setsockopt(_SOL_IPV6, _IPV6_V6ONLY, 0)
    except OSError:
        probe = socket.socket()
    with probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def make_gate_beside(other: Gate) -> Gate:
    """One for IPv6 at the port of ``other``. Raises OSError."""
    return Gate(_bound(_AF_INET6, ("::", other.port)), _AF_INET6)


def _bound(family: int, address: tuple[str, int]) -> SocketType:
    sock = SocketType(family, _SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Accepted sockets inherit these.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_watch(sock)
        if family == _AF_INET6:
            sock.setsockopt(_SOL_IPV6, _IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
