"""The node controller: applies ``decide.nodehealth``.

Signs of life are store leases, which end by themselves when a kubelet has been silent for the
grace (``settings.node_grace``). A node that this process never saw alive is given the same grace
from the first look, so that a restart of the master finds nobody dead too early.
"""

from __future__ import annotations

from collections.abc import Iterable

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import NodeLeases
from k8slite.decide import nodehealth
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.parallel import each

#: Seconds until the next look at an eviction that is held back because most nodes are unhealthy.
HELD_BACK = 30.0
_NODE = "node"


class NodeLoop(Controller[str]):
    """Keys are nodes by name, there or gone."""

    name = "nodes"
    kinds = (NODE, POD)

    def __init__(self, around: Surroundings, leases: NodeLeases) -> None:
        super().__init__(around)
        self._leases = leases
        self._nodes = self.informers.of(NODE)
        self._pods = self.informers.of(POD)
        self._pods.index(_NODE, lambda pod: (pod.spec.node_name,) if pod.spec.node_name else ())
        #: From when on (monotonic) a silent node, or one that is gone, counts as such.
        self._silent_from: dict[str, float] = {}
        self._seen_alive: set[str] = set()
        self._pace = nodehealth.Pace()
        self._evicting: dict[str, float] = {}  # node → the outage (its start) a token was paid for
        self._outages: dict[str, tuple[float, float]] = {}  # node → its start, in both times

    def subscribe(self) -> Iterable[Unsubscribe]:
        self._pace = nodehealth.Pace(at=self.clock.monotonic())
        yield self._leases.subscribe(self.queue.add)
        yield self._nodes.subscribe(self._on_node)
        yield self._pods.subscribe(self._on_pod)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        found = new or old
        assert found is not None
        self.queue.add(found.metadata.name)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is None or not new.spec.node_name:
            return
        node = self._nodes.get(new.spec.node_name)
        if node is None or nodehealth.unhealthy_since(node) is not None:
            self.queue.add(new.spec.node_name)

    async def converge(self, name: str) -> None:
        node = self._nodes.get(name)
        silent = not self._leases.alive(name)
        if node is not None and not silent:
            self._silent_from.pop(name, None)
            self._seen_alive.add(name)
        elif self._in_grace(name, node):
            return
        if node is None:
            await self._remove_orphans(name)
            return
        if silent:
            node = await self._mark_silent(node)
        await self._evict(node)

    def _in_grace(self, name: str, node: Node | None) -> bool:
        """Must we wait before we believe it? Then the next look is arranged."""
        now = self.clock.monotonic()
        if name not in self._silent_from:
            known_alive = node is not None and name in self._seen_alive
            self._silent_from[name] = now + (0 if known_alive else self.settings.node_grace)
            self._seen_alive.discard(name)
        left = self._silent_from[name] - now
        if left > 0:
            self.queue.add_after(name, left)
        return left > 0

    async def _mark_silent(self, node: Node) -> Node:
        """The node's conditions become Unknown and its pods not ready."""
        now = self.clock.now()
        silenced = nodehealth.silenced(node, now)
        if silenced is not node:
            node = await self.client.update(silenced, subresource="status")
            message = f"Node {node.metadata.name} status is now: NodeNotReady"
            self.recorder.event(node, "NodeNotReady", message)
        pods = self._pods.by_index(_NODE, node.metadata.name)
        marked = [m for pod in pods if (m := nodehealth.not_ready(pod, now)) is not pod]
        errors = await each(marked, self._write_pod)
        if errors:
            raise errors[0]
        return node

    async def _write_pod(self, pod: Pod) -> None:
        try:
            await self.client.update(pod, subresource="status")
        except NotFound:
            return

    async def _evict(self, node: Node) -> None:
        name, since = node.metadata.name, nodehealth.unhealthy_since(node)
        if since is None:
            self._evicting.pop(name, None)
            self._outages.pop(name, None)
            return
        pods = self._pods.by_index(_NODE, name)
        timeout = self.settings.eviction_timeout
        now = since + self._lasted(name, since)
        due, next_in = nodehealth.evictions(node, pods, now, timeout)
        if due and self._evicting.get(name) != since:
            wait = self._take_token()
            if wait != 0:
                self.queue.add_after(name, HELD_BACK if wait is None else wait)
                return
            self._evicting[name] = since
        errors = await each(due, lambda pod: self._delete(pod, node))
        if next_in is not None:
            self.queue.add_after(name, next_in)
        if errors:
            raise errors[0]

    def _lasted(self, name: str, since: float) -> float:
        """For how many seconds the node has been unhealthy.

        Stamps are only believed at first sight, from another master's time as it may be: from
        then on no jump of the clock makes an outage longer or shorter.
        """
        monotonic = self.clock.monotonic()
        known = self._outages.get(name)
        if known is None or known[0] != since:
            passed = min(max(0.0, self.clock.now() - since), self.settings.eviction_timeout)
            known = self._outages[name] = since, monotonic - passed
        return monotonic - known[1]

    def _take_token(self) -> float | None:
        nodes = list(self._nodes.items())
        unhealthy = sum(nodehealth.unhealthy_since(node) is not None for node in nodes)
        rate = nodehealth.eviction_rate(len(nodes), unhealthy)
        self._pace, wait = self._pace.take(self.clock.monotonic(), rate)
        return wait

    async def _delete(self, pod: Pod, node: Node) -> None:
        meta = pod.metadata
        try:
            await self.client.delete(POD, meta.name, meta.namespace, uid=meta.uid)
        except NotFound:
            return
        message = f"Marking for deletion Pod {pod.key} from Node {node.metadata.name}"
        self.recorder.event(pod, "NodeControllerEviction", message)

    async def _remove_orphans(self, name: str) -> None:
        """Nobody will ever report the end of pods whose node is gone: they go at once."""
        pods = self._pods.by_index(_NODE, name)
        if not pods:
            self._silent_from.pop(name, None)
            return
        try:
            await self.client.get(NODE, name)
        except NotFound:
            pass
        else:
            return  # our informer lags; its event will bring us back
        errors = await each(pods, self._remove)
        if errors:
            raise errors[0]

    async def _remove(self, pod: Pod) -> None:
        meta = pod.metadata
        try:
            await self.client.delete(POD, meta.name, meta.namespace, uid=meta.uid, grace_seconds=0)
        except NotFound:
            return
