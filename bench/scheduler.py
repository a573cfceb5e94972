"""10,000 pending pods on 1,000 nodes: bound and durable, through the real registry."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.table import Row
from k8slite.api.kinds import NODE, POD, SCHEME
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.node.types import Node, NodeCondition, NodeStatus
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, ResourceRequirements
from k8slite.api.meta import ObjectMeta
from k8slite.client.events import EventRecorder
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.scheduler import Scheduler
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore
from k8slite.store.sqlite import SqliteStore

NODES, PODS, SORTS = 1_000, 10_000, 10
GOAL = 1_200


@dataclass
class ControlPlane:
    """A registry on a store of its own, and what a role of the control plane is handed."""

    clock: Clock
    settings: Settings
    client: LocalClient
    informers: CacheInformers
    recorder: EventRecorder
    leases: Holders
    tasks: asyncio.TaskGroup


@asynccontextmanager
async def control_plane(store_name: str) -> AsyncIterator[ControlPlane]:
    """``store_name``: memory or sqlite (on disk, durable)."""
    clock, settings = Clock(), Settings()
    async with AsyncExitStack() as stack:
        if store_name == "memory":
            store = await stack.enter_async_context(MemoryStore(clock))
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir="."))
            path = Path(folder) / "store.db"
            store = await stack.enter_async_context(SqliteStore(path, clock))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        cache = WatchCache(store, SCHEME, clock)
        running = [tasks.create_task(cache.run())]
        await cache.wait_ready()
        chain = admission.chain(settings.admission_control, cache)
        registry = Registry(store, cache, SCHEME, clock, settings, chain)
        leases = Holders(store, cache, "nodes", settings.node_grace)
        client = LocalClient(registry, leases)
        recorder = EventRecorder(client, clock, "bench")
        running.append(tasks.create_task(recorder.run()))
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        informers = CacheInformers(cache)
        yield ControlPlane(clock, settings, client, informers, recorder, leases, tasks)
        for task in running:
            task.cancel()


def node(number: int) -> Node:
    capacity = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    ready = (NodeCondition(type="Ready", status="True"),)
    return Node(
        metadata=ObjectMeta(name=f"node-{number}"),
        status=NodeStatus(capacity=capacity, allocatable=capacity, conditions=ready),
    )


def pod(number: int) -> Pod:
    requests = {"cpu": "100m", "memory": "200Mi"}
    container = Container(
        name="main", image="nginx", resources=ResourceRequirements(requests=requests)
    )
    labels = {"app": f"web-{number % SORTS}"}
    return Pod(
        metadata=ObjectMeta(name=f"pod-{number}", namespace="default", labels=labels),
        spec=PodSpec(containers=(container,)),
    )


async def in_parallel(plane: ControlPlane, objects: list[Node] | list[Pod]) -> None:
    waiting = iter(objects)

    async def work() -> None:
        for obj in waiting:
            await plane.client.create(obj)

    async with asyncio.TaskGroup() as group:
        for _ in range(128):
            group.create_task(work())


async def count_bound(plane: ControlPlane, wanted: int) -> None:
    """Wait until ``wanted`` pods have a node."""
    enough, bound = asyncio.Event(), 0

    def on_pod(old: Pod | None, new: Pod | None) -> None:
        nonlocal bound
        if new is not None and new.spec.node_name and (old is None or not old.spec.node_name):
            bound += 1
            if bound == wanted:
                enough.set()

    unsubscribe = plane.informers.of(POD).subscribe(on_pod)
    await enough.wait()
    unsubscribe()


async def measure(store_name: str) -> float:
    """Pods bound a second."""
    async with control_plane(store_name) as plane:
        await in_parallel(plane, [node(number) for number in range(NODES)])
        for found in plane.informers.of(NODE).items():
            ready = node(int(found.metadata.name.removeprefix("node-")))
            await plane.client.update(ready, subresource="status")
        await in_parallel(plane, [pod(number) for number in range(PODS)])
        scheduler = Scheduler(
            plane.client, plane.informers, plane.recorder, plane.clock, plane.settings
        )
        start = plane.clock.monotonic()
        task = plane.tasks.create_task(scheduler.run())
        await count_bound(plane, PODS)
        took = plane.clock.monotonic() - start
        task.cancel()
    return PODS / took


def rows() -> Iterator[Row]:
    for store_name in ("memory", "sqlite"):
        rate = asyncio.run(measure(store_name))
        yield Row(
            f"scheduling {PODS:,} pods on {NODES:,} nodes, {store_name}",
            f"{rate:,.0f}/s",
            "kube-scheduler 1.20: 350/s",
            f"≥ {GOAL:,}/s",
            rate >= GOAL,
        )
