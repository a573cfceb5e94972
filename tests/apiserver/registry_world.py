"""A registry on a real store, with the cache that follows it, for the tests of this room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8slite.api.kinds import NAMESPACE, SCHEME
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec, ResourceRequirements
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.api.user import User
from k8slite.config import DEFAULT_ADMISSION, Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver.admission import chain
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.store.base import Op, Store
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore
from k8slite.store.sqlite import SqliteStore

USER = User("alice", ("developers",))


@dataclass
class World:
    store: Store
    cache: WatchCache
    registry: Registry
    nodes: Holders
    client: LocalClient
    clock: Clock
    settings: Settings

    async def revision(self) -> int:
        return await self.store.revision()

    async def keys(self, prefix: str) -> set[str]:
        """Store keys under ``prefix``, without it."""
        snapshot = await self.store.scan(prefix)
        return {item.key.removeprefix(prefix) for item in snapshot.items}


class Intercepted:
    """A store whose commits may be held up, failed or answered wrongly by the test."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before: Callable[[list[Op]], Awaitable[None]] | None = None
        self.after: Callable[[list[Op]], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, ops: list[Op]) -> int:
        if self.before is not None:
            await self.before(ops)
        revision = await self._store.commit(ops)
        if self.after is not None:
            await self.after(ops)
        return revision


@asynccontextmanager
async def registry_on(
    store: Store, clock: Clock, *, admission: tuple[str, ...] = DEFAULT_ADMISSION, **settings: Any
) -> AsyncIterator[World]:
    """Everything around an open ``store``; with namespace ``default``."""
    chosen = Settings(node_ip="10.0.0.1", admission_control=admission, **settings)
    cache = WatchCache(store, SCHEME, clock, detect_mutation=True)
    following = asyncio.create_task(cache.run(), name="cache")
    try:
        await cache.wait_ready()
        registry = Registry(store, cache, SCHEME, clock, chosen, chain(admission, cache))
        nodes = Holders(store, cache, "nodes", chosen.node_grace)
        client = LocalClient(registry, nodes, USER)
        world = World(store, cache, registry, nodes, client, clock, chosen)
        if "AlwaysDeny" not in admission and cache.table(NAMESPACE).get("default") is None:
            await client.create(Namespace(metadata=ObjectMeta(name="default")))
        yield world
        assert cache.mutations is not None
        cache.mutations.verify()
    finally:
        await stop(following)


@asynccontextmanager
async def memory_world(**options: Any) -> AsyncIterator[World]:
    clock = options.pop("clock", None) or Clock()
    async with MemoryStore(clock) as store, registry_on(store, clock, **options) as world:
        yield world


@asynccontextmanager
async def sqlite_world(path: Path, **options: Any) -> AsyncIterator[World]:
    clock = Clock()
    async with SqliteStore(path, clock) as store, registry_on(store, clock, **options) as world:
        yield world


def pod(name: str = "web", **fields: Any) -> Pod:
    """One container; ``meta``, ``requests``, ``limits`` and fields of the spec may be given."""
    meta = {"namespace": "default", **fields.pop("meta", {})}
    resources = ResourceRequirements(
        requests=fields.pop("requests", None), limits=fields.pop("limits", None)
    )
    containers = (Container(name="main", image="nginx", resources=resources),)
    return Pod(
        metadata=ObjectMeta(name=name, **meta), spec=PodSpec(containers=containers, **fields)
    )


def service(name: str = "web", **fields: Any) -> Service:
    """Port 80; fields of the spec may be given."""
    meta = {"namespace": "default", **fields.pop("meta", {})}
    ports = fields.pop("ports", (ServicePort(port=80),))
    return Service(metadata=ObjectMeta(name=name, **meta), spec=ServiceSpec(ports=ports, **fields))
