"""Signs of life, events that expire, bootstrap: right without writing when nothing changes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from registry_world import USER, Intercepted, World, memory_world, registry_on

from k8slite.api.errors import NotFound, Unavailable
from k8slite.api.kinds import ENDPOINTS, EVENT, NAMESPACE, SERVICE
from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.event.types import Event
from k8slite.api.meta import DeleteOptions, ObjectMeta
from k8slite.kit.clock import Clock, LoopClock
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import run_virtual
from k8slite.roles.apiserver.bootstrap import Bootstrap
from k8slite.roles.apiserver.components import Components
from k8slite.roles.apiserver.leases import Holders
from k8slite.store.base import Op, Put, StoreUnavailable
from k8slite.store.memory import MemoryStore

replace = msgspec.structs.replace


def event(name: str) -> Event:
    about = ObjectReference(kind="Pod", namespace="default", name="web")
    return Event(
        metadata=ObjectMeta(name=name, namespace="default"), involved_object=about, reason="Tried"
    )


# -- heartbeats -----------------------------------------------------------------------------------


def test_a_node_is_alive_while_it_beats_and_for_the_grace_after() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock(), node_grace=40.0) as world:
            news: list[tuple[str, bool]] = []
            world.nodes.subscribe(lambda node: news.append((node, world.nodes.alive(node))))
            await world.client.heartbeat("node-1")
            await world.registry.read_barrier()
            assert world.nodes.alive("node-1")
            for _ in range(30):
                await world.clock.sleep(10)
                await world.client.heartbeat("node-1")
            assert world.nodes.alive("node-1")
            await world.clock.sleep(39)
            assert world.nodes.alive("node-1")
            await world.clock.sleep(3)
            assert not world.nodes.alive("node-1")
            assert news == [("node-1", True), ("node-1", False)]
            await world.client.heartbeat("node-1")
            await world.registry.read_barrier()
            assert world.nodes.alive("node-1")

    run_virtual(main())


def test_a_heartbeat_writes_nothing_once_the_lease_is_there() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock()) as world:
            await world.client.heartbeat("node-1")
            before = await world.revision()
            for _ in range(100):
                await world.clock.sleep(10)
                await world.client.heartbeat("node-1")
            assert await world.revision() == before
            # Another process takes over the lease that it finds.
            successor = Holders(world.store, world.cache, "nodes", 40.0)
            assert successor.alive("node-1")
            await successor.heartbeat("node-1")
            assert await world.revision() == before

    run_virtual(main())


def test_a_sign_of_life_that_two_masters_write_at_once_is_kept_by_either() -> None:
    async def one_is_slow_to_write(one: World, two: World, slow: Any) -> None:
        slow.before = late(one.clock)
        first = asyncio.create_task(one.nodes.heartbeat("n1"))
        await one.clock.sleep(1)
        await two.nodes.heartbeat("n1")
        await first
        slow.before = None
        await beating(two, one)

    async def one_is_slow_to_hear_that_it_has_written(one: World, two: World, slow: Any) -> None:
        slow.after = late(one.clock)
        first = asyncio.create_task(one.nodes.heartbeat("n1"))
        await one.clock.sleep(1)
        lease = await two.store.grant(40.0)
        await two.store.commit([Put("/registry/leases/nodes/n1", b"{}", lease)])
        await first
        slow.after = None
        await beating(one, two)

    async def main(story: Any) -> None:
        clock = LoopClock()
        async with MemoryStore(clock) as memory:
            slow: Any = Intercepted(memory)
            async with registry_on(slow, clock) as one, registry_on(memory, clock) as two:
                await story(one, two, slow)

    run_virtual(main(one_is_slow_to_write))
    run_virtual(main(one_is_slow_to_hear_that_it_has_written))


def late(clock: Clock) -> Any:
    async def wait(ops: list[Op]) -> None:
        await clock.sleep(5)

    return wait


async def beating(first: World, then: World) -> None:
    """Signs of life through one master and then another: nobody ever takes the node for dead."""
    dead: list[float] = []

    def hear(name: str) -> None:
        if not first.nodes.alive(name):
            dead.append(first.clock.monotonic())

    first.nodes.subscribe(hear)
    for world in (first, then):
        for _ in range(30):
            await world.clock.sleep(10)
            await world.nodes.heartbeat("n1")
    assert dead == []


async def test_a_heartbeat_that_the_store_refuses_is_unavailable() -> None:
    clock = Clock()
    async with MemoryStore(clock) as memory:
        store: Any = Intercepted(memory)
        async with registry_on(store, clock) as world:

            async def down(ops: list[Op]) -> None:
                raise StoreUnavailable("disk full")

            store.before = down
            with pytest.raises(Unavailable, match="disk full"):
                await world.client.heartbeat("node-1")


# -- events ---------------------------------------------------------------------------------------


def test_events_vanish_after_their_time_and_an_update_renews_it() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock(), event_ttl=3600.0) as world:
            await world.client.create(event("old"))
            await world.client.create(event("kept"))
            await world.clock.sleep(3000)
            await world.client.patch(EVENT, "kept", "default", {"count": 2})
            await world.clock.sleep(700)
            with pytest.raises(NotFound):
                await world.client.get(EVENT, "old", "default")
            assert (await world.client.get(EVENT, "kept", "default")).count == 2
            await world.clock.sleep(3700)
            assert len(world.cache.table(EVENT)) == 0

    run_virtual(main())


class Counting(MemoryStore):
    """Counts the leases that are asked for."""

    granted = 0

    async def grant(self, ttl: float) -> int:
        self.granted += 1
        return await super().grant(ttl)


def test_events_of_a_minute_share_a_lease() -> None:
    async def main() -> None:
        clock = LoopClock()
        async with Counting(clock) as store, registry_on(store, clock) as world:
            for minute in range(3):
                await asyncio.gather(
                    *(world.client.create(event(f"{minute}-{n}")) for n in range(50))
                )
                await clock.sleep(60)
            assert store.granted == 3

    run_virtual(main())


async def test_an_event_finds_another_lease_when_the_store_lost_it() -> None:
    async with memory_world() as world:
        await world.client.create(event("first"))
        item = await world.store.get(EVENT.store_key("default", "first"))
        assert item is not None
        await world.store.revoke(item.lease)
        await world.client.create(event("second"))
        assert await world.client.get(EVENT, "second", "default")


# -- bootstrap ------------------------------------------------------------------------------------


def bootstrap(world: World, address: str = "10.0.0.1") -> Bootstrap:
    masters = Holders(world.store, world.cache, "masters", 30.0)
    settings = type(world.settings)(node_ip=address)
    return Bootstrap(world.registry, masters, settings, world.clock)


async def test_a_cluster_begins_with_a_namespace_and_two_ways_to_the_api() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock, admission=("NamespaceLifecycle",)) as world:
            await bootstrap(world).ensure()
            assert await world.client.get(NAMESPACE, "default")
            for name, address, port, target in (
                ("kubernetes-ro", "192.168.3.1", 80, 7080),
                ("kubernetes", "192.168.3.2", 443, 6443),
            ):
                service = await world.client.get(SERVICE, name, "default")
                assert service.spec.cluster_ip == address
                assert [(p.port, p.target_port) for p in service.spec.ports] == [(port, target)]
                assert service.spec.selector is None
                assert service.metadata.labels == {
                    "component": "apiserver", "provider": "kubernetes",
                }  # fmt: skip
                endpoints = await world.client.get(ENDPOINTS, name, "default")
                (subset,) = endpoints.subsets
                assert [a.ip for a in subset.addresses] == ["10.0.0.1"]
                assert [p.port for p in subset.ports] == [target]


async def test_looking_again_writes_nothing() -> None:
    async with memory_world() as world:
        keeper = bootstrap(world)
        await keeper.ensure()
        before = await world.revision()
        for _ in range(3):
            await keeper.ensure()
        assert await world.revision() == before


async def test_what_is_taken_away_or_bent_comes_back() -> None:
    async with memory_world() as world:
        keeper = bootstrap(world)
        await keeper.ensure()
        await world.client.delete(SERVICE, "kubernetes", "default")
        await world.client.patch(ENDPOINTS, "kubernetes-ro", "default", {"subsets": None})
        await world.client.patch(
            SERVICE, "kubernetes-ro", "default", {"metadata": {"labels": None}}
        )
        await keeper.ensure()
        restored = await world.client.get(SERVICE, "kubernetes", "default")
        assert restored.spec.cluster_ip == "192.168.3.2"
        again = await world.client.get(ENDPOINTS, "kubernetes-ro", "default")
        assert again.subsets
        bent = await world.client.get(SERVICE, "kubernetes-ro", "default")
        assert bent.metadata.label("component") == "apiserver"


async def test_a_new_portal_net_moves_the_services() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock) as world:
            await bootstrap(world).ensure()
        async with registry_on(store, clock, portal_net="10.20.0.0/16") as world:
            masters = Holders(store, world.cache, "masters", 30.0)
            await Bootstrap(world.registry, masters, world.settings, clock).ensure()
            moved = await world.client.get(SERVICE, "kubernetes", "default")
            assert moved.spec.cluster_ip == "10.20.0.2"
            assert await world.keys("/registry/portalips/") == {"10.20.0.1", "10.20.0.2"}


def test_the_endpoints_are_the_masters_that_are_alive() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock()) as world:
            first, second = bootstrap(world, "10.0.0.1"), bootstrap(world, "10.0.0.2")
            async with asyncio.TaskGroup() as group:
                one = group.create_task(first.run(), name="first")
                two = group.create_task(second.run(), name="second")
                await world.clock.sleep(0.1)
                assert addresses(world) == ["10.0.0.1", "10.0.0.2"]
                await world.clock.sleep(25)
                assert addresses(world) == ["10.0.0.1", "10.0.0.2"]
                one.cancel()  # a master that is told to stop says so
                await world.clock.sleep(0.1)
                assert addresses(world) == ["10.0.0.2"]
                two.cancel()

    def addresses(world: World) -> list[str]:
        endpoints = world.registry.get(ENDPOINTS, "default", "kubernetes").object
        return [address.ip for subset in endpoints.subsets for address in subset.addresses]

    run_virtual(main())


def test_a_master_that_falls_silent_is_no_endpoint_after_its_grace() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock()) as world:
            silent = bootstrap(world, "10.0.0.1")
            await silent.ensure()
            other = asyncio.create_task(bootstrap(world, "10.0.0.2").run())
            await world.clock.sleep(29)
            assert len(world.registry.get(ENDPOINTS, "default", "kubernetes").object.subsets) == 1
            await world.clock.sleep(2)
            endpoints = world.registry.get(ENDPOINTS, "default", "kubernetes").object
            (subset,) = endpoints.subsets
            assert [address.ip for address in subset.addresses] == ["10.0.0.2"]
            await stop(other)

    run_virtual(main())


def test_bootstrap_outlives_trouble_with_the_store() -> None:
    async def main() -> None:
        clock = LoopClock()
        async with MemoryStore(clock) as memory:
            store: Any = Intercepted(memory)
            async with registry_on(store, clock) as world:

                async def down(ops: list[Op]) -> None:
                    raise StoreUnavailable("gone for a while")

                store.before = down
                keeper = asyncio.create_task(bootstrap(world).run(), name="bootstrap")
                await clock.sleep(25)
                store.before = None
                await clock.sleep(25)
                assert await world.client.get(SERVICE, "kubernetes", "default")
                await stop(keeper)

    run_virtual(main())


async def test_the_services_may_be_deleted_by_nobody_for_long() -> None:
    async with memory_world() as world:
        keeper = bootstrap(world)
        await keeper.ensure()
        options = DeleteOptions()
        await world.registry.delete_collection(SERVICE, "default", options, user=USER)
        await keeper.ensure()
        assert len(world.cache.table(SERVICE)) == 2


# -- component statuses ----------------------------------------------------------------------------


async def test_components_say_how_they_are() -> None:
    async def well() -> str:
        return "ok"

    async def ill() -> str:
        raise ConnectionRefusedError("connection refused")

    statuses = await Components({"scheduler": well, "controller-manager": ill})()
    told = [(s.metadata.name, s.conditions[0].status, s.conditions[0].message,
             s.conditions[0].error) for s in statuses]  # fmt: skip
    assert told == [
        ("scheduler", "True", "ok", ""),
        ("controller-manager", "False", "", "connection refused"),
    ]


def test_a_component_that_does_not_answer_is_not_well() -> None:
    async def main() -> None:
        async def silent() -> str:
            await LoopClock().sleep(1000)
            return "ok"

        (status,) = await Components({"scheduler": silent})()
        assert status.conditions[0].error == "no answer within 2 s"

    run_virtual(main())
