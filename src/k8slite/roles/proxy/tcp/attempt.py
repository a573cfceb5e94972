"""Connecting a client to an endpoint: attempts, one after the other, until one comes about.

An attempt that fails or takes too long goes on with another endpoint (1, 2, 4, 8 seconds, as
kube-proxy's attempts); when all are used up the client is refused.

This is paid for by every connection, so the sockets are plain ``socket.SocketType``, which is
``socket.socket`` without the part that is written in Python.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from socket import SocketType
from typing import Protocol

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.network.transparent import IP_TRANSPARENT
from k8slite.roles.proxy.reactor import EDGES, Reactor
from k8slite.roles.proxy.tcp.stream import reset
from k8slite.roles.proxy.tcp.upstreams import Upstreams
from k8slite.roles.proxy.telling.counters import EndpointCounters, PortCounters

#: Seconds that each further attempt to connect may take.
CONNECT_TIMEOUTS = (1.0, 2.0, 4.0, 8.0)

_read, _write = os.read, os.write
_FAR_SECONDS = 10.0  # an endpoint that was not there at once is not asked again whether it is
_WORDS = 4_096  # of a client are taken along, at most
_BEGUN = (errno.EINPROGRESS, 0)
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_CONNECTED = select.EPOLLOUT
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_TCP, _QUICKACK = 6, 12  # plain numbers: members of socket's enumerations cost a call


class Portal(Protocol):
    """What an attempt needs of the listener that took its client. ``far`` are endpoints that a
    connect does not reach at once, and until when that is believed; ``transparent``: connect from
    the client's own address where the answer would come to us."""

    name: str
    balancer: Balancer
    counters: PortCounters
    reactor: Reactor
    upstreams: Upstreams
    now: Callable[[], float]
    timeouts: tuple[float, ...]
    far: dict[Endpoint, float]
    transparent: bool
    unanswered: Callable[[str, Sequence[Endpoint]], None]

    def connected(
        self,
        attempt: Attempt,
        server: SocketType,
        counters: EndpointCounters,
        event: int,
        said: int,
    ) -> None:
        """``server`` is connected; its descriptor reported ``event``."""

    def given_up(self, attempt: Attempt) -> None:
        """No endpoint answered; the client is being refused."""


