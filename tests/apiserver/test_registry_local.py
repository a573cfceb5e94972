"""The in-process client reads as the HTTP one does: selectors, resumption, expiry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from registry_world import World, memory_world, pod

from k8slite.api.errors import BadRequest, Expired, NotFound
from k8slite.api.kinds import POD
from k8slite.client.base import WatchEvent
from k8slite.store.cache import ChangeStream


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with memory_world() as world:
        yield world


async def take(stream: Any, count: int) -> list[tuple[str, str]]:
    """The next ``count`` events as (type, name)."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            event: WatchEvent[Any] = await anext(stream)
            found.append((event.type, event.object.metadata.name))
    return found


async def label(world: World, name: str, value: str | None) -> None:
    await world.client.patch(POD, name, "default", {"metadata": {"labels": {"app": value}}})


async def test_lists_are_chosen_by_namespace_labels_and_fields(world: World) -> None:
    await world.client.create(pod("a", meta={"labels": {"app": "web"}}))
    await world.client.create(pod("b"))
    await world.client.create(pod("c", meta={"namespace": "other", "labels": {"app": "web"}}))
    await world.client.bind("default", "b", "node-1")

    async def names(namespace: str = "", **selectors: str) -> list[str]:
        listing = await world.client.list(POD, namespace, **selectors)
        assert int(listing.resource_version) == world.cache.revision
        return [obj.metadata.name for obj in listing.items]

    assert await names() == ["a", "b", "c"]
    assert await names("default") == ["a", "b"]
    assert await names(labels="app=web") == ["a", "c"]
    assert await names(fields="spec.nodeName=node-1") == ["b"]
    with pytest.raises(BadRequest):
        await names(fields="spec.colour=red")


async def test_a_watch_begins_with_what_there_is(world: World) -> None:
    await world.client.create(pod("a"))
    async with aclosing(world.client.watch(POD)) as stream:  # type: ignore[type-var]
        assert await take(stream, 1) == [("ADDED", "a")]
        await world.client.create(pod("b"))
        await world.client.delete(POD, "a", "default")
        assert await take(stream, 2) == [("ADDED", "b"), ("DELETED", "a")]


async def test_an_object_enters_and_leaves_a_selection(world: World) -> None:
    version = (await world.client.create(pod("a"))).metadata.resource_version
    watch: Any = world.client.watch(POD, labels="app=web", resource_version=version)
    async with aclosing(watch) as stream:
        await label(world, "a", "web")
        await world.client.patch(POD, "a", "default", {"metadata": {"labels": {"x": "y"}}})
        await label(world, "a", None)
        await label(world, "a", "web")
        assert await take(stream, 4) == [
            ("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "a"),
        ]  # fmt: skip


async def test_a_watch_resumes_after_the_version_it_is_given(world: World) -> None:
    first = await world.client.create(pod("a"))
    await world.client.create(pod("b"))
    watch: Any = world.client.watch(POD, resource_version=first.metadata.resource_version)
    async with aclosing(watch) as stream:
        assert await take(stream, 1) == [("ADDED", "b")]


async def test_a_version_too_old_is_expired(world: World) -> None:
    world.cache.table(POD).complete_after = world.cache.revision
    watch: Any = world.client.watch(POD, resource_version="1")
    with pytest.raises(Expired):
        await anext(watch)


async def test_a_watcher_that_falls_behind_is_told_to_list_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(kind: Any, after: int) -> ChangeStream[Any]:
        return ChangeStream(world.cache.table(kind), after, 5, lambda: world.cache.revision)

    monkeypatch.setattr(world.cache, "changes", short)
    await world.client.create(pod("a"))
    watch: Any = world.client.watch(POD)
    async with aclosing(watch) as stream:
        await take(stream, 1)
        for number in range(10):
            await world.client.create(pod(f"p{number}"))
        with pytest.raises(Expired, match="list again"):
            await anext(stream)


async def test_what_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match='pods "ghost" not found'):
        await world.client.get(POD, "ghost", "default")
    with pytest.raises(NotFound):
        await world.client.delete(POD, "ghost", "default")
