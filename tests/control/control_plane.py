"""A control plane on virtual time: real registry, memory store, watch cache; and its troubles:
a client that loses answers or never comes back, an informer that lags."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from k8slite.api.errors import UnknownOutcome
from k8slite.api.kinds import NODE, POD, SCHEME
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.node.types import Node, NodeCondition, NodeStatus
from k8slite.api.kinds.pod.types import (
    Container,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    ResourceRequirements,
)
from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerSpec,
)
from k8slite.api.meta import ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.client.events import EventRecorder
from k8slite.client.informer import Audience, CacheInformers, Index
from k8slite.config import Settings
from k8slite.kit.clock import LoopClock, rfc3339
from k8slite.kit.virtual import run_virtual
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.controllers import Controllers
from k8slite.roles.scheduler import Scheduler
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

WEB = {"app": "web"}


class Plane:
    """What the roles of a control plane are handed, and verbs to play with."""

    def __init__(self, clock: LoopClock, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        self.clock = clock
        self.settings = settings
        self.tasks = tasks
        self.store = MemoryStore(clock)
        self.cache = WatchCache(self.store, SCHEME, clock, detect_mutation=True)
        chain = admission.chain(settings.admission_control, self.cache)
        self.registry = Registry(self.store, self.cache, SCHEME, clock, settings, chain)
        self.leases = Holders(self.store, self.cache, "nodes", settings.node_grace)
        self.client: Any = LocalClient(self.registry, self.leases)
        self.informers = CacheInformers(self.cache)
        self.recorder = EventRecorder(self.client, clock, "test")

    def start(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.tasks.create_task(coro)

    def controllers(self, *, client: Any = None, informers: Any = None) -> Controllers:
        return Controllers(
            client or self.client,
            informers or self.informers,
            self.recorder,
            self.clock,
            self.settings,
            self.leases,
        )

    def scheduler(self, *, client: Any = None, informers: Any = None, **settings: Any) -> Scheduler:
        return Scheduler(
            client or self.client,
            informers or self.informers,
            self.recorder,
            self.clock,
            replaced(self.settings, **settings),
        )

    async def until(self, condition: Callable[[], object], seconds: float = 1000) -> None:
        """Wait (virtually) until ``condition`` holds."""
        end = self.clock.monotonic() + seconds
        while not condition():
            assert self.clock.monotonic() < end, "it never came true"
            await self.clock.sleep(0.01)

    async def quiet(self, seconds: float = 30.0) -> int:
        """Let time pass; the number of revisions written meanwhile."""
        before = self.cache.revision
        await self.clock.sleep(seconds)
        return self.cache.revision - before

    def all(self, kind: Kind[Any], namespace: str = "") -> list[Any]:
        return [entry.object for entry in self.cache.table(kind).entries(namespace)]

    def pods(self) -> list[Pod]:
        """The pods that count as replicas."""
        return [
            pod
            for pod in self.all(POD)
            if pod.metadata.deletion_timestamp is None
            and pod.status.phase not in ("Succeeded", "Failed")
        ]

    def events(self, reason: str) -> list[str]:
        events = self.all(SCHEME.named("Event"))  # type: ignore[arg-type]
        return [event.message for event in events if event.reason == reason]

    async def add_node(self, name: str, **capacity: str) -> Node:
        await self.client.create(Node(metadata=ObjectMeta(name=name)))
        return await self.report_node(name, "True", **capacity)

    async def report_node(self, name: str, ready: str, **capacity: str) -> Node:
        """As its kubelet does."""
        node = await self.client.get(NODE, name)
        since = rfc3339(self.clock.now())
        status = NodeStatus(
            capacity={"cpu": "4", "memory": "8Gi", "pods": "110", **capacity},
            conditions=(NodeCondition(type="Ready", status=ready, last_transition_time=since),),
        )
        updated: Node = await self.client.update(
            msgspec.structs.replace(node, status=status), subresource="status"
        )
        return updated

    async def beat(self, *names: str) -> None:
        """Heartbeats of nodes, for ever."""
        while True:
            for name in names:
                await self.client.heartbeat(name)
            await self.clock.sleep(10)

    async def run_pod(self, pod: Pod, ip: str, node: str = "") -> Pod:
        """As a kubelet does: bound, running, ready."""
        meta = pod.metadata
        if node and not pod.spec.node_name:
            await self.client.bind(meta.namespace, meta.name, node)
        pod = await self.client.get(POD, meta.name, meta.namespace)
        status = PodStatus(
            phase="Running",
            pod_ip=ip,
            conditions=(PodCondition(type="Ready", status="True"),),
        )
        updated: Pod = await self.client.update(
            msgspec.structs.replace(pod, status=status), subresource="status"
        )
        return updated


def replaced(settings: Settings, **changes: Any) -> Settings:
    return dataclasses.replace(settings, **changes)


@asynccontextmanager
async def _plane(seed: int, **settings: Any) -> AsyncIterator[Plane]:
    clock = LoopClock(seed=seed)
    async with asyncio.TaskGroup() as tasks:
        plane = Plane(clock, Settings(data_dir=Path("/nonexistent"), **settings), tasks)
        async with plane.store:
            running = [tasks.create_task(plane.cache.run())]
            await plane.cache.wait_ready()
            running.append(tasks.create_task(plane.recorder.run()))
            await plane.client.create(Namespace(metadata=ObjectMeta(name="default")))
            try:
                yield plane
            finally:
                everything = asyncio.all_tasks() - {asyncio.current_task()}
                for task in everything:
                    task.cancel()
                await asyncio.wait(everything)


def simulate(
    play: Callable[[Plane], Coroutine[Any, Any, None]], *, seed: int = 0, **settings: Any
) -> None:
    """Run ``play`` on a plane of its own, on virtual time."""

    async def main() -> None:
        async with _plane(seed, **settings) as plane:
            await play(plane)

    run_virtual(main())


def pod(name: str, *, labels: dict[str, str] | None = None, cpu: str = "", **spec: Any) -> Pod:
    resources = ResourceRequirements(requests={"cpu": cpu} if cpu else None)
    container = Container(name="main", image="nginx", resources=resources)
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels),
        spec=PodSpec(containers=(container,), **spec),
    )


def controller(replicas: int, name: str = "web") -> ReplicationController:
    template = PodTemplateSpec(metadata=ObjectMeta(labels=WEB), spec=pod("x").spec)
    return ReplicationController(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ReplicationControllerSpec(replicas=replicas, selector=WEB, template=template),
    )


_WRITES = ("create", "update", "patch", "delete", "bind", "finalize")


class Killed:
    """A client whose process dies at its ``at``-th write: before the write happens, or after it
    has happened but before anybody hears of it. From then on nothing comes back."""

    def __init__(self, client: Any, at: int, *, after: bool) -> None:
        self._client = client
        self._left = at
        self._after = after
        self.dead = False

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._client, verb)
        if verb not in _WRITES:
            return method

        async def write(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                await self._die()
            result = await method(*args, **options)
            if self._left < 0:
                await self._die()
            return result

        return write

    async def _die(self) -> None:
        self.dead = True
        await asyncio.Event().wait()


class Slow:
    """A client on a slow network: every call takes a while, at random."""

    def __init__(self, client: Any, clock: LoopClock, seconds: float) -> None:
        self._client = client
        self._clock = clock
        self._seconds = seconds

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._client, verb)

        async def call(*args: Any, **options: Any) -> Any:
            await self._clock.sleep(self._clock.rng.random() * self._seconds)
            result = await method(*args, **options)
            await self._clock.sleep(self._clock.rng.random() * self._seconds)
            return result

        return call


class LosingAnswers:
    """A client that does what it is told and then, ``every`` so many writes, says it knows not."""

    def __init__(self, client: Any, every: int) -> None:
        self._client = client
        self._every = every
        self._count = 0

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._client, verb)
        if verb not in _WRITES:
            return method

        async def write(*args: Any, **options: Any) -> Any:
            result = await method(*args, **options)
            self._count += 1
            if self._count % self._every == 0:
                raise UnknownOutcome("the answer was lost")
            return result

        return write


class LaggingInformers:
    """Informers that show everything ``lag(kind)`` seconds late, in order."""

    def __init__(self, informers: CacheInformers, lag: Callable[[str], float]) -> None:
        self._informers = informers
        self._lag = lag
        self._of: dict[str, LaggingInformer] = {}

    def of(self, kind: Kind[Any]) -> Any:
        if kind.kind not in self._of:
            informer = LaggingInformer(self._informers.of(kind), self._lag(kind.kind))
            self._of[kind.kind] = informer
        return self._of[kind.kind]


class LaggingInformer:
    """One of them: complete at birth, late from then on."""

    def __init__(self, informer: Any, lag: float) -> None:
        self.kind = informer.kind
        self.synced = True
        self._objects: dict[str, Any] = {}
        self._audience: Audience[Any] = Audience()
        loop = asyncio.get_running_loop()
        self._born = False

        def on_change(old: Any, new: Any) -> None:
            if self._born:
                loop.call_later(lag, self._show, old, new)
            else:
                self._show(old, new)

        informer.subscribe(on_change)
        self._born = True

    def _show(self, old: Any, new: Any) -> None:
        key = (new or old).key
        before = self._objects.pop(key, None)
        if new is not None:
            self._objects[key] = new
        self._audience.tell(key, before, new)

    async def wait_synced(self) -> None:
        return

    def get(self, key: str) -> Any:
        return self._objects.get(key)

    def items(self) -> Iterable[Any]:
        return list(self._objects.values())

    def in_namespace(self, namespace: str) -> Iterable[Any]:
        return [o for o in self._objects.values() if o.metadata.namespace == namespace]

    def index(self, name: str, keys_of: Any) -> None:
        if name not in self._audience.indexes:
            index = self._audience.indexes[name] = Index(keys_of)
            for key, obj in self._objects.items():
                index.put(key, None, obj)

    def by_index(self, name: str, value: str) -> list[Any]:
        return [self._objects[key] for key in self._audience.indexes[name].keys(value)]

    def subscribe(self, handler: Any) -> Callable[[], None]:
        for obj in list(self._objects.values()):
            handler(None, obj)
        return self._audience.join(handler)