class Attempt:
    """A client whose endpoint is being connected to.

    What it has said by then is taken along, so that an endpoint hears it at once: that saves a
    packet (the handshake's last ACK goes with it), and the server is woken by a connection that
    has spoken. An endpoint on this host is connected when ``connect`` returns; then nothing needs
    to be waited for.
    """

    __slots__ = (
        "_began", "_endpoint", "_listener", "_seconds", "_server", "_tried", "client", "host",
        "introduction", "words",
    )  # fmt: skip

    def __init__(self, listener: Portal, client: SocketType, host: str, server: SocketType) -> None:
        self.client = client
        self.host = host
        self.words = b""  # what goes to the endpoint first
        self.introduction = 0  # so many of these bytes are not the client's
        self._listener = listener
        self._server: SocketType | None = server
        self._tried: tuple[Endpoint, ...] = ()
        self._seconds = 0.0  # how long the attempt at hand may take; 0 when there is none

    def introduce(self, header: bytes) -> None:
        """The endpoint shall hear ``header`` before anything that the client says."""
        self.words = header
        self.introduction = len(header)

    def start(self) -> None:
        """Hear what the client says already and connect to an endpoint, or refuse."""
        if self._listen():
            self.begin()
        else:
            self.refuse()

    def begin(self) -> None:
        """Connect to the next endpoint, or refuse when attempts are used up."""
        listener = self._listener
        tried = self._tried
        for seconds in listener.timeouts[len(tried) :]:
            self._began = now = listener.now()
            self._endpoint = endpoint = listener.balancer.pick(self.host, now, tried)
            if endpoint is None:
                break
            self._tried = tried = (*tried, endpoint)
            try:
                self._server = server = self._socket_for(endpoint)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    self._failed()
                    continue  # this host has no IPv6; others have endpoints of IPv4
                break  # no descriptor for a further attempt: no endpoint's fault
            try:
                code = server.connect_ex(endpoint)
                said = self._say_at_once(server, endpoint) if self.words and code in _BEGUN else 0
            except OSError:
                code = errno.ECONNREFUSED
            if code in _BEGUN:
                listener.reactor.add(server.fileno(), self._on_event, EDGES)
                if said:
                    self._connected(0, said)
                else:
                    listener.upstreams.deadlines.begin(self, now, seconds)
                    self._seconds = seconds
                return
            self._failed()
        else:
            listener.unanswered(listener.name, tried)
        listener.counters.unserved += 1
        self.refuse()

    def refuse(self) -> None:
        """No endpoint for this client: reset, as the kernel does for a closed port."""
        self._drop_server()
        self._listener.given_up(self)
        reset(self.client)
        self._listener.reactor.close(self.client)

    def late(self) -> None:
        """The time is over; but a busy process may not have heard yet that it is connected."""
        assert self._server is not None
        try:
            self._server.getpeername()
        except OSError:
            self._give_up()
        else:
            self._on_event(_CONNECTED)

    def _give_up(self) -> None:
        """This endpoint did not answer in time, or said no: on to the next."""
        self._failed()
        self.begin()

    def _listen(self) -> bool:
        """Hear what the client says already; whether it is there still."""
        try:
            self.words += _read(self.client.fileno(), _WORDS)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def _socket_for(self, endpoint: Endpoint) -> SocketType:
        """Raises OSError when there are no descriptors left for clients."""
        listener = self._listener
        self._server = server = self._server or listener.upstreams.take()
        if ":" in endpoint.ip:
            server = listener.upstreams.swap_for_ipv6(server)
        elif listener.transparent and listener.upstreams.leads(self.host, endpoint):
            _speak_as(server, self.host)
        if self.words:
            server.setsockopt(_TCP, _QUICKACK, 0)
        return server

    def _say_at_once(self, server: SocketType, endpoint: Endpoint) -> int:
        """How many bytes an endpoint that is connected already takes; 0 when it is not. Raises
        OSError when it said no."""
        far = self._listener.far
        if far and far.get(endpoint, 0.0) > self._began:
            return 0
        try:
            return _write(server.fileno(), self.words)
        except BlockingIOError:
            far[endpoint] = self._began + _FAR_SECONDS
            return 0

    def _on_event(self, event: int) -> None:
        if event & _BROKEN:
            self._give_up()
        elif event & _CONNECTED:
            assert self._server is not None
            self._listener.upstreams.deadlines.end(self, self._seconds)
            if 0 < self.introduction == len(self.words) and not self._listen():
                self.refuse()
                return
            try:
                said = _write(self._server.fileno(), self.words) if self.words else 0
            except BlockingIOError:
                said = 0
            except OSError:
                self._give_up()
                return
            self._connected(event, said)

    def _connected(self, event: int, said: int) -> None:
        listener, server, endpoint = self._listener, self._server, self._endpoint
        assert server is not None
        assert endpoint is not None
        listener.balancer.served(endpoint)
        counters = listener.counters.of(endpoint)
        counters.connections += 1
        counters.connect_seconds += listener.now() - self._began
        self._server = None
        listener.connected(self, server, counters, event, said)

    def _failed(self) -> None:
        self._drop_server()
        if self._endpoint is not None:
            listener = self._listener
            listener.balancer.failed(self._endpoint, listener.now())
            listener.counters.of(self._endpoint).failures += 1

    def _drop_server(self) -> None:
        if self._seconds:
            self._listener.upstreams.deadlines.end(self, self._seconds)
            self._seconds = 0.0
        if self._server is not None:
            self._listener.reactor.remove(self._server.fileno())
            self._listener.reactor.close(self._server)
            self._server = None


def _speak_as(server: SocketType, client: str) -> None:
    """Make ``server`` connect from the client's own address; the kernel picks a port at connect,
    one that is free towards that endpoint (IP_BIND_ADDRESS_NO_PORT). Where it will not, the
    connection comes from this node."""
    try:
        server.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        server.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        server.bind((client, 0))
    except OSError:
        pass
