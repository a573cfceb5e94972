"""The UDP listener of one service port: a session for each client, ended by silence.

A datagram must leave by the address that it came in to, or connection tracking does not know its
flow and the client does not know its server: IP_PKTINFO tells and sets that address.

A session begins only with a client that came through the portal; connection tracking is asked once
for each. Sessions are bounded: when there are too many the longest silent one goes, so a flood of
invented senders costs a bounded number of descriptors.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable

import structlog

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.netfilter.conntrack import Address, Flow
from k8slite.netfilter.edge import NetfilterError
from k8slite.roles.proxy.counters import PortCounters
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.reactor import Reactor

log = structlog.get_logger()

#: A session ends after so many seconds without a datagram either way (kube-proxy: 10).
IDLE_SECONDS = 10.0

MAX_SESSIONS = 2_048
_DATAGRAM = 65_536
_DATAGRAMS = 64  # taken before others have their turn
_IP_PKTINFO = 8
_ANCILLARY = socket.CMSG_SPACE(12)

#: Answers where a client addressed its flow, see ``Conntrack.original_target``.
OriginalTarget = Callable[[Address, Address], Address | None]


class UdpListener:
    """Listens on a random port of all addresses. ``port`` is the one it got. Raises OSError."""

    protocol = "udp"

    def __init__(
        self,
        name: str,
        reactor: Reactor,
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
        self._reactor = reactor
        self._original_target = original_target
        self._max_sessions = max_sessions
        self._targets: frozenset[Address] = frozenset()
        self._sessions: OrderedDict[tuple[Address, str], _Session] = OrderedDict()
        self._socket = _listening_socket()
        self.port: int = self._socket.getsockname()[1]
        reactor.add(self._socket.fileno(), self._receive, select.EPOLLIN)

    def serve(self, port: PortalPort) -> None:
        """The portal: only datagrams that were addressed to it are let in."""
        self._targets = frozenset((address, port.port) for address in port.addresses)

    @property
    def active(self) -> int:
        return len(self._sessions)

    def flows(self) -> list[Flow]:
        """The tracked flows of the sessions that are open."""
        return [
            Flow(session.client, session.target, (session.local, self.port), session.client)
            for session in self._sessions.values()
        ]

    def expire(self) -> None:
        """End sessions that were silent for too long; the longest silent ones stand first."""
        limit = self.clock.monotonic() - self.idle
        while self._sessions:
            session = next(iter(self._sessions.values()))
            if session.seen > limit:
                break
            self._end(session)

    def leave_former_endpoints(self) -> None:
        """End the sessions that could not begin any more as they did: the client's next datagram
        goes to another endpoint."""
        for session in tuple(self._sessions.values()):
            if not self.balancer.serves(session.client[0], session.endpoint):
                self._end(session)

    def stop(self) -> None:
        """Take no more datagrams from clients. UDP has nothing to drain: sessions end."""
        if self._socket.fileno() < 0:
            return
        for session in tuple(self._sessions.values()):
            self._end(session)
        self._reactor.remove(self._socket.fileno())
        self._reactor.close(self._socket)

    abort = stop

    def _receive(self, event: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data, ancillary, _, client = self._socket.recvmsg(_DATAGRAM, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that an earlier answer met
            local = _local_address(ancillary)
            if local is None:
                continue
            key = (client, local)
            session = self._sessions.get(key)
            if session is None:
                session = self._begin(client, local)
                if session is None:
                    continue
            self._touch(session)
            session.counters.received += len(data)
            session.send(data)

    def _begin(self, client: Address, local: str) -> _Session | None:
        """A session for a new client; None for strangers and without an endpoint."""
        try:
            target = self._original_target((local, self.port), client)
        except NetfilterError as error:
            log.warning("cannot tell strangers", role="proxy", key=self.name, error=str(error))
            target = None
        if target is None or target not in self._targets:
            self.counters.strangers += 1
            return None
        now = self.clock.monotonic()
        endpoint = self.balancer.pick(client[0], now)
        if endpoint is None:
            self.counters.unserved += 1
            return None
        if len(self._sessions) >= self._max_sessions:
            self._end(next(iter(self._sessions.values())))
        try:
            session = _Session(self, client, local, target, endpoint)
        except OSError as error:
            self.counters.of(endpoint).failures += 1
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                self.balancer.failed(endpoint, now)
            return None
        self._sessions[(client, local)] = session
        self._reactor.add(session.socket.fileno(), session.receive, select.EPOLLIN)
        session.counters.connections += 1
        session.counters.active += 1
        return session

    def _touch(self, session: _Session) -> None:
        session.seen = self.clock.monotonic()
        self._sessions.move_to_end((session.client, session.local))

    def answer(self, session: _Session, data: bytes) -> None:
        """Send what the endpoint said to the client, from the address that the client used."""
        self._touch(session)
        self.balancer.served(session.endpoint)
        session.counters.sent += len(data)
        info = struct.pack("=I4s4s", 0, socket.inet_aton(session.local), bytes(4))
        try:
            ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
            self._socket.sendmsg([data], ancillary, 0, session.client)
        except OSError:
            pass  # a datagram that cannot be sent is a datagram lost

    def broken(self, session: _Session) -> None:
        """The endpoint's host says that nobody listens there: the client's next datagram goes to
        another."""
        now = self.clock.monotonic()
        self.balancer.failed(session.endpoint, now)
        session.counters.failures += 1
        self._end(session)

    def _end(self, session: _Session) -> None:
        if self._sessions.pop((session.client, session.local), None) is not None:
            self._reactor.forget(session.socket.fileno())
            self._reactor.close(session.socket)
            session.counters.active -= 1


class _Session:
    """One client and the endpoint that it was given."""

    __slots__ = (
        "_listener", "client", "counters", "endpoint", "local", "seen", "socket", "target",
    )  # fmt: skip

    def __init__(
        self,
        listener: UdpListener,
        client: Address,
        local: str,
        target: Address,
        endpoint: Endpoint,
    ) -> None:
        self._listener = listener
        self.client = client
        self.local = local
        self.target = target
        self.endpoint = endpoint
        self.counters = listener.counters.of(endpoint)
        self.seen = 0.0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.connect(endpoint)
        except OSError:
            self.socket.close()
            raise

    def send(self, data: bytes) -> None:
        try:
            self.socket.send(data)
        except ConnectionRefusedError:
            self._listener.broken(self)
        except OSError:
            pass  # lost, as datagrams may be

    def receive(self, event: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data = self.socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                self._listener.broken(self)
                return
            self._listener.answer(self, data)


def _listening_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", 0))
    except OSError:
        sock.close()
        raise
    return sock


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The address that the datagram reached (struct in_pktinfo: interface, ours, header's)."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return socket.inet_ntoa(data[8:12])
    return None
