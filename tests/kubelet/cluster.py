"""A cluster of one node without its HTTP doors: store, registry, kubelet, a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from msgspec.structs import replace
from tests.kubelet.waiting import until

from k8slite.api import codec
from k8slite.api.errors import NotFound
from k8slite.api.kinds import EVENT, NODE, POD, SCHEME
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import ContainerStatus, Pod
from k8slite.client.events import EventRecorder
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.pki.files import Pki
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.kubelet import Kubelet
from k8slite.roles.kubelet.hollow import HollowFiles, HollowRuntime
from k8slite.roles.kubelet.runtime import Runtime
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore


@dataclass
class Cluster:
    """What a test does with the cluster. ``start_kubelet`` again after ``stop_kubelet`` is a
    restart of the agent: nothing but store and engine survives."""

    settings: Settings
    clock: Clock
    client: LocalClient
    cache: WatchCache
    runtime_factory: Callable[[], Runtime]
    with_api: bool = False
    runtime: Any = None
    kubelet: Any = None
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def start_kubelet(self) -> None:
        self.runtime = self.runtime_factory()
        recorder = EventRecorder(self.client, self.clock, "kubelet", self.settings.node_name)
        pki = Pki(self.settings.data_dir, self.clock) if self.with_api else None
        if pki is not None:
            pki.ensure([self.settings.node_ip, "127.0.0.1"], self.settings.node_name)
        self.kubelet = Kubelet(
            self.settings, self.client, CacheInformers(self.cache), recorder, self.clock,
            self.runtime, pki,
            HollowFiles() if isinstance(self.runtime, HollowRuntime) else None,
        )  # fmt: skip
        self._tasks = [
            asyncio.create_task(self.kubelet.run(), name="kubelet"),
            asyncio.create_task(recorder.run(), name="recorder"),
        ]
        await self.until(lambda: self.node_condition("Ready") == "True")

    async def stop_kubelet(self) -> None:
        for task in self._tasks:
            task.cancel()
        done, _ = await asyncio.wait(self._tasks)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]
        self._tasks = []

    def _check(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def until(self, condition: Callable[[], Any], seconds: float = 40) -> None:
        def met() -> Any:
            self._check()
            return condition()

        await until(met, seconds)

    # -- objects -------------------------------------------------------------------------------

    async def create(self, text: str, *, node: bool = True) -> Any:
        """Create what the YAML describes; pods are bound to the node."""
        obj: Any = codec.from_raw(yaml.safe_load(text)).object
        meta = replace(obj.metadata, namespace=obj.metadata.namespace or "default")
        obj = replace(obj, metadata=meta)
        if isinstance(obj, Pod) and node:
            obj = replace(obj, spec=replace(obj.spec, node_name=self.settings.node_name))
        return await self.client.create(obj)

    def pod(self, name: str, namespace: str = "default") -> Pod | None:
        entry = self.cache.table(POD).get(f"{namespace}/{name}")
        return None if entry is None else entry.object

    def node(self) -> Node | None:
        entry = self.cache.table(NODE).get(self.settings.node_name)
        return None if entry is None else entry.object

    def node_condition(self, type_: str) -> str:
        node = self.node()
        found = [c.status for c in node.status.conditions if c.type == type_] if node else []
        return found[0] if found else ""

    def phase(self, name: str) -> str:
        pod = self.pod(name)
        return "" if pod is None else pod.status.phase

    def condition(self, name: str, type_: str = "Ready") -> str:
        pod = self.pod(name)
        found = [c.status for c in pod.status.conditions if c.type == type_] if pod else []
        return found[0] if found else ""

    def container(self, name: str, number: int = 0) -> ContainerStatus:
        pod = self.pod(name)
        statuses = pod.status.container_statuses if pod is not None else ()
        return statuses[number] if len(statuses) > number else ContainerStatus()

    def waiting(self, name: str) -> str:
        state = self.container(name).state
        return state.waiting.reason if state.waiting is not None else ""

    async def running(self, name: str) -> Pod:
        await self.until(lambda: self.phase(name) == "Running" and self.condition(name) == "True")
        pod = self.pod(name)
        assert pod is not None
        return pod

    async def delete(self, name: str, grace: int | None = 0, namespace: str = "default") -> None:
        try:
            await self.client.delete(POD, name, namespace, grace_seconds=grace)
        except NotFound:
            pass

    async def gone(self, name: str) -> None:
        await self.until(lambda: self.pod(name) is None)

    def events(self, reason: str) -> list[str]:
        entries = self.cache.table(EVENT).entries("")
        return [e.object.message for e in entries if e.object.reason == reason]

    async def output(self, name: str, *command: str, container: str = "") -> str:
        """The output of a command in a pod's (first) container."""
        pod = self.pod(name)
        assert pod is not None
        seen = self.runtime.pod(pod.metadata.uid).latest(container or pod.spec.containers[0].name)
        result = await self.runtime.exec(seen.id, command, 20)
        return str(result.output.decode().strip())


@asynccontextmanager
async def cluster(
    settings: Settings,
    runtime_factory: Callable[[], Runtime],
    *,
    with_api: bool = False,
    clock: Clock | None = None,
) -> AsyncIterator[Cluster]:
    clock = clock or Clock()
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        nodes = Holders(store, cache, "nodes", settings.node_grace)
        chosen = admission.chain(settings.admission_control, cache)
        registry = Registry(store, cache, SCHEME, clock, settings, chosen)
        task = asyncio.create_task(cache.run(), name="cache")
        await cache.wait_ready()
        made = Cluster(
            settings, clock, LocalClient(registry, nodes), cache, runtime_factory, with_api
        )
        await made.start_kubelet()
        try:
            yield made
        finally:
            if made._tasks:
                await made.stop_kubelet()
            await made.runtime_factory().uninstall()
            task.cancel()
            await asyncio.wait({task})
