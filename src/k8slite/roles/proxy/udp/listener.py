"""The UDP listener of one service port: a session for each client, ended by silence.

A session begins only with a client that came through the portal; connection tracking is asked once
for each. A flood of invented senders costs a bounded number of descriptors (``sessions`` says who
gives way) and a bounded time: so many new clients are looked at in a second, what others send is
thrown away at once, and those that have a session go on.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Mapping, Sequence

import structlog

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.netfilter.conntrack import Address, Flow, canonical
from k8slite.netfilter.edge import NetfilterError
from k8slite.roles.proxy.descriptors import ceiling
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.reactor import Reactor
from k8slite.roles.proxy.sources import Sources, sources_of
from k8slite.roles.proxy.telling.counters import PortCounters
from k8slite.roles.proxy.udp.datagrams import SLOTS, Caller, DatagramIO, Origin
from k8slite.roles.proxy.udp.sessions import ANSWERED, LIVE, NEW, SessionTable

log = structlog.get_logger()

#: A session ends after so many seconds without a datagram either way (kube-proxy: 10).
IDLE_SECONDS = 10.0

MAX_SESSIONS = 2_048

#: New clients that are looked at in a second, and at once after quiet seconds.
NEW_CLIENTS, NEW_CLIENTS_BURST = 4_000.0, 1_024.0

#: Datagrams that are taken at once when so many of the last were of new clients: a session costs
#: some fifty times what a datagram does.
_FEW = 16

_EDGES = select.EPOLLIN | select.EPOLLET

#: Strangers that are remembered as such, for a second or so.
_STRANGERS = 4_096

#: Answers where a client addressed its flow, see ``Conntrack.original_target``.
OriginalTarget = Callable[[Address, Address], Address | None]


class UdpListener:
    """Listens on a random port of all addresses. ``port`` is the one it got. Raises OSError."""

    protocol = "udp"

    def __init__(
        self,
        name: str,
        reactor: Reactor,
        datagrams: DatagramIO,
        balancer: Balancer,
        counters: PortCounters,
        clock: Clock,
        original_target: OriginalTarget,
        *,
        idle: float = IDLE_SECONDS,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self.name = name
        self.balancer = balancer
        self.counters = counters
        self.clock = clock
        self.idle = idle
        self.sessions: SessionTable[_Session] = SessionTable(max_sessions)
        self._reactor = reactor
        self.datagrams = datagrams
        self._original_target = original_target
        self._ceiling = ceiling()
        self._targets: frozenset[Address] = frozenset()
        self._node_port = 0
        self._sources: Sources | None = None
        self._strangers: set[Caller] = set()
        self._allowance = Allowance(NEW_CLIENTS, NEW_CLIENTS_BURST)
        self._leaving: list[_Session] = []  # of former endpoints, to end with the next look but one
        self._left: list[_Session] = []  # and with the next
        self._waits = False  # for a turn to go on
        self._begun = 0  # new clients among the datagrams taken last
        self._blind = ""  # why connection tracking cannot be asked
        self._socket = datagrams.listen()
        self.port: int = self._socket.getsockname()[1]
        reactor.add(self._socket.fileno(), self._receive, _EDGES)

    def serve(self, port: PortalPort) -> None:
        """The portal: only datagrams that were addressed to it are let in."""
        self._targets = frozenset((canonical(address), port.port) for address in port.addresses)
        self._strangers.clear()
        self._node_port = port.node_port
        self._sources = sources = sources_of(port)
        if sources is not None:
            for session in self.sessions:
                if not sources(session.origin.client[0], session.target):
                    self._end(session)

    @property
    def active(self) -> int:
        return len(self.sessions) + len(self._leaving) + len(self._left)

    def flows(self) -> list[Flow]:
        """The tracked flows of the sessions that are open."""
        return [
            Flow(client, session.target, (local, self.port), client)
            for session in self.sessions
            for client, local in (session.origin,)
        ]

    def expire(self) -> None:
        """End sessions that were silent for too long. Call every second or so."""
        self._strangers.clear()
        for session in self.sessions.silent(self.clock.monotonic(), self.idle):
            self._end(session)
        for session in self._left:
            self._close(session)
        self._left, self._leaving = self._leaving, []

    def leave_former_endpoints(self) -> None:
        """Sessions that could not begin any more as they did: the client's next datagram goes to
        another endpoint, but what the former one is about to answer still arrives."""
        for session in self.sessions:
            if not self.balancer.serves(session.origin.client[0], session.endpoint):
                if len(self._leaving) + len(self._left) >= self.sessions.most:
                    self._end(session)
                elif self.sessions.remove(session):
                    self._leaving.append(session)

    def stop(self) -> None:
        """Take no more datagrams from clients. UDP has nothing to drain: sessions end."""
        if self._socket.fileno() < 0:
            return
        for session in self.sessions:
            self._end(session)
        for session in (*self._leaving, *self._left):
            self._close(session)
        self._leaving, self._left = [], []
        self._reactor.remove(self._socket.fileno())
        self._reactor.close(self._socket)

    abort = stop

    def _receive(self, event: int = 0) -> None:
        if self._socket.fileno() < 0:
            return
        if not event:
            self._waits = False
        most = _FEW if self._begun >= _FEW else SLOTS
        self._begun = 0
        callers, sizes = self.datagrams.take(self._socket, most)
        if len(callers) == most and not self._waits:
            self._waits = True
            self._reactor.again(self._receive)  # there may be more, and no edge tells
        for caller, places in _by_caller(callers).items():
            session = self.sessions.of(caller) or self._begin(caller, len(places))
            if session is None:
                continue
            try:
                self.datagrams.forward(session.upstream, places)
            except ConnectionRefusedError:
                self._broken(session)
                continue
            session.used = True
            if session.rank == ANSWERED:
                self.sessions.promote(session, LIVE)
            for place in places:
                session.counters.received += sizes[place]

    def _begin(self, caller: Caller, count: int) -> _Session | None:
        """A session for a new client that sent ``count`` datagrams; None for strangers, without an
        endpoint, and when too many are new."""
        if caller in self._strangers:
            self.counters.strangers += count
            return None
        now = self.clock.monotonic()
        if not self._allowance.take(now):
            self.counters.overrun += count
            return None
        self._begun += 1
        origin = self.datagrams.origin(caller)
        target = self._target(origin)
        if origin is None or target is None:
            self.counters.strangers += count
            if len(self._strangers) < _STRANGERS:
                self._strangers.add(caller)
            return None
        endpoint = self.balancer.pick(origin.client[0], now)
        if endpoint is None:
            self.counters.unserved += count
            return None
        if (surplus := self.sessions.surplus()) is not None:
            self._end(surplus)
        try:
            session = _Session(self, caller, origin, target, endpoint, self._ceiling)
        except OSError as error:
            self.counters.of(endpoint).failures += 1
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                self.balancer.failed(endpoint, now)
            return None
        self.sessions.add(session, now)
        self._reactor.add(session.upstream, session.receive, _EDGES)
        session.counters.connections += 1
        session.counters.active += 1
        return session

    def _target(self, origin: Origin | None) -> Address | None:
        """Which of the portal's addresses a client addressed; None: it came past the portal, or is
        none of those who may come in there."""
        if origin is None:
            return None
        blind, target = "", None
        try:
            target = self._original_target((origin.local, self.port), origin.client)
        except NetfilterError as error:
            blind = str(error)
        if blind != self._blind:
            self._blind = blind
            if blind:
                log.warning("cannot tell strangers", role="proxy", key=self.name, error=blind)
        if target is None or (target not in self._targets and target[1] != self._node_port):
            return None
        if self._sources is not None and not self._sources(origin.client[0], target):
            return None
        return target

    def answer(self, session: _Session) -> None:
        """Send what the endpoint said to the client, from the address that the client used."""
        datagrams = self.datagrams
        try:
            count, size, more = datagrams.answer(session.upstream, self._socket, session.reply)
        except OSError:
            self._broken(session)
            return
        if not datagrams.due:
            datagrams.due = True
            self._reactor.close(datagrams)
        if more and not session.waits:
            session.waits = True
            self._reactor.again(session.receive)
        if count:
            session.used = True
            session.counters.sent += size
            if session.rank == NEW:
                self.sessions.promote(session, ANSWERED)
                self.balancer.served(session.endpoint)

    def _broken(self, session: _Session) -> None:
        """The endpoint's host says that nobody listens there: the client's next datagram goes to
        another."""
        if self.sessions.of(session.caller) is not session:
            return  # left already
        self.balancer.failed(session.endpoint, self.clock.monotonic())
        session.counters.failures += 1
        self._end(session)

    def _end(self, session: _Session) -> None:
        if self.sessions.remove(session):
            self._close(session)

    def _close(self, session: _Session) -> None:
        self._reactor.remove(session.upstream)
        self._reactor.close(session.socket)
        session.counters.active -= 1


class _Session:
    """One client and the endpoint that it was given; ``upstream`` is the descriptor to there."""

    __slots__ = (
        "_listener", "caller", "counters", "endpoint", "origin", "rank", "reply", "seen", "socket",
        "target", "upstream", "used", "waits",
    )  # fmt: skip

    def __init__(
        self,
        listener: UdpListener,
        caller: Caller,
        origin: Origin,
        target: Address,
        endpoint: Endpoint,
        ceiling: int,
    ) -> None:
        """Raises OSError, also when its descriptor would be ``ceiling`` or higher."""
        self._listener = listener
        self.caller = caller
        self.origin = origin
        self.target = target
        self.endpoint = endpoint
        self.counters = listener.counters.of(endpoint)
        self.rank, self.used, self.seen = NEW, False, 0.0
        self.waits = False  # for a turn to go on
        self.reply = listener.datagrams.reply(caller)
        self.socket: socket.socket = listener.datagrams.connect(endpoint)
        self.upstream = self.socket.fileno()
        if self.upstream >= ceiling:
            self.socket.close()
            raise OSError(errno.EMFILE, "the last descriptors are not for clients")

    def receive(self, event: int = 0) -> None:
        if not event:
            self.waits = False
        if self.socket.fileno() >= 0:
            self._listener.answer(self)


class Allowance:
    """So many a second, and up to ``burst`` at once after a quiet time."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _by_caller(callers: Sequence[Caller]) -> Mapping[Caller, Sequence[int]]:
    """The places at which each caller stands, in their order."""
    count = len(callers)
    if count == 1:
        return {callers[0]: (0,)}
    if count and callers.count(callers[0]) == count:
        return {callers[0]: range(count)}
    found: dict[Caller, list[int]] = {}
    for place, caller in enumerate(callers):
        places = found.get(caller)
        if places is None:
            found[caller] = [place]
        else:
            places.append(place)
    return found
