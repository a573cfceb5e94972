"""The TCP listener of one service port.

Accepting never waits: a connection is taken, its way in is checked, an endpoint is drawn and a
connect is begun; what follows is the reactor's. A connect that fails or takes too long goes on with
another endpoint (1, 2, 4, 8 seconds, as kube-proxy's attempts), then the client is refused.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct

import structlog

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.counters import EndpointCounters, PortCounters
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.reactor import EDGES, Reactor
from k8slite.roles.proxy.stream import Pipes, Stream, reset

log = structlog.get_logger()

#: Seconds that each further attempt to connect may take.
CONNECT_TIMEOUTS = (1.0, 2.0, 4.0, 8.0)

#: Seconds without accepting after descriptors or memory ran out.
ACCEPT_PAUSE = 0.1

_BACKLOG = 4096
_ACCEPTS = 64  # connections taken before others have their turn
_SO_ORIGINAL_DST = 80
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BROKEN = select.EPOLLERR | select.EPOLLHUP


def origin(address: str, port: int) -> bytes:
    """A destination as the kernel writes it into a struct sockaddr_in: port, then address."""
    return struct.pack("!H", port) + socket.inet_aton(address)


class Upstreams:
    """A socket ready for the next connection of any listener: a client is only taken out of the
    kernel's queue when there is a descriptor to serve it with."""

    def __init__(self) -> None:
        self._ready: socket.socket | None = None

    def take(self) -> socket.socket:
        """Raises OSError when there are no descriptors left."""
        ready, self._ready = self._ready, None
        return ready or _upstream_socket()

    def give(self, unused: socket.socket) -> None:
        self.close()
        self._ready = unused

    def close(self) -> None:
        if self._ready is not None:
            self._ready.close()
            self._ready = None


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
        self.clock = clock
        self.timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._origins: frozenset[bytes] = frozenset()
        self._streams: set[Stream] = set()
        self._attempts: set[_Attempt] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._socket = _listening_socket()
        self.port: int = self._socket.getsockname()[1]
        self._listen()

    def serve(self, port: PortalPort) -> None:
        """The portal: only connections that were addressed to it are let in."""
        self._origins = frozenset(origin(address, port.port) for address in port.addresses)

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
        for _ in range(_ACCEPTS):
            try:
                upstream = self.upstreams.take()
            except OSError as error:
                self._pause(error)
                return
            try:
                client, (host, _) = self._socket.accept()
            except BlockingIOError:
                self.upstreams.give(upstream)
                return
            except OSError as error:
                self.upstreams.give(upstream)
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the client gave up before it was taken
            client.setblocking(False)
            if not self._came_through_portal(client):
                self.counters.strangers += 1
            elif not len(self.balancer):
                self.counters.unserved += 1
            else:
                _Attempt(self, client, host, upstream).begin()
                continue
            reset(client)
            client.close()
            self.upstreams.give(upstream)

    def _pause(self, error: OSError) -> None:
        """Leave clients in the kernel's queue for a moment; everything else goes on."""
        log.warning(
            "accepting pauses", role="proxy", key=self.name, error=os.strerror(error.errno or 0)
        )
        self.reactor.remove(self._socket.fileno())
        self._resume = self._loop.call_later(ACCEPT_PAUSE, self._listen)

    def _came_through_portal(self, client: socket.socket) -> bool:
        try:
            target = client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        except OSError:
            return False  # not tracked, so not rewritten
        return target[2:8] in self._origins

    def begun(self, attempt: _Attempt) -> None:
        self._attempts.add(attempt)

    def given_up(self, attempt: _Attempt) -> None:
        self._attempts.discard(attempt)

    def connected(
        self, attempt: _Attempt, server: socket.socket, counters: EndpointCounters, event: int
    ) -> None:
        self._attempts.discard(attempt)
        stream = Stream(self.reactor, self.pipes, attempt.client, server, counters, self._ended)
        self._streams.add(stream)
        counters.active += 1
        stream.start(event)

    def _ended(self, stream: Stream) -> None:
        self._streams.discard(stream)
        stream.counters.active -= 1


class _Attempt:
    """A client whose endpoint is being connected to."""

    __slots__ = (
        "_began", "_endpoint", "_host", "_listener", "_server", "_timer", "_tried", "client",
    )  # fmt: skip

    def __init__(
        self, listener: TcpListener, client: socket.socket, host: str, server: socket.socket
    ) -> None:
        self.client = client
        self._listener = listener
        self._host = host
        self._server: socket.socket | None = server
        self._endpoint: Endpoint | None = None
        self._tried: list[Endpoint] = []
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0

    def begin(self) -> None:
        self._listener.begun(self)
        self._next()

    def refuse(self) -> None:
        """No endpoint for this client: reset, as the kernel does for a closed port."""
        self._drop_server()
        self._listener.given_up(self)
        reset(self.client)
        self._listener.reactor.close(self.client)

    def _next(self) -> None:
        """Connect to the next endpoint, or refuse when attempts are used up."""
        listener = self._listener
        while len(self._tried) < len(listener.timeouts):
            now = listener.clock.monotonic()
            endpoint = listener.balancer.pick(self._host, now, self._tried)
            if endpoint is None:
                break
            timeout = listener.timeouts[len(self._tried)]
            self._endpoint, self._began = endpoint, now
            self._tried.append(endpoint)
            if self._connect(endpoint, timeout):
                return
            self._failed()
        listener.counters.unserved += 1
        self.refuse()

    def _connect(self, endpoint: Endpoint, timeout: float) -> bool:
        """Begin to connect. Returns False when that fails on the spot."""
        listener = self._listener
        try:
            server = self._server or listener.upstreams.take()
            self._server = server
            code = server.connect_ex(endpoint)
        except OSError:
            return False
        if code not in (0, errno.EINPROGRESS):
            return False
        listener.reactor.add(server.fileno(), self._on_event, EDGES)
        self._timer = asyncio.get_running_loop().call_later(timeout, self._on_timeout)
        return True

    def _on_event(self, event: int) -> None:
        server = self._server
        assert server is not None
        assert self._endpoint is not None
        if event & _BROKEN:
            self._retry()
        elif event & select.EPOLLOUT:
            self._stop_timer()
            listener = self._listener
            listener.balancer.served(self._endpoint)
            counters = listener.counters.of(self._endpoint)
            counters.connections += 1
            counters.connect_seconds += listener.clock.monotonic() - self._began
            self._server = None
            listener.connected(self, server, counters, event)

    def _on_timeout(self) -> None:
        self._timer = None
        self._retry()

    def _retry(self) -> None:
        self._failed()
        self._next()

    def _failed(self) -> None:
        self._drop_server()
        if self._endpoint is not None:
            listener = self._listener
            listener.balancer.failed(self._endpoint, listener.clock.monotonic())
            listener.counters.of(self._endpoint).failures += 1

    def _drop_server(self) -> None:
        self._stop_timer()
        if self._server is not None:
            self._listener.reactor.forget(self._server.fileno())
            self._listener.reactor.close(self._server)
            self._server = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _listening_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
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


def _upstream_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        sock.close()
        raise
    return sock
