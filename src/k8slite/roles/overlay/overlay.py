"""The shell: Nodes in, a plan out, applied and kept."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

import structlog

from k8slite.api.kinds import ENDPOINTS, NODE
from k8slite.api.kinds.node.types import Node
from k8slite.client.base import Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import NetfilterError
from k8slite.network import routes
from k8slite.network.edge import NetworkEdge
from k8slite.network.netlink import NetworkError
from k8slite.network.routes import BRIDGE, LINK, Peer, Plan
from k8slite.network.tables import Tables
from k8slite.network.traces import Traces
from k8slite.network.uplink import NoUplink, find_uplink
from k8slite.network.watch import Watch
from k8slite.roles.overlay.removal import chains

log = structlog.get_logger()

#: Seconds between two looks at whether all is well (a question or two to the kernel), and between
#: two close comparisons.
LOOK_EVERY = 2.0
COMPARE_EVERY = 60.0
#: The endpoints that are the API servers.
MASTERS = "default/kubernetes"
#: Seconds between two repairs: somebody who undoes them at once shall not keep us busy.
_PAUSE = 0.25
_BACKOFF = Backoff(initial=0.5, maximum=15.0)
_TROUBLES = (NetworkError, NetfilterError, NoUplink, OSError, ValueError)


class Recorder(Protocol):
    """What is asked of ``client.events.EventRecorder``."""

    def event(self, obj: Node, reason: str, message: str, type: str = "Normal") -> None: ...


class Overlay:
    """``trouble`` says in a line why this node's part of the pod network is not right, or ""."""

    def __init__(
        self,
        settings: Settings,
        informers: Informers,
        recorder: EventRecorder | Recorder,
        clock: Clock,
        *,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.trouble = ""
        self._settings = settings
        self._nodes = informers.of(NODE)
        self._recorder = recorder
        self._clock = clock
        self._look_every = look_every
        self._dirty = asyncio.Event()
        self._edge = NetworkEdge()
        self._tables = Tables()
        self._endpoints = informers.of(ENDPOINTS)
        self._masters: set[str] = set()  # also those that are away just now: they may come back
        self._applied: Plan | None = None  # what the kernel has, as far as we know
        self._compared = float("-inf")  # when everything was last compared
        self._told: tuple[str, ...] = ()

    async def run(self) -> None:
        """Until cancelled; links, routes and chains stay: a crash is an ordinary start."""
        await self._nodes.wait_synced()
        await self._endpoints.wait_synced()
        leave = self._nodes.subscribe(self._on_node)
        leave_endpoints = self._endpoints.subscribe(lambda old, new: self._on_endpoints())
        watch = Watch()
        loop = asyncio.get_running_loop()
        loop.add_reader(watch, self._on_kernel, watch)
        failures = 0
        try:
            traces = await asyncio.to_thread(Traces, self._settings.data_dir)
            while True:
                self._dirty.clear()
                try:
                    await self._converge(watch, traces)
                    failures = 0
                    wait = self._look_every
                except _TROUBLES as error:
                    failures += 1
                    wait = _BACKOFF.delay(failures)
                    self._fail(str(error))
                await self._clock.wait(self._dirty, wait)
        finally:
            loop.remove_reader(watch)
            watch.close()
            leave()
            leave_endpoints()
            await self._edge.close()
            await self._tables.close()

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if _where(old) != _where(new):
            self._dirty.set()

    def _on_endpoints(self) -> None:
        """Another master has a port that is closed to pods."""
        known = self._endpoints.get(MASTERS)
        found = {a.ip for subset in (known.subsets if known else ()) for a in subset.addresses}
        found.discard(self._settings.node_ip)  # no way there leads through FORWARD
        if not found <= self._masters:
            self._masters |= found
            self._dirty.set()

    def _on_kernel(self, watch: Watch) -> None:
        if watch.disturbed():
            self._applied = None
            self._dirty.set()

    async def _converge(self, watch: Watch, traces: Traces) -> None:
        """Make links, routes, chains and forwarding right. Raises one of _TROUBLES."""
        now = self._clock.monotonic()
        due = now - self._compared >= COMPARE_EVERY
        uplink = find_uplink(self._settings.node_ip)
        own, others = self._peers()
        settings = self._settings
        plan = routes.plan(own, others, settings.overlay, settings.flannel_net, uplink)
        by_kernel = settings.proxy_mode == "nft"
        wanted = chains(
            settings.flannel_net, sorted(self._masters), settings.port, by_kernel=by_kernel
        )
        watch.mind((LINK, uplink.name))
        mended: list[str] = []
        if due or plan != self._applied:
            mended += await self._apply(plan, traces)
        mended += await self._tables.converge(wanted, compare=due)
        if _has_link(BRIDGE) and traces.forward():
            mended.append("forwarding turned on")
        if due:
            self._compared = now
        self._tell(plan)
        if mended:
            log.info("pod network changed", role="overlay", what=mended)
            await self._clock.sleep(_PAUSE)

    async def _apply(self, plan: Plan, traces: Traces) -> list[str]:
        """Routes and links; skipped while there is and was nothing, as on a host alone."""
        self._applied = plan
        if plan.empty and not traces.routes and not _has_link(LINK):
            return []
        if not plan.empty:
            traces.note_routes(True)
        try:
            changed = await self._edge.apply(plan)
        except _TROUBLES:
            self._applied = None
            raise
        if plan.empty:
            traces.note_routes(False)
        return changed

    def _peers(self) -> tuple[Peer, list[Peer]]:
        """This node, and the others as far as they are known."""
        settings = self._settings
        own = self._nodes.get(settings.node_name)
        cidr = own.spec.pod_cidr if own is not None else ""
        others = [
            Peer(node.metadata.name, *_where(node))
            for node in self._nodes.items()
            if node.metadata.name != settings.node_name
        ]
        return Peer(settings.node_name, settings.node_ip, cidr), others

    def _tell(self, plan: Plan) -> None:
        """All is applied; what the plan had to leave out is an event each, once."""
        if self.trouble:
            self.trouble = ""
            log.info("pod network right again", role="overlay")
            self._event("PodNetworkReady", "the way to the pods of other nodes is right again")
        for text in plan.trouble:
            if text not in self._told:
                log.warning("node left out", role="overlay", error=text)
                self._event("PodNetworkIncomplete", text, "Warning")
        self._told = plan.trouble

    def _fail(self, text: str) -> None:
        if text != self.trouble:
            log.error("pod network not right", role="overlay", error=text)
            self.trouble = text
            self._event("PodNetworkTrouble", text, "Warning")

    def _event(self, reason: str, text: str, type: str = "Normal") -> None:
        node = self._nodes.get(self._settings.node_name)
        if node is not None:
            self._recorder.event(node, reason, text, type)


def _where(node: Node | None) -> tuple[str, str]:
    """A node's address and podCIDR."""
    if node is None:
        return "", ""
    addresses = (a.address for a in node.status.addresses if a.type == "InternalIP")
    return next(addresses, ""), node.spec.pod_cidr


def _has_link(name: str) -> bool:
    return any(link == name for _, link in socket.if_nameindex())
