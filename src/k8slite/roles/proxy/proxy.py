"""The service proxy of a node: portals in, connections to endpoints out.

Services and their endpoints are read from informers. For every service port there is a listener on
a random port and a pair of portal rules for each of its addresses (``netfilter.rules``). A change
of endpoints only changes who is drawn next: no listener, no rule and no established connection is
touched by it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from k8slite.api.kinds import ENDPOINTS, SERVICE
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide.balancing import Balancer
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.kit.workqueue import WorkQueue
from k8slite.netfilter.conntrack import Address, Conntrack, forget_flows
from k8slite.netfilter.edge import Edge, NetfilterError
from k8slite.netfilter.portals import DesiredRules, Portal
from k8slite.roles.proxy.counters import ProxyCounters
from k8slite.roles.proxy.health import HEALTH_PORT, serve_health
from k8slite.roles.proxy.portals import LOOK_EVERY, PortalKeeper
from k8slite.roles.proxy.ports import PortalPort, endpoints_of, portal_ports
from k8slite.roles.proxy.reactor import Reactor
from k8slite.roles.proxy.stream import Pipes
from k8slite.roles.proxy.tcp import CONNECT_TIMEOUTS, TcpListener, Upstreams
from k8slite.roles.proxy.udp import IDLE_SECONDS, UdpListener

log = structlog.get_logger()

#: Seconds that established connections of a removed service port are given to end.
DRAIN_SECONDS = 30.0

_SWEEP_SECONDS = 1.0

Listener = TcpListener | UdpListener


class EventRecorder(Protocol):
    """What the proxy needs of ``client.events.EventRecorder``."""

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None: ...


class Proxy:
    """Run with ``run()``; everything it made is closed when that ends.

    The portal rules stay when ``run`` ends, so that an agent that comes back finds them;
    ``edge.remove()`` takes them away. ``health_port`` 0 picks one, None serves none.
    """

    def __init__(
        self,
        settings: Settings,
        informers: Informers,
        recorder: EventRecorder,
        clock: Clock,
        edge: Edge,
        *,
        health_port: int | None = HEALTH_PORT,
        look_every: float = LOOK_EVERY,
        connect_timeouts: tuple[float, ...] = CONNECT_TIMEOUTS,
        udp_idle: float = IDLE_SECONDS,
        drain: float = DRAIN_SECONDS,
    ) -> None:
        self.counters = ProxyCounters()
        self._services = informers.of(SERVICE)
        self._endpoints = informers.of(ENDPOINTS)
        self._recorder = recorder
        self._clock = clock
        self._health_port = health_port
        self._connect_timeouts = connect_timeouts
        self._udp_idle = udp_idle
        self._drain = drain
        self._desired = DesiredRules(settings.node_ip)
        self._keeper = PortalKeeper(
            self._desired, edge, clock, self.counters,
            on_begin=self._rules_begin, on_trouble=self._rules_in_trouble,
            on_written=self._rules_written,
            look_every=look_every,
        )  # fmt: skip
        self._queue: WorkQueue[str] = WorkQueue("proxy")
        self._ports: dict[str, dict[str, PortalPort]] = {}  # by service key, by portal name
        self._listeners: dict[str, Listener] = {}  # by portal name
        self._retired: list[Listener] = []  # their rules are to go
        self._retiring: list[Listener] = []  # their rules are being taken away
        self._draining: dict[Listener, float] = {}  # until when
        self._unwritten: set[str] = set()  # services whose rules are to be written
        self._writing: set[str] = set()  # services whose rules are being written
        self._conflicts: dict[str, str] = {}  # by portal name: what was said about it
        self._fresh: dict[Address, int] = {}  # UDP portals with new rules, and their listeners
        self._written = asyncio.Event()  # rules are in the kernel
        self._forgetting = False
        self._conntrack: Conntrack | None = None
        self._pipes = Pipes()
        self._upstreams = Upstreams()
        self._reactor: Reactor | None = None

    @property
    def listeners(self) -> dict[str, int]:
        """The port of each listener, by ``namespace/service:portname``."""
        return {name: listener.port for name, listener in self._listeners.items()}

    @property
    def settled(self) -> bool:
        """Every change seen so far is served, its rules are in the kernel, and no flow goes by
        older ones."""
        waits = self._unwritten or self._writing or self._retired or self._retiring
        return self._queue.idle and not (waits or self._fresh or self._forgetting)

    @property
    def trouble(self) -> str:
        """Why the portal rules cannot be written, or ""."""
        return self._keeper.trouble

    async def run(self) -> None:
        await self._services.wait_synced()
        await self._endpoints.wait_synced()
        self._reactor = Reactor()
        unsubscribe = [self._services.subscribe(self._look), self._endpoints.subscribe(self._look)]
        try:
            # Everything once before the first write: rules of an earlier run that are right stay.
            for service in tuple(self._services.items()):
                try:
                    await self._converge(service.key)
                except OSError:
                    self._queue.retry(service.key)  # it was said; the others go on
            async with asyncio.TaskGroup() as group:
                for name, job in (
                    ("proxy-services", self._queue.work(self._converge)),
                    ("proxy-portals", self._keeper.run()),
                    ("proxy-sweep", self._sweep()),
                    ("proxy-elders", self._forget_elders()),
                    ("proxy-health", self._health()),
                ):
                    group.create_task(forever(name, job), name=name)
        finally:
            for stop in unsubscribe:
                stop()
            self._shut()

    def _look(self, old: Object | None, new: Object | None) -> None:
        """A service and its endpoints have one key."""
        obj = new or old
        if obj is not None:
            self._queue.add(obj.key)

    async def _converge(self, key: str) -> None:
        service = self._services.get(key)
        wanted = {port.name: port for port in portal_ports(service)} if service else {}
        had = self._ports.get(key, {})
        for name in had.keys() - wanted.keys():
            self._close(name)
        for port in wanted.values():
            self._open(service, port, had.get(port.name))
        if wanted:
            self._ports[key] = wanted
        else:
            self._ports.pop(key, None)
        if wanted != had:
            self._unwritten.add(key)
            self._keeper.changed()

    def _open(self, service: Service | None, port: PortalPort, had: PortalPort | None) -> None:
        """Have a listener for ``port`` that serves the endpoints of now, and want its rules."""
        listener = self._listeners.get(port.name)
        if listener is not None and listener.protocol != port.protocol:
            self._close(port.name)
            listener = None
        if listener is None:
            listener = self._listeners[port.name] = self._listen(service, port)
            had = None
        endpoints = self._endpoints.get(port.name.split(":", 1)[0])
        if listener.balancer.set_endpoints(endpoints_of(endpoints, port)):
            self.counters.of(port.name).keep(listener.balancer.endpoints)
        if port == had:
            return
        listener.balancer.set_affinity(port.affinity)
        listener.serve(port)
        portal = Portal(port.name, port.protocol, port.addresses, port.port, listener.port)
        lost = self._desired.put(portal)
        if port.protocol == "udp":
            self._fresh |= {(address, port.port): listener.port for address in port.addresses}
        said = "; ".join(
            f"{claim.address} port {claim.port}/{claim.protocol} belongs to {owner}"
            for claim, owner in lost.items()
        )
        if said and service is not None and self._conflicts.get(port.name) != said:
            self._recorder.event(
                service, "PortalConflict",
                f"port {port.name}: {said}; choose another address or port", "Warning",
            )  # fmt: skip
        self._conflicts[port.name] = said

    def _listen(self, service: Service | None, port: PortalPort) -> Listener:
        """Raises OSError when no socket can be had; the work queue tries again."""
        try:
            return self._new_listener(port)
        except OSError as error:
            if service is not None:
                said = f"port {port.name}: cannot listen: {error.strerror}; will try again"
                self._recorder.event(service, "PortalNotOpened", said, "Warning")
            raise

    def _new_listener(self, port: PortalPort) -> Listener:
        assert self._reactor is not None
        balancer = Balancer(self._clock.rng, affinity=port.affinity)
        counters = self.counters.of(port.name)
        if port.protocol == "tcp":
            return TcpListener(
                port.name, self._reactor, self._pipes, self._upstreams, balancer, counters,
                self._clock, timeouts=self._connect_timeouts,
            )  # fmt: skip
        return UdpListener(
            port.name, self._reactor, balancer, counters, self._clock, self._original_target,
            idle=self._udp_idle,
        )  # fmt: skip

    def _close(self, name: str) -> None:
        """Want the rules of a portal no longer; its listener goes when they are gone."""
        self._desired.remove(name)
        self._conflicts.pop(name, None)
        self.counters.ports.pop(name, None)
        listener = self._listeners.pop(name, None)
        if listener is not None:
            self._retired.append(listener)
        self._keeper.changed()

    def _rules_begin(self) -> None:
        """What is wanted now goes to the kernel; what comes meanwhile waits for the next time."""
        self._writing |= self._unwritten
        self._unwritten.clear()
        self._retiring += self._retired
        self._retired.clear()

    def _rules_written(self) -> None:
        self._writing.clear()
        self._written.set()
        retiring, self._retiring = self._retiring, []
        for listener in retiring:
            if isinstance(listener, UdpListener):
                self._forget_flows(listener)
            listener.stop()
            if listener.active:
                self._draining[listener] = self._clock.monotonic() + self._drain

    def _rules_in_trouble(self, trouble: str) -> None:
        """Say it on the services that it concerns: those whose rules wait to be written."""
        for key in self._writing if trouble else ():
            service = self._services.get(key)
            if service is not None:
                self._recorder.event(service, "PortalRulesNotWritten", trouble, "Warning")

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

    async def _forget_elders(self) -> None:
        """UDP flows to a portal that are older than its rules would never meet them: clients that
        sent before there was a service, or to the listener of an agent that is gone. They end as
        soon as the rules are written; but all flows are read for it, so not in quick succession."""
        while True:
            await self._written.wait()
            self._written.clear()
            if not self._fresh or self._unwritten or self._writing:
                continue  # what is still to be written wakes us again
            fresh, self._fresh = self._fresh, {}
            self._forgetting = True
            try:
                await asyncio.to_thread(forget_flows, fresh)
            except NetfilterError as error:
                log.warning("flows not ended", role="proxy", error=str(error))
            finally:
                self._forgetting = False
            await self._clock.sleep(_SWEEP_SECONDS)

    async def _sweep(self) -> None:
        """End silent UDP sessions, and what was not drained in time."""
        while True:
            await self._clock.sleep(_SWEEP_SECONDS)
            now = self._clock.monotonic()
            for listener in self._listeners.values():
                if isinstance(listener, UdpListener):
                    listener.expire()
            for listener, until in tuple(self._draining.items()):
                if now >= until or not listener.active:
                    listener.abort()
                    del self._draining[listener]

    async def _health(self) -> None:
        if self._health_port is None:
            await asyncio.Event().wait()
            return
        try:
            async with serve_health(lambda: self.trouble, self._health_port):
                await asyncio.Event().wait()
        except OSError as error:
            log.warning("healthz is not served", role="proxy", error=str(error))
            await asyncio.Event().wait()

    def _shut(self) -> None:
        for listener in (
            *self._listeners.values(),
            *self._retired,
            *self._retiring,
            *self._draining,
        ):
            listener.abort()
        self._listeners.clear()
        self._pipes.close()
        self._upstreams.close()
        if self._reactor is not None:
            self._reactor.shut()
        if self._conntrack is not None:
            self._conntrack.close()
