"""Several masters on one store, each with news of its own age: what is promised once is promised
by all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import pytest
from control_plane import Plane, Slow, controller, pod, simulate
from msgspec.structs import replace

from k8slite.api.errors import ApiError, Forbidden, Invalid, NotFound
from k8slite.api.kinds import NAMESPACE, POD, RESOURCE_QUOTA, SCHEME, SERVICE
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.informer import CacheInformers
from k8slite.decide.loadbalancer import ingress
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.controllers import Controllers
from k8slite.roles.election import Election
from k8slite.store.base import StoreEvent
from k8slite.store.cache import WatchCache

MASTERS = 3


class LateNews:
    """The store as a distant master sees it: writes at once, news after a while, in order."""

    def __init__(self, plane: Plane, seconds: float) -> None:
        self._store = plane.store
        self._clock = plane.clock
        self._seconds = seconds

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._store, verb)
        return found

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        async with aclosing(self._store.watch(prefix, after)) as batches:
            async for events in batches:
                await self._clock.sleep(self._clock.rng.random() * self._seconds)
                yield events


class Master:
    """A registry with a cache of its own on the plane's store, whose news are late."""

    def __init__(self, plane: Plane, identity: str, seconds: float) -> None:
        self.plane = plane
        self.store: Any = LateNews(plane, seconds)
        self.cache = WatchCache(self.store, SCHEME, plane.clock)
        chain = admission.chain(plane.settings.admission_control, self.cache)
        self.registry = Registry(self.store, self.cache, SCHEME, plane.clock, plane.settings, chain)
        self.nodes = Holders(self.store, self.cache, "nodes", plane.settings.node_grace)
        self.client = LocalClient(self.registry, self.nodes)
        self.election = Election(self.store, self.cache, plane.clock, identity)
        self.leads = False

    async def start(self) -> None:
        self.plane.start(self.cache.run())
        await self.cache.wait_ready()

    async def run(self) -> None:
        """Stand for election until killed."""
        await self.election.run(self._lead)

    async def _lead(self) -> None:
        assert self.election.fence is not None
        fenced = LocalClient(self.registry.fenced(self.election.fence), self.nodes)
        client: Any = Slow(fenced, self.plane.clock, 0.2)
        self.leads = True
        try:
            controllers = Controllers(
                client, CacheInformers(self.cache), self.plane.recorder, self.plane.clock,
                self.plane.settings, self.nodes,
            )  # fmt: skip
            await controllers.run()
        finally:
            self.leads = False


async def some_masters(plane: Plane) -> list[Master]:
    found = [Master(plane, f"m{number}", 1.0) for number in range(MASTERS)]
    for master in found:
        await master.start()
    return found


async def masters(plane: Plane) -> list[LocalClient]:
    return [master.client for master in await some_masters(plane)]


