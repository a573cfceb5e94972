"""The TCP listener of one service port.

Accepting never waits: a connection is taken, its way in is checked, an endpoint is drawn and a
connect is begun (``attempt``); what follows is the reactor's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import struct
from collections.abc import Callable, Sequence
from functools import partial
from socket import SocketType

import structlog

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.reactor import Reactor
from k8slite.roles.proxy.sources import Sources, sources_of
from k8slite.roles.proxy.tcp.attempt import CONNECT_TIMEOUTS, Attempt
from k8slite.roles.proxy.tcp.gate import Gate, destination, make_gate, make_gate_beside, origin
from k8slite.roles.proxy.tcp.pipes import Pipes
from k8slite.roles.proxy.tcp.proxyprotocol import HEADERS, Side
from k8slite.roles.proxy.tcp.stream import Stream, keep_watch, reset
from k8slite.roles.proxy.tcp.upstreams import Upstreams
from k8slite.roles.proxy.telling.counters import EndpointCounters, PortCounters

log = structlog.get_logger()

#: Seconds without accepting after descriptors or memory ran out.
ACCEPT_PAUSE = 0.1

_PAUSES_TOLD = 10.0  # pauses that follow one another sooner are one line in the log
_ACCEPTS = 64  # connections taken before others have their turn
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpListener:
    """Accepts while there are endpoints; without any the kernel refuses clients at once. ``port``
    is the local one, for IPv4 and, when the portal has such addresses, IPv6. Raises OSError when
    it cannot listen."""

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
        unanswered: Callable[[str, Sequence[Endpoint]], None] = lambda name, tried: None,
    ) -> None:
        self.name = name
        self.balancer = balancer
        self.counters = counters
        self.reactor = reactor
        self.pipes = pipes
        self.upstreams = upstreams
        self.now = clock.monotonic
        self.timeouts = timeouts
        self.unanswered = unanswered
        self._loop = asyncio.get_running_loop()
        self._origins: frozenset[bytes] = frozenset()
        self.transparent = False
        self._introduce: Callable[[Side, Side], bytes] | None = None
        self._node_port = b""
        self._sources: Sources | None = None
        #: Endpoints that a connect does not reach at once; those on this host it does.
        self.far: dict[Endpoint, float] = {}  # until when that is believed
        self._young: set[Stream] = set()  # mostly over before anything needs to be known of them
        self._streams: set[Stream] = set()  # the others
        self._attempts: set[Attempt] = set()
        self._paused = float("-inf")  # when last
        self._resume: asyncio.TimerHandle | None = None
        self._gates = [make_gate()]
        self.port: int = self._gates[0].port

    def serve(self, port: PortalPort) -> None:
        """The portal: only connections that were addressed to it are let in. To be called again
        when there are endpoints, or none any more. Raises OSError."""
        self._origins = frozenset(origin(address, port.port) for address in port.addresses)
        self.far.clear()
        self._sources = sources_of(port)
        self._introduce = HEADERS.get(port.client_address)
        self.transparent = port.client_address == "transparent"
        # The rules of node ports are for every address of this host, so the number says it all.
        self._node_port = struct.pack("!H", port.node_port) if port.node_port else b""
        if port.node_port or any(":" in address for address in port.addresses):
            self._have_ipv6()
        if len(self.balancer):
            self._open()
        else:
            self._shut()

    @property
    def active(self) -> int:
        return len(self._young) + len(self._streams) + len(self._attempts)

    def watch(self) -> None:
        """Keep watch over the endpoints of connections that have lasted since the last call."""
        for stream in self._young:
            try:
                keep_watch(stream.server)
            except OSError:
                pass  # broken: its event is on the way
        self._streams |= self._young
        self._young.clear()

    def stop(self) -> None:
        """Accept no more; what is established goes on."""
        for gate in self._gates:
            self.reactor.remove(gate.fd)
            self.reactor.close(gate)
        self._gates.clear()
        self._unpause()

    def abort(self) -> None:
        """Stop, and break off what is established."""
        self.stop()
        for attempt in tuple(self._attempts):
            attempt.refuse()
        for stream in (*self._young, *self._streams):
            stream.abort()

    def _have_ipv6(self) -> None:
        """Raises OSError when somebody has our port there; no error where IPv6 is unknown."""
        if len(self._gates) > 1:
            return
        try:
            self._gates.append(make_gate_beside(self._gates[0]))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise

    def _open(self) -> None:
        for gate in self._gates:
            if not gate.is_open:
                gate.open()
                if self._resume is None:
                    self._attend(gate)

    def _shut(self) -> None:
        for gate in self._gates:
            if gate.is_open:
                self.reactor.remove(gate.fd)
                gate.shut()

    def _attend(self, gate: Gate) -> None:
        self.reactor.add(gate.fd, partial(self._accept, gate), select.EPOLLIN)

    def _accept(self, gate: Gate, event: int) -> None:
        origins, attempts, upstreams = self._origins, self._attempts, self.upstreams
        sources = self._sources
        for _ in range(_ACCEPTS):
            try:
                upstream = upstreams.take()
            except OSError as error:
                self._pause(error)
                return
            try:
                client, peer, target = gate.take()
            except BlockingIOError:
                upstreams.give(upstream)
                return
            except OSError as error:
                upstreams.give(upstream)
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the client gave up before it was taken
            known = target in origins or (target and target[:2] == self._node_port)
            if known and (sources is None or sources(peer[0], destination(target))):
                attempt = Attempt(self, client, peer[0], upstream)
                attempts.add(attempt)
                if self._introduce is not None:
                    attempt.introduce(self._introduce(Side(*peer), destination(target)))
                attempt.start()
            else:
                self.counters.strangers += 1
                reset(client)
                client.close()
                upstreams.give(upstream)

    def _pause(self, error: OSError) -> None:
        """Leave clients in the kernel's queue for a moment; everything else goes on."""
        now = self.now()
        if now - self._paused >= _PAUSES_TOLD:
            text = os.strerror(error.errno or 0)
            log.warning("accepting pauses", role="proxy", key=self.name, error=text)
        self._paused = now
        for gate in self._gates:
            self.reactor.remove(gate.fd)
        self._resume = self._loop.call_later(ACCEPT_PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        for gate in self._gates:
            if gate.is_open:
                self._attend(gate)

    def _unpause(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None

    def given_up(self, attempt: Attempt) -> None:
        self._attempts.discard(attempt)

    def connected(
        self,
        attempt: Attempt,
        server: SocketType,
        counters: EndpointCounters,
        event: int,
        said: int,
    ) -> None:
        """``said`` bytes of the attempt's words went to the server by now."""
        self._attempts.discard(attempt)
        stream = Stream(self.reactor, self.pipes, attempt.client, server, counters, self._ended)
        self._young.add(stream)
        counters.active += 1
        counters.received -= attempt.introduction  # no payload
        stream.start(event, attempt.words, said)

    def _ended(self, stream: Stream) -> None:
        self._young.discard(stream)
        self._streams.discard(stream)
        stream.counters.active -= 1
