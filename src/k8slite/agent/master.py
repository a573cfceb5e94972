"""Role a: the control plane on the store.

Every master serves the API. Scheduler and controllers run on the one that leads; on an embedded
store there is nobody to lead but this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from k8slite.agent.surroundings import Around
from k8slite.api.kinds import SCHEME
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.pki.files import Pki
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.authority import SharedAuthority
from k8slite.roles.apiserver.bootstrap import MASTER_GRACE, Bootstrap
from k8slite.roles.apiserver.components import Components, Probe
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.roles.controllers import Controllers
from k8slite.roles.election import Election
from k8slite.roles.scheduler import Scheduler
from k8slite.store.base import Store
from k8slite.store.cache import WatchCache
from k8slite.store.opening import opened


@dataclass(frozen=True, slots=True)
class Master:
    """The parts that only a master has."""

    around: Around
    store: Store
    cache: WatchCache
    registry: Registry
    nodes: Holders
    pki: Pki
    authority: SharedAuthority


@asynccontextmanager
async def master(settings: Settings, clock: Clock) -> AsyncIterator[Master]:
    """Store, watch cache, registry and clients; entered when the cache holds everything."""
    async with opened(settings, clock) as store, asyncio.TaskGroup() as tasks:
        cache = WatchCache(store, SCHEME, clock)
        nodes = Holders(store, cache, "nodes", settings.node_grace)
        chosen = admission.chain(settings.admission_control, cache)
        registry = Registry(store, cache, SCHEME, clock, settings, chosen)
        pki = Pki(settings.data_dir, clock)
        authority = SharedAuthority(store, pki)
        await authority.settle()
        client, informers = LocalClient(registry, nodes), CacheInformers(cache)
        around = Around(settings, clock, client, informers, pki, tasks)
        around.start("watch-cache", cache.run)
        await cache.wait_ready()
        yield Master(around, store, cache, registry, nodes, pki, authority)


class Leadership:
    """Scheduler and controllers, as long as this master leads. ``election`` None: always."""

    def __init__(self, master: Master, election: Election | None) -> None:
        self._master = master
        self._election = election
        around = master.around
        self._recorders = {n: around.recorder(n) for n in ("scheduler", "controller-manager")}
        self._scheduler: Scheduler | None = None
        self._controllers: Controllers | None = None

    async def run(self) -> None:
        if self._election is None:
            await self._lead()
        else:
            await self._election.run(self._lead)

    async def _lead(self) -> None:
        """One term: new loops on the cache as it is, whose writes hold only in this term."""
        master, around = self._master, self._master.around
        registry = master.registry
        if self._election is not None and self._election.fence is not None:
            registry = registry.fenced(self._election.fence)
        client = LocalClient(registry, master.nodes)
        scheduler = self._scheduler = Scheduler(
            client, around.informers, self._recorders["scheduler"], around.clock, around.settings
        )
        controllers = self._controllers = Controllers(
            client, around.informers, self._recorders["controller-manager"], around.clock,
            around.settings, master.nodes,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                for name, role in (("scheduler", scheduler), ("controllers", controllers)):
                    group.create_task(forever(name, role.run()), name=name)
        finally:
            self._scheduler = self._controllers = None

    async def scheduler_health(self) -> str:
        return self._ok("the scheduler", self._scheduler)

    async def controllers_health(self) -> str:
        return self._ok("the controller manager", self._controllers)

    def _ok(self, name: str, here: Any) -> str:
        if here is not None:
            if not here.healthy():
                raise RuntimeError(f"{name} is not running")
            return "ok"
        if self._election is None or not self._election.leader:
            raise RuntimeError(f"{name} runs nowhere: no master leads")
        return "ok"


def start_control_plane(master: Master) -> ApiServer:
    """API server, bootstrap, and what the leader does."""
    around, settings = master.around, master.around.settings
    election = None
    if settings.store == "etcd":
        identity = f"{settings.node_ip}:{settings.secure_port}"
        election = Election(master.store, master.cache, around.clock, identity)
    leadership = Leadership(master, election)
    server = ApiServer(
        settings, master.registry, master.cache, around.clock,
        pki=master.pki,
        nodes=master.nodes,
        authority=master.authority,
        health={"watch-cache": lambda: _undecodable(master.cache)},
        components=Components(
            {
                **_store_health(master),
                "controller-manager": leadership.controllers_health,
                "scheduler": leadership.scheduler_health,
            }
        ),
    )  # fmt: skip
    masters = Holders(master.store, master.cache, "masters", MASTER_GRACE)
    bootstrap = Bootstrap(master.registry, masters, settings, around.clock)

    async def lead() -> None:
        # The port is ours: no former life of this process is still at work.
        await server.started.wait()
        await leadership.run()

    around.start("apiserver", server.run)
    around.start("bootstrap", bootstrap.run)
    around.start("leadership", lead)
    return server


def _store_health(master: Master) -> dict[str, Probe]:
    """A probe for each member of etcd, by the article's names; one for an embedded store."""
    settings, store = master.around.settings, master.store
    if settings.store != "etcd":

        async def embedded() -> str:
            return f'{{"store":"{settings.store}","revision":{await store.revision()}}}'

        return {"etcd-0": embedded}

    from k8slite.store.etcd import EtcdStore  # loaded already: an embedded cluster never is

    assert isinstance(store, EtcdStore)
    pool = store.pool

    def member(endpoint: str) -> Probe:
        async def health() -> str:
            await pool.health(endpoint)
            return '{"health":"true"}'

        return health

    return {f"etcd-{number}": member(url) for number, url in enumerate(settings.etcd)}


def _undecodable(cache: WatchCache) -> str:
    """What is wrong with the data, if some of it cannot be read."""
    keys = list(cache.undecodable)
    return f"{len(keys)} stored objects cannot be read, {keys[0]} for one" if keys else ""
