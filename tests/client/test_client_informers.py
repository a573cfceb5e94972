"""Informers, near the store and far from it, keep one set of promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from registry_world import World, memory_world, pod, registry_on

from k8slite.api.errors import Expired, Unavailable
from k8slite.api.kinds import POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.client.base import Informers, WatchEvent
from k8slite.client.informer import CacheInformers
from k8slite.client.reflector import Reflector, RemoteInformers
from k8slite.kit.clock import Clock, LoopClock
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import run_virtual
from k8slite.store.memory import MemoryStore

replace = msgspec.structs.replace
Told = list[tuple[str | None, str | None]]


@asynccontextmanager
async def near(world: World) -> AsyncIterator[Informers]:
    yield CacheInformers(world.cache)


@asynccontextmanager
async def far(world: World) -> AsyncIterator[Informers]:
    informers = RemoteInformers(world.client, world.clock)
    running = asyncio.create_task(informers.run(), name="informers")
    try:
        yield informers
    finally:
        await stop(running)


@pytest.fixture(params=[near, far])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[World, Informers]]:
    async with memory_world() as world, request.param(world) as informers:
        yield world, informers


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await Clock().sleep(0)


def recorder(told: Told) -> Callable[[Pod | None, Pod | None], None]:
    def handler(old: Pod | None, new: Pod | None) -> None:
        told.append((old and phase(old), new and phase(new)))

    return handler


def phase(obj: Pod) -> str:
    return f"{obj.metadata.name}:{obj.metadata.label('v')}"


def by_node(obj: Pod) -> Iterable[str]:
    return (obj.spec.node_name,)


async def relabel(world: World, name: str, value: str) -> None:
    await world.client.patch(POD, name, "default", {"metadata": {"labels": {"v": value}}})


async def test_a_handler_hears_what_there_is_then_every_change_in_order(
    both: tuple[World, Informers],
) -> None:
    world, informers = both
    await world.client.create(pod("a"))
    informer = informers.of(POD)
    await informer.wait_synced()
    told: Told = []
    leave = informer.subscribe(recorder(told))
    assert told == [(None, "a:")]
    await world.client.create(pod("b"))
    await relabel(world, "b", "1")
    await world.client.delete(POD, "a", "default")
    await until(lambda: len(told) == 4)
    assert told[1:] == [(None, "b:"), ("b:", "b:1"), ("a:", None)]
    leave()
    await world.client.create(pod("c"))
    await until(lambda: informer.get("default/c") is not None)
    assert len(told) == 4


async def test_what_is_known_is_found_by_key_namespace_and_index(
    both: tuple[World, Informers],
) -> None:
    world, informers = both
    informer = informers.of(POD)
    informer.index("node", by_node)
    await informer.wait_synced()
    for name in ("a", "b", "c"):
        await world.client.create(pod(name))
    await world.client.create(pod("d", meta={"namespace": "other"}))
    await world.client.bind("default", "a", "node-1")
    await world.client.bind("default", "b", "node-1")
    await until(lambda: len(informer.by_index("node", "node-1")) == 2)
    await until(lambda: informer.get("other/d") is not None)
    assert {obj.metadata.name for obj in informer.by_index("node", "")} == {"c", "d"}
    assert {obj.metadata.name for obj in informer.in_namespace("default")} == {"a", "b", "c"}
    assert len(list(informer.items())) == 4
    await world.client.delete(POD, "a", "default", grace_seconds=0)
    await until(lambda: len(informer.by_index("node", "node-1")) == 1)
    assert informer.by_index("node", "unheard-of") == []


async def test_an_index_is_right_when_a_handler_is_called(both: tuple[World, Informers]) -> None:
    world, informers = both
    informer = informers.of(POD)
    informer.index("node", by_node)
    await informer.wait_synced()
    seen: list[int] = []
    informer.subscribe(lambda old, new: seen.append(len(informer.by_index("node", "node-1"))))
    await world.client.create(pod("a"))
    await world.client.bind("default", "a", "node-1")
    await world.client.delete(POD, "a", "default", grace_seconds=0)
    await until(lambda: len(seen) == 3)
    assert seen == [0, 1, 0]


async def test_a_kind_has_one_informer(both: tuple[World, Informers]) -> None:
    _, informers = both
    assert informers.of(POD) is informers.of(POD)


async def test_objects_of_the_cache_are_shared_not_copied() -> None:
    async with memory_world() as world:
        informer = CacheInformers(world.cache).of(POD)
        await world.client.create(pod("a"))
        assert informer.get("default/a") is world.registry.get(POD, "default", "a").object


async def test_who_subscribes_before_the_first_listing_hears_all_of_it_once() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock) as world:
            await world.client.create(pod("a"))
        from k8slite.api.kinds import SCHEME
        from k8slite.store.cache import WatchCache

        cache = WatchCache(store, SCHEME, clock)
        informer = CacheInformers(cache).of(POD)
        informer.index("node", by_node)
        told: Told = []
        informer.subscribe(recorder(told))
        assert told == []
        assert not informer.synced
        following = asyncio.create_task(cache.run(), name="cache")
        await informer.wait_synced()
        assert told == [(None, "a:")]
        assert len(informer.by_index("node", "")) == 1
        await stop(following)


# -- far from the store: trouble ------------------------------------------------------------------


class Troubled:
    """A client whose watch ends, fails and forgets as the test says."""

    def __init__(self, world: World) -> None:
        self._client = world.client
        self.lists = 0
        self.watches = 0
        self.trouble: list[Exception] = []
        self.cut: Callable[[], Awaitable[None]] | None = None

    async def list(self, *args: Any, **options: Any) -> Any:
        self.lists += 1
        if self.trouble and isinstance(self.trouble[0], OSError):
            raise self.trouble.pop(0)
        return await self._client.list(*args, **options)

    async def watch(self, *args: Any, **options: Any) -> AsyncIterator[WatchEvent[Any]]:
        self.watches += 1
        if self.trouble:
            raise self.trouble.pop(0)
        async for event in self._client.watch(*args, **options):
            yield event
            if self.cut is not None:
                cut, self.cut = self.cut, None
                await cut()
                return


def troubled(test: Callable[[World, Troubled, Reflector[Pod]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock()) as world:
            client = Troubled(world)
            reflector: Reflector[Pod] = Reflector(client, world.clock, POD)  # type: ignore[arg-type]
            running = asyncio.create_task(reflector.run(), name="reflector")
            await test(world, client, reflector)
            await stop(running)

    run_virtual(main())


def test_a_watch_that_ends_goes_on_where_it_ended() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()
        told: Told = []
        reflector.subscribe(recorder(told))

        async def meanwhile() -> None:
            await world.client.create(pod("b"))

        client.cut = meanwhile
        await world.client.create(pod("a"))
        await world.clock.sleep(5)
        assert told == [(None, "a:"), (None, "b:")]
        assert client.lists == 1

    troubled(test)


def test_a_history_that_is_gone_costs_a_list_and_the_difference_is_told() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()
        await world.client.create(pod("a"))
        await world.client.create(pod("b"))
        await world.clock.sleep(1)
        told: Told = []
        reflector.subscribe(recorder(told))
        told.clear()

        async def meanwhile() -> None:
            await world.client.delete(POD, "a", "default")
            await relabel(world, "b", "2")
            await world.client.create(pod("d"))

        client.trouble = [Expired("too old")]
        client.cut = meanwhile
        await world.client.create(pod("c"))
        await world.clock.sleep(60)
        assert client.lists == 2
        assert told == [(None, "c:"), ("a:", None), ("b:", "b:2"), (None, "d:")]

    troubled(test)


def test_an_object_replaced_unseen_is_told_as_an_end_and_a_start() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()
        await world.client.create(pod("a"))
        await world.clock.sleep(1)
        told: Told = []
        reflector.subscribe(recorder(told))

        async def meanwhile() -> None:
            await world.client.delete(POD, "a", "default")
            await world.client.create(pod("a"))

        client.trouble = [Expired("too old")]
        client.cut = meanwhile
        await relabel(world, "a", "1")
        await world.clock.sleep(60)
        assert told == [(None, "a:"), ("a:", "a:1"), ("a:1", None), (None, "a:")]

    troubled(test)


def test_trouble_is_met_with_patience_and_the_copy_stays() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()
        await world.client.create(pod("a"))
        await world.clock.sleep(1)

        async def nothing() -> None:
            client.trouble = [Unavailable("restarting") for _ in range(6)]

        client.cut = nothing
        before = client.watches
        await relabel(world, "a", "1")
        await world.clock.sleep(5)
        assert reflector.get("default/a") is not None
        # 0.2 + 0.4 + 0.8 + 1.6 + 3.2 … seconds between attempts: not a storm.
        assert client.watches - before <= 6
        await world.client.create(pod("b"))
        await world.clock.sleep(60)
        assert reflector.get("default/b") is not None

    troubled(test)


def test_a_master_that_goes_again_and_again_makes_nobody_wait_longer_each_time() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()

        async def lost() -> None:
            raise Unavailable("the connection is gone")

        for number in range(30):
            client.cut = lost
            await world.client.create(pod(f"a{number}"))
            await world.client.create(pod(f"b{number}"))
            await world.clock.sleep(1)
            assert reflector.get(f"default/b{number}") is not None
        assert client.lists == 1

    troubled(test)


def test_after_an_hour_without_masters_news_is_soon_there() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()

        async def nothing() -> None:
            client.trouble = [Unavailable("nobody there") for _ in range(10_000)]

        client.cut = nothing
        await world.client.create(pod("a"))
        await world.clock.sleep(3600)
        client.trouble.clear()
        await world.client.create(pod("b"))
        await world.clock.sleep(10)
        assert reflector.get("default/b") is not None

    troubled(test)


def test_a_history_that_is_always_gone_is_not_asked_for_in_a_storm() -> None:
    async def test(world: World, client: Troubled, reflector: Reflector[Pod]) -> None:
        await reflector.wait_synced()

        async def nothing() -> None:
            client.trouble = [Expired("too old") for _ in range(1000)]

        client.cut = nothing
        await world.client.create(pod("a"))
        await world.clock.sleep(60)
        assert client.watches < 20
        client.trouble.clear()
        await world.client.create(pod("b"))
        await world.clock.sleep(60)
        assert reflector.get("default/b") is not None

    troubled(test)


def test_a_reflector_may_see_a_part_only() -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock()) as world:
            informers = RemoteInformers(world.client, world.clock, {"Pod": "spec.nodeName=node-1"})
            running = asyncio.create_task(informers.run(), name="informers")
            informer = informers.of(POD)
            await informer.wait_synced()
            await world.client.create(pod("mine"))
            await world.client.create(pod("other"))
            await world.client.bind("default", "mine", "node-1")
            await world.clock.sleep(5)
            assert [obj.metadata.name for obj in informer.items()] == ["mine"]
            await world.client.delete(POD, "mine", "default", grace_seconds=0)
            await world.clock.sleep(5)
            assert not list(informer.items())
            await stop(running)

    run_virtual(main())
