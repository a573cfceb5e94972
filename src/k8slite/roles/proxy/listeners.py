"""The data path in this process: a listener for every service port that it serves.

A listener that is wanted no longer stays until its portal rules are gone from the kernel, so that
nobody is sent to a closed port; then it accepts no more, and what is established has a while to
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.clock import Clock
from k8slite.netfilter.conntrack import Address, Conntrack
from k8slite.netfilter.edge import NetfilterError
from k8slite.roles.proxy.descriptors import ceiling
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.reactor import Reactor
from k8slite.roles.proxy.tcp.attempt import CONNECT_TIMEOUTS
from k8slite.roles.proxy.tcp.listener import TcpListener
from k8slite.roles.proxy.tcp.pipes import Pipes
from k8slite.roles.proxy.tcp.upstreams import Upstreams
from k8slite.roles.proxy.telling.counters import ProxyCounters
from k8slite.roles.proxy.udp.listener import IDLE_SECONDS, UdpListener
from k8slite.roles.proxy.udp.mmsg import datagram_io

log = structlog.get_logger()

#: Seconds that established connections of a removed service port are given to end.
DRAIN_SECONDS = 30.0

Listener = TcpListener | UdpListener


class Listeners:
    """Made inside the loop that they serve in; ``shut`` ends all. ``inside(client)`` says whether
    an address is of a pod or of this host; ``leads(client, endpoint)`` whether the endpoint's
    answer to the client's address would come to us. ``unanswered(name, endpoints)`` is called when
    a client of a portal was refused because none of the endpoints answered."""

    def __init__(
        self,
        clock: Clock,
        counters: ProxyCounters,
        *,
        inside: Callable[[str], bool],
        leads: Callable[[str, Endpoint], bool] = lambda client, endpoint: False,
        unanswered: Callable[[str, Sequence[Endpoint]], None] = lambda name, tried: None,
        connect_timeouts: tuple[float, ...] = CONNECT_TIMEOUTS,
        udp_idle: float = IDLE_SECONDS,
        drain: float = DRAIN_SECONDS,
    ) -> None:
        self._clock = clock
        self._counters = counters
        self._inside = inside
        self._unanswered = unanswered
        self._connect_timeouts = connect_timeouts
        self._udp_idle = udp_idle
        self._drain = drain
        self._open: dict[str, Listener] = {}  # by portal name
        self._retired: list[Listener] = []  # their rules are to go
        self._retiring: list[Listener] = []  # their rules are being taken away
        self._draining: dict[Listener, float] = {}  # until when
        self._conntrack: Conntrack | None = None
        self._datagrams = datagram_io()
        self._pipes = Pipes(ceiling())
        self._upstreams = Upstreams(clock, leads)
        self._reactor = Reactor()

    def __getitem__(self, name: str) -> Listener:
        return self._open[name]

    def balancer(self, name: str) -> Balancer | None:
        """Who draws for the portal of this name; None for one that is not served here."""
        listener = self._open.get(name)
        return None if listener is None else listener.balancer

    @property
    def ports(self) -> Mapping[str, int]:
        """The local port of each listener, by ``namespace/service:portname``."""
        return {name: listener.port for name, listener in self._open.items()}

    @property
    def retiring(self) -> bool:
        """Some listener waits for its rules to go."""
        return bool(self._retired or self._retiring)

    def serve(
        self, port: PortalPort, endpoints: Iterable[Endpoint], local: Iterable[Endpoint] = ()
    ) -> int:
        """Have a listener for ``port`` that serves ``endpoints`` from now on, and ``local`` to
        clients that are kept to this node. TCP connections to an endpoint that is gone live as
        long as it does; UDP sessions go on with another. Returns the listener's local port.
        Raises OSError when no socket can be had."""
        listener = self._open.get(port.name)
        if listener is None or listener.protocol != port.protocol:
            fresh = self._listen(port)
            if listener is not None:
                self._retired.append(listener)
            listener = self._open[port.name] = fresh
        balancer = listener.balancer
        balancer.set_affinity(port.affinity)
        balancer.set_warm_up(port.warm_up)
        balancer.set_local(inside=port.inside_local, outside=port.outside_local)
        if balancer.set_endpoints(endpoints, self._clock.monotonic(), local):
            self._counters.of(port.name).keep(balancer.endpoints)
            if isinstance(listener, UdpListener):
                listener.leave_former_endpoints()
        listener.serve(port)
        return listener.port

    def retire(self, name: str) -> None:
        """The listener of this name is wanted no longer; an unknown name is no error."""
        listener = self._open.pop(name, None)
        if listener is not None:
            self._counters.ports.pop(name, None)
            self._retired.append(listener)

    def rules_begin(self) -> None:
        """The rules of what was retired so far are being taken away."""
        self._retiring += self._retired
        self._retired.clear()

    def rules_written(self) -> None:
        """They are gone: accept no more there."""
        retiring, self._retiring = self._retiring, []
        for listener in retiring:
            if isinstance(listener, UdpListener):
                self._forget_flows(listener)
            listener.stop()
            if listener.active:
                self._draining[listener] = self._clock.monotonic() + self._drain

    def sweep(self) -> None:
        """End silent UDP sessions, and what was not drained in time; keep watch over connections
        that last. Call every second or so."""
        now = self._clock.monotonic()
        for listener in self._open.values():
            if isinstance(listener, UdpListener):
                listener.expire()
            else:
                listener.watch()
        for listener, until in tuple(self._draining.items()):
            if now >= until or not listener.active:
                listener.abort()
                del self._draining[listener]

    def shut(self) -> None:
        """Break off everything and give back what it held."""
        for listener in (*self._open.values(), *self._retired, *self._retiring, *self._draining):
            listener.abort()
        self._open.clear()
        self._pipes.close()
        self._upstreams.shut()
        self._reactor.shut()
        if self._conntrack is not None:
            self._conntrack.close()

    def _listen(self, port: PortalPort) -> Listener:
        balancer = Balancer(self._clock.rng, affinity=port.affinity, inside=self._inside)
        counters = self._counters.of(port.name)
        if port.protocol == "tcp":
            return TcpListener(
                port.name, self._reactor, self._pipes, self._upstreams, balancer, counters,
                self._clock, timeouts=self._connect_timeouts, unanswered=self._unanswered,
            )  # fmt: skip
        return UdpListener(
            port.name, self._reactor, self._datagrams, balancer, counters, self._clock,
            self._original_target, idle=self._udp_idle,
        )  # fmt: skip

    def _original_target(self, server: Address, client: Address) -> Address | None:
        if self._conntrack is None:
            self._conntrack = Conntrack()
        return self._conntrack.original_target(server, client)

    def _forget_flows(self, listener: UdpListener) -> None:
        """A UDP flow keeps its rewriting as long as it is used: without this a client that goes
        on sending would go on to a port that is closed."""
        try:
            for flow in listener.flows():
                if self._conntrack is not None:
                    self._conntrack.forget(flow)
        except NetfilterError as error:
            log.warning("flows not ended", role="proxy", key=listener.name, error=str(error))
