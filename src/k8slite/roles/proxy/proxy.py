"""The service proxy of a node: portals in, connections to endpoints out.

Services and their endpoints are read from informers. What serves a service port is a listener of
this process (``listeners``), or, in the mode ``nft``, the kernel itself. The portal rules
(``netfilter.portals``) lead there. A change of endpoints behind a listener only changes who is
drawn next: no listener, no rule and no established connection is touched by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import structlog

from k8slite.api.kinds import ENDPOINTS, SERVICE
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide import serving
from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.decide.circles import leading_back
from k8slite.decide.loadbalancer import age
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.kit.workqueue import WorkQueue
from k8slite.netfilter.edge import Edge
from k8slite.netfilter.local import is_of_this_host
from k8slite.netfilter.portals import Claim, DesiredRules, Portal
from k8slite.network.routes import BRIDGE
from k8slite.roles.proxy.elders import Elders
from k8slite.roles.proxy.holds import Holds
from k8slite.roles.proxy.inside import Inside
from k8slite.roles.proxy.keeper import LOOK_EVERY, PortalKeeper
from k8slite.roles.proxy.kernel import KernelPath
from k8slite.roles.proxy.listeners import DRAIN_SECONDS, Listeners
from k8slite.roles.proxy.ports import (
    PortalPort,
    doors_at,
    endpoints_of,
    lifelines,
    local_endpoints_of,
    portal_ports,
)
from k8slite.roles.proxy.tcp.attempt import CONNECT_TIMEOUTS
from k8slite.roles.proxy.tcp.transparent import TransparentPath
from k8slite.roles.proxy.telling.counters import ProxyCounters
from k8slite.roles.proxy.telling.health import HEALTH_PORT, serve_health
from k8slite.roles.proxy.telling.report import Report
from k8slite.roles.proxy.telling.troubles import EventRecorder, StatusWriter, Troubles
from k8slite.roles.proxy.telling.unanswered import Unanswered
from k8slite.roles.proxy.udp.listener import IDLE_SECONDS

log = structlog.get_logger()

#: Seconds until a port of this host that was taken is tried again.
HOLD_AGAIN = 2.0

_SWEEP_SECONDS = 1.0
_LIFELINE = "this node reaches the masters there"
_SHOWN = 5  # endpoints in one message
#: What a trouble is about that concerns the whole service.
_RULES = "rules"
_CLIENTS = "client addresses"


class Proxy:
    """Run with ``run()``; everything it made is closed when that ends. Make it inside its loop.

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
        client: StatusWriter | None = None,
        health_port: int | None = HEALTH_PORT,
        look_every: float = LOOK_EVERY,
        connect_timeouts: tuple[float, ...] = CONNECT_TIMEOUTS,
        udp_idle: float = IDLE_SECONDS,
        drain: float = DRAIN_SECONDS,
        bridge: str = BRIDGE,
    ) -> None:
        self.counters = ProxyCounters()
        self.transparent = TransparentPath(
            settings, clock, self._tell_not_kept, bridge=bridge, look_every=look_every
        )
        self._services = informers.of(SERVICE)
        self.listeners = Listeners(
            clock, self.counters, inside=Inside(settings.flannel_net),
            leads=self.transparent.leads,
            unanswered=Unanswered(self._services, recorder, clock).tell,
            connect_timeouts=connect_timeouts, udp_idle=udp_idle, drain=drain,
        )  # fmt: skip
        self._node = settings.node_name
        self._lifelines = lifelines(settings)
        self._endpoints = informers.of(ENDPOINTS)
        self._troubles = Troubles(settings.node_name, self._services, recorder, client, clock)
        self._clock = clock
        self._health_port = health_port
        self._kernel = KernelPath(settings, edge, informers, recorder, bridge)
        self._desired = DesiredRules(settings.node_ip, edge.chain_room)
        self._keeper = PortalKeeper(
            self._desired, edge, clock, self.counters,
            on_begin=self._rules_begin, on_trouble=self._rules_in_trouble,
            on_written=self._rules_written, on_repaired=self._rules_repaired,
            look_every=look_every,
        )  # fmt: skip
        self._kernel.heed(self._keeper.changed)
        self.report = Report(self, self.counters, clock, settings.node_name)
        self._elders = Elders(clock)
        self._holds = Holds()
        self._queue: WorkQueue[str] = WorkQueue("proxy")
        self._ports: dict[str, dict[str, PortalPort]] = {}  # by service key, by portal name
        self._portals: dict[str, Portal] = {}  # by portal name: what is wanted of the kernel
        self._unwritten: set[str] = set()  # services whose rules are to be written
        self._writing: set[str] = set()  # services whose rules are being written
        self._losing: set[str] = set()  # portals whose claims others have

    @property
    def portals(self) -> Mapping[str, Portal]:
        """What is wanted of the kernel, by ``namespace/service:portname``."""
        return self._portals

    @property
    def settled(self) -> bool:
        """Every change seen so far is served, its rules are in the kernel, and no flow goes by
        older ones."""
        waits = self._unwritten or self._writing or self.listeners.retiring
        return self._queue.idle and not waits and self._elders.idle

    def ports(self) -> Iterator[PortalPort]:
        """All that are served."""
        return (port for ports in self._ports.values() for port in ports.values())

    def endpoints(self, port: PortalPort) -> tuple[Endpoint, ...]:
        """Those behind a port now."""
        return endpoints_of(self._endpoints.get(port.name.partition(":")[0]), port)

    def balancer(self, name: str) -> Balancer | None:
        return self.listeners.balancer(name)

    async def connections(self) -> Mapping[str, int]:
        """What came to the portals that the kernel serves."""
        return await self._kernel.connections()

    @property
    def trouble(self) -> str:
        """Why the portal rules cannot be written, or ""."""
        return self._keeper.trouble

    async def run(self) -> None:
        try:
            await self._services.wait_synced()
            await self._endpoints.wait_synced()
            await self._run()
        finally:
            self.listeners.shut()
            self._holds.close()

    async def _run(self) -> None:
        unsubscribe = [self._services.subscribe(self._look), self._endpoints.subscribe(self._look)]
        try:
            # Everything once before the first write: rules of an earlier run that are right stay.
            # The elder comes first, as it does for the control plane.
            for service in sorted(self._services.items(), key=age):
                try:
                    await self._converge(service.key)
                except OSError:
                    self._queue.retry(service.key)  # it was said; the others go on
            async with asyncio.TaskGroup() as group:
                for name, job in (
                    ("proxy-services", self._queue.work(self._converge)),
                    ("proxy-portals", self._keeper.run()),
                    ("proxy-sweep", self._sweep()),
                    ("proxy-elders", self._elders.run()),
                    ("proxy-troubles", self._troubles.run()),
                    ("proxy-transparent", self.transparent.run()),
                    ("proxy-kernel", self._kernel.run()),
                    ("proxy-health", self._health()),
                ):
                    group.create_task(forever(name, job), name=name)
        finally:
            for stop in unsubscribe:
                stop()

    def _look(self, old: Object | None, new: Object | None) -> None:
        """A service and its endpoints have one key."""
        obj = new or old
        if obj is not None:
            self._queue.add(obj.key)

    async def _converge(self, key: str) -> None:
        """Raises OSError when a port got no socket; the others are served."""
        service = self._services.get(key)
        wanted = {port.name: port for port in portal_ports(service)} if service else {}
        is_transparent = any(
            port.client_address == "transparent"
            and not self._kernel.takes(port, self.endpoints(port))
            for port in wanted.values()
        )
        self.transparent.want(key, is_transparent)
        for name in self._ports.get(key, {}).keys() - wanted.keys():
            self._close(name)
            self._unwritten.add(key)
        failed: OSError | None = None
        if service is not None and wanted:
            self._ports[key] = wanted
            for port in wanted.values():
                try:
                    self._open(service, port)
                except OSError as error:
                    failed = error
        else:
            self._ports.pop(key, None)
        if key in self._unwritten:
            self._keeper.changed()
            for name in tuple(self._losing):
                self._tell_lost(name, self._desired.lost(name))  # perhaps it has got it now
        if failed is not None:
            raise failed

    def _open(self, service: Service, port: PortalPort) -> None:
        """Serve the endpoints of now at ``port``, and want its rules."""
        behind = self._endpoints.get(service.key)
        endpoints = endpoints_of(behind, port)
        local = local_endpoints_of(behind, port, self._node)
        by_kernel = self._kernel.takes(port, endpoints)
        if by_kernel:
            self.listeners.retire(port.name)
            self._troubles.tell(service.key, port.name, serving.NOT_OPENED, "")
        back = frozenset[Endpoint]() if by_kernel else self._leading_back(service, port, endpoints)
        if back:
            endpoints = tuple(endpoint for endpoint in endpoints if endpoint not in back)
            local = tuple(endpoint for endpoint in local if endpoint not in back)
        listener = 0 if by_kernel else self._listen(service, port, endpoints, local)
        taken = self._holds.keep(port.name, port.held)
        taken |= dict.fromkeys(self._lifelines.intersection(port.claims), _LIFELINE)
        self._tell_taken(service, port, taken)
        port = port.without(taken)
        if by_kernel:
            self._want(service, self._kernel.portal(port, endpoints, local))
        else:
            portal = Portal(port.name, port.protocol, port.addresses, port.port, listener,
                            port.node_port)  # fmt: skip
            self._want(service, portal)

    def _leading_back(
        self, service: Service, port: PortalPort, endpoints: Iterable[Endpoint]
    ) -> frozenset[Endpoint]:
        """The endpoints that lead to the service itself again; says so, and looks again later."""
        own = frozenset((*port.claims, *port.held))

        def door(endpoint: Endpoint) -> str | None:
            for claim in doors_at(endpoint, port.protocol):
                name = port.name if claim in own else self._desired.owner(claim)
                if name and (claim.address or is_of_this_host(endpoint.ip)):
                    return name
            return None

        def behind(name: str) -> Iterable[Endpoint]:
            other = self._ports.get(_service_key(name), {}).get(name)
            return self.endpoints(other) if other is not None else ()

        back = leading_back(port.name, endpoints, door, behind)
        if back:
            self._queue.add_after(service.key, HOLD_AGAIN)
        said = ", ".join(map(str, sorted(back)[:_SHOWN]))
        said = said and f"port {port.name}: {said}: leads back to this service; it is left out"
        self._troubles.tell(service.key, port.name, serving.LEAD_BACK, said)
        return back

    def _listen(
        self,
        service: Service,
        port: PortalPort,
        endpoints: tuple[Endpoint, ...],
        local: tuple[Endpoint, ...],
    ) -> int:
        """The local port of a listener that serves ``port``. Raises OSError."""
        try:
            listener = self.listeners.serve(port, endpoints, local)
        except OSError as error:
            said = f"port {port.name}: cannot listen: {error.strerror}; will try again"
            self._troubles.tell(service.key, port.name, serving.NOT_OPENED, said)
            raise
        self._troubles.tell(service.key, port.name, serving.NOT_OPENED, "")
        return listener

    def _tell_taken(self, service: Service, port: PortalPort, taken: Mapping[Claim, str]) -> None:
        """Say which ports of this host the service cannot have, and look again later."""
        if set(taken.values()) - {_LIFELINE}:
            self._queue.add_after(service.key, HOLD_AGAIN)
        said = "; ".join(f"{claim}: {why}" for claim, why in taken.items())
        said = said and f"port {port.name}: {said}; it is left out"
        self._troubles.tell(service.key, port.name, serving.PORT_TAKEN, said)

    def _want(self, service: Service, portal: Portal) -> None:
        """Want the rules of ``portal``; say what of it belongs to others."""
        old = self._portals.get(portal.name)
        if old == portal:
            return
        self._portals[portal.name] = portal
        self._unwritten.add(service.key)
        self._tell_lost(portal.name, self._desired.put(portal))
        self._elders.follow(old, portal)

    def _tell_lost(self, name: str, lost: Mapping[Claim, str]) -> None:
        """Say which claims of a portal others have, and which nothing here can hold."""
        key = _service_key(name)
        if not lost and name in self._losing:
            self._queue.add(key)  # what is its own now may be where its endpoints lead
        (self._losing.add if lost else self._losing.discard)(name)
        claims = (f"{claim} belongs to {owner}" for claim, owner in lost.items() if owner)
        taken = "; ".join(dict.fromkeys(claims))
        taken = taken and f"port {name}: {taken}; choose another address or port"
        self._troubles.tell(key, name, serving.PORTAL_CONFLICT, taken)
        bare = ", ".join(str(claim) for claim, owner in lost.items() if not owner)
        bare = bare and f"port {name}: {bare}: IPv6 needs nftables, which this host has not"
        self._troubles.tell(key, name, serving.NO_FAMILY, bare)

    def _close(self, name: str) -> None:
        """Want the rules of a portal no longer; its listener goes when they are gone."""
        self._desired.remove(name)
        self._elders.follow(self._portals.pop(name, None), None)
        self._losing.discard(name)
        self._troubles.forget(_service_key(name), name)
        self._holds.release(name)
        self.listeners.retire(name)

    def _rules_begin(self) -> None:
        """What is wanted now goes to the kernel; what comes meanwhile waits for the next time."""
        self._writing |= self._unwritten
        self._unwritten.clear()
        self.listeners.rules_begin()

    def _rules_repaired(self) -> None:
        self._elders.repaired(self._portals.values())

    def _rules_written(self) -> None:
        for key in self._writing:
            self._troubles.tell(key, _RULES, serving.NOT_WRITTEN, "")
        self._writing.clear()
        self._troubles.all_told()
        self.listeners.rules_written()
        if not self._unwritten:
            self._elders.written()

    def _rules_in_trouble(self, trouble: str) -> None:
        """Say it on the services that it concerns: those whose rules wait to be written."""
        for key in self._writing:
            self._troubles.tell(key, _RULES, serving.NOT_WRITTEN, trouble)

    def _tell_not_kept(self, key: str, trouble: str) -> None:
        said = f"{trouble}; pods see this node's address instead of the client's" if trouble else ""
        self._troubles.tell(key, _CLIENTS, serving.NOT_KEPT, said)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP_SECONDS)
            self.listeners.sweep()

    async def _health(self) -> None:
        if self._health_port is None:
            await asyncio.Event().wait()
            return
        try:
            async with serve_health(lambda: self.trouble, self.report.metrics, self._health_port):
                await asyncio.Event().wait()
        except OSError as error:
            log.warning("healthz is not served", role="proxy", error=str(error))
            await asyncio.Event().wait()


def _service_key(portal: str) -> str:
    """``namespace/service`` of ``namespace/service:portname``."""
    return portal.split(":", 1)[0]
