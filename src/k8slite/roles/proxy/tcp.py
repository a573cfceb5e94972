"""The TCP listener of one service port.

Accepting never waits: a connection is taken, its way in is checked, an endpoint is drawn and a
connect is begun (``attempt``); what follows is the reactor's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from socket import SocketType
from typing import Any

import structlog

from k8slite.decide.balancing import Balancer
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.attempt import CONNECT_TIMEOUTS, Attempt, Upstreams
from k8slite.roles.proxy.counters import EndpointCounters, PortCounters
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.proxyprotocol import HEADERS, Side
from k8slite.roles.proxy.reactor import Reactor
from k8slite.roles.proxy.stream import Pipes, Stream, reset

log = structlog.get_logger()

#: Seconds without accepting after descriptors or memory ran out.
ACCEPT_PAUSE = 0.1

_BACKLOG = 4096
_ACCEPTS = 64  # connections taken before others have their turn
_SO_ORIGINAL_DST = 80
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SOL_IP = 0
_AF_INET, _SOCK_STREAM = 2, 1  # plain numbers: members of socket's enumerations cost a call


def origin(address: str, port: int) -> bytes:
    """A destination as the kernel writes it into a struct sockaddr_in: port, then address."""
    return struct.pack("!H", port) + socket.inet_aton(address)


def destination(sockaddr: bytes) -> Side:
    """The inverse, of the whole struct."""
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    return Side(socket.inet_ntoa(sockaddr[4:8]), port)


class TcpListener:
    """Accepts on a random port of all addresses, because REDIRECT goes to whatever interface the
    packet came in by. ``port`` is the one it got. Raises OSError when it cannot listen."""

    protocol = "tcp"

    def __init__(
        self,
        name: str,
        reactor: Reactor,
        pipes: Pipes,
        upstreams: Upstreams,
        balancer: Balancer,
        counters: PortCounters,
        clock: Clock,
        *,
        timeouts: tuple[float, ...] = CONNECT_TIMEOUTS,
    ) -> None:
        self.name = name
        self.balancer = balancer
        self.counters = counters
        self.reactor = reactor
        self.pipes = pipes
        self.upstreams = upstreams
        self.now = clock.monotonic
        self.timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._origins: frozenset[bytes] = frozenset()
        self.transparent = False
        self._introduce: Callable[[Side, Side], bytes] | None = None
        self._node_port = b""
        self._streams: set[Stream] = set()
        self._attempts: set[Attempt] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._socket = _listening_socket()
        self._take: Any = self._socket._accept  # type: ignore[attr-defined]
        self.port: int = self._socket.getsockname()[1]
        self._listen()

    def serve(self, port: PortalPort) -> None:
        """The portal: only connections that were addressed to it are let in."""
        addresses = (address for address in port.addresses if ":" not in address)
        self._origins = frozenset(origin(address, port.port) for address in addresses)
        self._introduce = HEADERS.get(port.client_address)
        self.transparent = port.client_address == "transparent"
        # The rules of node ports are for every address of this host, so the number says it all.
        self._node_port = struct.pack("!H", port.node_port) if port.node_port else b""

    @property
    def active(self) -> int:
        return len(self._streams) + len(self._attempts)

    def stop(self) -> None:
        """Accept no more; what is established goes on."""
        if self._socket.fileno() < 0:
            return
        if self._resume is not None:
            self._resume.cancel()
        self.reactor.remove(self._socket.fileno())
        self.reactor.close(self._socket)

    def abort(self) -> None:
        """Stop, and break off what is established."""
        self.stop()
        for attempt in tuple(self._attempts):
            attempt.refuse()
        for stream in tuple(self._streams):
            stream.abort()

    def _listen(self) -> None:
        self._resume = None
        self.reactor.add(self._socket.fileno(), self._accept, select.EPOLLIN)

    def _accept(self, event: int) -> None:
        origins, attempts, upstreams = self._origins, self._attempts, self.upstreams
        for _ in range(_ACCEPTS):
            try:
                upstream = upstreams.take()
            except OSError as error:
                self._pause(error)
                return
            try:
                # What ``accept`` calls, without the part that is written in Python.
                fd, peer = self._take()
            except BlockingIOError:
                upstreams.give(upstream)
                return
            except OSError as error:
                upstreams.give(upstream)
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the client gave up before it was taken
            client = SocketType(_AF_INET, _SOCK_STREAM, 0, fd)
            client.setblocking(False)
            try:
                target = client.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, 16)
            except OSError:
                target = b""  # not tracked, so not rewritten
            if target[2:8] in origins or (target and target[2:4] == self._node_port):
                attempt = Attempt(self, client, peer[0], upstream)
                attempts.add(attempt)
                if self._introduce is not None:
                    attempt.greeting = self._introduce(Side(*peer), destination(target))
                attempt.begin()
            else:
                self.counters.strangers += 1
                reset(client)
                client.close()
                upstreams.give(upstream)

    def _pause(self, error: OSError) -> None:
        """Leave clients in the kernel's queue for a moment; everything else goes on."""
        log.warning(
            "accepting pauses", role="proxy", key=self.name, error=os.strerror(error.errno or 0)
        )
        self.reactor.remove(self._socket.fileno())
        self._resume = self._loop.call_later(ACCEPT_PAUSE, self._listen)

    def given_up(self, attempt: Attempt) -> None:
        self._attempts.discard(attempt)

    def connected(
        self, attempt: Attempt, server: SocketType, counters: EndpointCounters, event: int
    ) -> None:
        self._attempts.discard(attempt)
        stream = Stream(self.reactor, self.pipes, attempt.client, server, counters, self._ended)
        self._streams.add(stream)
        counters.active += 1
        if attempt.greeting:
            stream.greet(attempt.greeting)
        stream.start(event)

    def _ended(self, stream: Stream) -> None:
        self._streams.discard(stream)
        stream.counters.active -= 1


def _listening_socket() -> SocketType:
    sock = SocketType(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Accepted sockets inherit these.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(("0.0.0.0", 0))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
