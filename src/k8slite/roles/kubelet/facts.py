"""What a decision about a pod needs to know: gathered from the engine, the files and the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from k8slite.api.kinds import CONFIG_MAP, NODE, SECRET, SERVICE
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide.pods import sync
from k8slite.decide.pods.env import PodContext
from k8slite.decide.pods.state import Health, ObservedPod, PodFacts, Run, Waiting
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.endings import Endings
from k8slite.roles.kubelet.operations import Operations
from k8slite.roles.kubelet.prober import Prober
from k8slite.roles.kubelet.pulling import Puller
from k8slite.roles.kubelet.runtime import Runtime
from k8slite.roles.kubelet.telling import PodEvents
from k8slite.roles.kubelet.volumes import PodFiles, VolumeTrouble

#: Volumes made of other objects are compared with them this often, besides on every change.
_REFRESH = 60.0

#: ``look_after(uid, seconds)``: look at the pod again then.
LookAfter = Callable[[str, float], None]


@dataclass(slots=True)
class Memory:
    """What is kept of a pod between two looks; losing it costs a repetition, never a mistake.

    ``forced``: its object vanished while it was being stopped (None: it has not vanished).
    ``obstacles``: container → why it cannot be made, until when, after how many failures.
    """

    admitted: bool = False
    forced: bool | None = None
    obstacles: dict[str, tuple[Waiting, float, int]] = field(default_factory=dict)
    volumes_at: float = float("-inf")

    def renew(self) -> None:
        """What the pod refers to has changed: try everything again."""
        self.obstacles.clear()
        self.volumes_at = float("-inf")


class FactFinder:
    """Gathers facts; on the way it makes true what costs little: volumes, ends of containers."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        runtime: Runtime,
        informers: Informers,
        events: PodEvents,
        volumes: PodFiles,
        operations: Operations,
        prober: Prober,
        puller: Puller,
        look_after: LookAfter,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._nodes = informers.of(NODE)
        self._services = informers.of(SERVICE)
        self._config_maps = informers.of(CONFIG_MAP)
        self._secrets = informers.of(SECRET)
        self._events = events
        self._volumes = volumes
        self._operations = operations
        self._prober = prober
        self._puller = puller
        self._endings = Endings(runtime, volumes)
        self._look_after = look_after
        self._memories: dict[str, Memory] = {}

    def memory(self, uid: str) -> Memory:
        return self._memories.setdefault(uid, Memory())

    def remembered(self, uid: str) -> Memory | None:
        return self._memories.get(uid)

    def forget(self, uid: str) -> None:
        self._memories.pop(uid, None)
        self._puller.forget(uid)
        self._endings.forget(uid)

    def node(self) -> Node | None:
        return self._nodes.get(self._settings.node_name)

    def health(self, pod: Pod, observed: ObservedPod) -> dict[str, Health]:
        return self._prober.sync(pod, observed, self._settings.node_ip)

    def brief(self, uid: str) -> PodFacts:
        """Enough to take a pod down."""
        observed = self._runtime.pod(uid)
        busy, stopping = self._operations.busy(uid), self._operations.deadlines(uid)
        return PodFacts(observed, self._clock.now(), busy=busy, stopping=stopping)

    async def all(self, pod: Pod) -> PodFacts:
        uid, now = pod.metadata.uid, self._clock.now()
        await self._endings.read(pod, self._runtime.pod(uid))
        observed = self._runtime.pod(uid)
        memory = self.memory(uid)
        volumes = await self._set_up(pod, memory)
        images: dict[str, bool] = {}
        waiting: dict[str, Waiting] = {}
        alive = () if sync.finished(pod) else (*pod.spec.init_containers, *pod.spec.containers)
        for container in alive:
            seen = observed.latest(container.name)
            if seen is not None and seen.run is Run.RUNNING:
                continue
            obstacle = memory.obstacles.get(container.name)
            if obstacle is not None and now < obstacle[1]:
                waiting[container.name] = obstacle[0]
                self._look_after(uid, obstacle[1] - now)
                continue
            images[container.name] = await self._puller.there(pod, container)
            stuck = None if images[container.name] else self._puller.obstacle(pod, container)
            if stuck is not None:
                waiting[container.name], until = stuck
                self._look_after(uid, max(until - now, 0.1))
        health = self.health(pod, observed)
        busy = self._operations.busy(uid)
        return PodFacts(observed, now, health, images, waiting, busy, volumes)

    async def _set_up(self, pod: Pod, memory: Memory) -> str:
        if not pod.spec.volumes or sync.finished(pod):
            return ""
        now = self._clock.monotonic()
        if now < memory.volumes_at + _REFRESH:
            return ""
        try:
            await self._volumes.set_up(pod, self.context(pod))
        except VolumeTrouble as error:
            self._events.pod(pod, "FailedMount", str(error), "Warning")
            self._look_after(pod.metadata.uid, 5.0)
            return str(error)
        memory.volumes_at = now
        if any(v.secret or v.config_map or v.downward_api for v in pod.spec.volumes):
            self._look_after(pod.metadata.uid, _REFRESH)
        return ""

    def context(self, pod: Pod) -> PodContext:
        namespace = pod.metadata.namespace
        node = self.node()
        sandbox = self._runtime.pod(pod.metadata.uid).sandbox
        own_ip = self._settings.node_ip if pod.spec.host_network else ""
        return PodContext(
            pod=pod,
            node_name=self._settings.node_name,
            host_ip=self._settings.node_ip,
            pod_ip=sandbox.ip if sandbox is not None and sandbox.ip else own_ip,
            services=(
                *self._services.in_namespace(namespace),
                *(self._services.in_namespace("default") if namespace != "default" else ()),
            ),
            config_maps={o.metadata.name: o for o in self._config_maps.in_namespace(namespace)},
            secrets={o.metadata.name: o for o in self._secrets.in_namespace(namespace)},
            capacity=(node.status.capacity or {}) if node is not None else {},
        )