async def at_once(*calls: Awaitable[Any]) -> Counter[str]:
    """Outcomes by name; whatever is no refusal of the API is raised."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ApiError):
            raise outcome
    return Counter(type(o).__name__ if isinstance(o, ApiError) else "done" for o in found)


def service(name: str, **spec: Any) -> Service:
    ports = (ServicePort(port=80, protocol="TCP"),)
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"), spec=ServiceSpec(ports=ports, **spec)
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_portal_address_is_handed_out_twice(seed: int) -> None:
    async def play(plane: Plane) -> None:
        clients = await masters(plane)
        # Twelve free addresses for twenty services.
        names = [f"s{number}" for number in range(20)]
        outcome = await at_once(
            *(clients[n % MASTERS].create(service(name)) for n, name in enumerate(names))
        )
        addresses = [found.spec.cluster_ip for found in plane.all(SERVICE)]
        assert len(set(addresses)) == len(addresses) == outcome["done"] == 12
        assert outcome == Counter({"done": 12, Invalid.__name__: 8})

    simulate(play, seed=seed, portal_net="192.168.3.0/28")


@pytest.mark.parametrize("seed", range(5))
def test_a_quota_is_one_for_all_masters(seed: int) -> None:
    async def play(plane: Plane) -> None:
        await plane.client.create(
            ResourceQuota(
                metadata=ObjectMeta(name="q", namespace="default"),
                spec=ResourceQuotaSpec(hard={"pods": "7"}),
            )
        )
        clients = await masters(plane)
        outcome = await at_once(*(clients[n % MASTERS].create(pod(f"p{n}")) for n in range(30)))
        assert outcome == Counter({"done": 7, Forbidden.__name__: 23})
        assert len(plane.all(POD)) == 7
        (quota,) = plane.all(RESOURCE_QUOTA)
        assert quota.status.used == {"pods": "7"}

    simulate(play, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_pod_is_bound_once(seed: int) -> None:
    async def play(plane: Plane) -> None:
        clients = await masters(plane)
        for name in ("n0", "n1", "n2"):
            await plane.add_node(name)
        await clients[0].create(pod("p"))
        outcome = await at_once(
            *(client.bind("default", "p", f"n{n}") for n, client in enumerate(clients))
        )
        assert outcome["done"] == 1
        assert outcome["Conflict"] + outcome["NotFound"] == MASTERS - 1

    simulate(play, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_born_in_a_namespace_that_is_gone(seed: int) -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        clients = await masters(plane)
        await clients[0].create(Namespace(metadata=ObjectMeta(name="brief")))
        orphan = pod("orphan")

        async def late(number: int) -> None:
            await plane.clock.sleep(plane.clock.rng.random() * 2)
            meta = ObjectMeta(name=f"orphan-{number}", namespace="brief")
            await clients[number % MASTERS].create(type(orphan)(metadata=meta, spec=orphan.spec))

        async def end() -> None:
            await plane.clock.sleep(1)
            await clients[1].delete(NAMESPACE, "brief")

        await at_once(end(), *(late(number) for number in range(40)))
        await plane.until(lambda: plane.cache.table(NAMESPACE).get("brief") is None)
        assert [p.metadata.name for p in plane.all(POD, "brief")] == []

    simulate(play, seed=seed, admission_control=("NamespaceLifecycle", "NamespaceExists"))


def test_who_writes_at_one_master_may_go_on_at_another() -> None:
    async def play(plane: Plane) -> None:
        clients = await masters(plane)
        made = await clients[0].create(service("web"))
        for number in range(30):
            # The other master has not heard of the version that this update builds on.
            labels = {"round": str(number)}
            meta = type(made.metadata)(
                name="web", namespace="default", labels=labels,
                resource_version=made.metadata.resource_version,
            )  # fmt: skip
            made = await clients[number % MASTERS].update(type(made)(metadata=meta, spec=made.spec))
        assert made.metadata.labels == {"round": "29"}

    simulate(play)


BY = "by"


async def _patched(client: LocalClient, made: Pod) -> None:
    await client.patch(POD, made.metadata.name, "default", {"metadata": {"labels": {BY: "two"}}})


async def _put(client: LocalClient, made: Pod) -> None:
    await client.update(replace(made, metadata=replace(made.metadata, resource_version="")))


async def _bound(client: LocalClient, made: Pod) -> None:
    await client.bind("default", made.metadata.name, "node-1")


async def _deleted(client: LocalClient, made: Pod) -> None:
    await client.delete(POD, made.metadata.name, "default", uid=made.metadata.uid)


@pytest.mark.parametrize("write", [_patched, _put, _bound, _deleted])
def test_nothing_is_refused_by_news_that_are_late(write: Callable[..., Awaitable[None]]) -> None:
    async def play(plane: Plane) -> None:
        one, two, *_ = await masters(plane)
        for number in range(10):
            made = await one.create(pod(f"p{number}"))
            await write(two, made)
            # The second of a name is another object.
            with suppress(NotFound):
                await one.delete(POD, made.metadata.name, "default", grace_seconds=0)
            await write(two, await one.create(pod(f"p{number}")))

    simulate(play)


def test_a_write_that_seems_to_change_nothing_is_not_lost() -> None:
    async def play(plane: Plane) -> None:
        one, two, *_ = await masters(plane)
        await one.create(pod("p"))
        await _patched(two, await one.get(POD, "p", "default"))
        for _ in range(10):
            await one.patch(POD, "p", "default", {"metadata": {"labels": {BY: "one"}}})
            # The other master still has it as it shall be.
            made = await two.patch(POD, "p", "default", {"metadata": {"labels": {BY: "two"}}})
            found = await plane.store.get("/registry/pods/default/p")
            assert found is not None
            assert f'"{BY}":"two"'.encode() in found.value
            assert made.metadata.resource_version == str(found.mod_revision)

    simulate(play)


@pytest.mark.parametrize("seed", range(10))
def test_a_new_leader_does_nothing_twice(seed: int) -> None:
    """However late its news are: it begins with all that the leader before had written."""

    async def play(plane: Plane) -> None:
        rng = plane.clock.rng
        born: set[str] = set()
        plane.informers.of(POD).subscribe(lambda old, new: born.add((new or old).metadata.uid))
        found = await some_masters(plane)
        tasks = [plane.start(master.run()) for master in found]
        await plane.client.create(controller(40))
        for _ in range(4):
            await plane.until(lambda: any(master.leads for master in found))
            await plane.clock.sleep(rng.random())
            leader = next(number for number, master in enumerate(found) if master.leads)
            await stop(tasks[leader])
            tasks[leader] = plane.start(found[leader].run())
        await plane.until(lambda: len(plane.pods()) == 40)
        await plane.quiet(60)
        assert len(born) == 40

    simulate(play, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_no_address_of_the_pool_is_handed_out_twice(seed: int) -> None:
    """At no revision, whoever leads; and in the end none is left over while somebody waits."""

    async def play(plane: Plane) -> None:
        rng = plane.clock.rng

        def held() -> list[str]:
            return [address for found in plane.all(SERVICE) for address in ingress(found)]

        def check(old: Any, new: Any) -> None:
            assert len(set(held())) == len(held())

        plane.informers.of(SERVICE).subscribe(check)
        found = await some_masters(plane)
        tasks = [plane.start(master.run()) for master in found]
        for number in range(12):
            await plane.client.create(service(f"s{number}", type="LoadBalancer"))
        for _ in range(6):
            await plane.until(lambda: any(master.leads for master in found))
            await plane.clock.sleep(rng.random())
            leader = next(number for number, master in enumerate(found) if master.leads)
            await stop(tasks[leader])
            tasks[leader] = plane.start(found[leader].run())
            victim = f"s{rng.randrange(12)}"
            await plane.client.delete(SERVICE, victim, "default")
            await plane.client.create(service(victim, type="LoadBalancer"))
        await plane.until(lambda: len(held()) == 8)
        await plane.quiet(60)
        assert len(held()) == 8

    simulate(play, seed=seed, address_pool=("192.168.0.240/29",))
