"""What every store promises about watches: etcd's five guarantees, by name, and compaction.

Ordered: events come in the order of revisions. Unique: none comes twice. Atomic: a list never
splits a transaction. Reliable: none is left out. Resumable: a watch may start at any revision
that is not compacted. (https://etcd.io/docs/v3.4/learning/api_guarantees)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import pytest

from k8slite.store.base import (
    Compacted,
    Create,
    Delete,
    Put,
    Store,
    StoreEvent,
    StoreUnavailable,
    Update,
)


async def take(watch: AsyncIterator[list[StoreEvent]], upto: int) -> list[list[StoreEvent]]:
    """The lists of a watch until revision ``upto`` has come."""
    lists = []
    async for events in watch:
        lists.append(events)
        if events[-1].revision >= upto:
            break
    return lists


async def watched(store: Store, prefix: str, after: int, upto: int) -> list[StoreEvent]:
    async with aclosing(store.watch(prefix, after)) as watch:
        return [event for events in await take(watch, upto) for event in events]


async def busy(store: Store, writers: int = 8, rounds: int = 30) -> int:
    """Concurrent transactions of two keys each; the last revision."""

    async def write(number: int) -> int:
        revision = 0
        for turn in range(rounds):
            revision = await store.commit(
                [Put(f"/a/{number}", b"%d" % turn), Put(f"/b/{number}", b"%d" % turn)]
            )
        return revision

    return max(await asyncio.gather(*(write(number) for number in range(writers))))


async def test_ordered_unique_reliable(store: Store) -> None:
    start = await store.revision()
    async with aclosing(store.watch("/", start)) as watch, asyncio.TaskGroup() as group:
        writing = group.create_task(busy(store))
        events: list[StoreEvent] = []
        while len(events) < 2 * 8 * 30:
            events += await anext(watch)
    assert events[-1].revision == writing.result()
    order = [(event.revision, event.key) for event in events]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    for number in range(8):
        for key in (f"/a/{number}", f"/b/{number}"):
            values = [int(event.value or b"") for event in events if event.key == key]
            assert values == list(range(30))


async def test_atomic(store: Store) -> None:
    start = await store.revision()
    async with aclosing(store.watch("/", start)) as watch:
        last = await busy(store)
        for events in await take(watch, last):
            for revision in {event.revision for event in events}:
                keys = [event.key for event in events if event.revision == revision]
                assert len(keys) == 2


async def test_atomic_even_when_a_transaction_is_larger_than_a_page(store: Store) -> None:
    start = await store.commit([Put("/0", b"")])
    await store.commit([Put(f"/{number:04}", b"") for number in range(700)])
    await store.commit([Put(f"/{number:04}", b"") for number in range(2500)])
    last = await store.commit([Put("/0", b"")])
    async with aclosing(store.watch("/", start)) as watch:
        lists = await take(watch, last)
    revisions = [{event.revision for event in events} for events in lists]
    for one, other in pairwise(revisions):
        assert not one & other
    assert sum(map(len, lists)) == 700 + 2500 + 1


async def test_resumable_from_every_revision(store: Store) -> None:
    start = await store.revision()
    last = await busy(store, writers=3, rounds=5)
    everything = await watched(store, "/", start, last)
    for after in range(start, last):
        assert await watched(store, "/", after, last) == [
            event for event in everything if event.revision > after
        ]


async def test_a_watch_that_stops_reading_misses_nothing(store: Store) -> None:
    start = await store.revision()
    async with aclosing(store.watch("/", start)) as watch:
        await store.commit([Put("/0", b"")])
        events = await anext(watch)
        for turn in range(12):  # more than a watch may keep for a slow reader
            await asyncio.gather(*(store.commit([Put(f"/{n}", b"%d" % turn)]) for n in range(500)))
        last = await store.revision()
        events += [event for events in await take(watch, last) for event in events]
    assert [event.revision for event in events] == list(range(start + 1, last + 1))


async def test_when_a_commit_returns_its_events_are_on_their_way(store: Store) -> None:
    async with aclosing(store.watch("/", await store.revision())) as watch:
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        await store.commit([Put("/a", b"1")])
        for _ in range(3):
            await asyncio.sleep(0)
        assert waiting.done()
        await waiting


async def test_events_tell_what_was_there_before(store: Store) -> None:
    start = await store.revision()
    created = await store.commit([Create("/a", b"1")])
    updated = await store.commit([Update("/a", b"2", created)])
    deleted = await store.commit([Delete("/a")])
    expected = [
        StoreEvent("/a", created, b"1", created, None),
        StoreEvent("/a", updated, b"2", created, b"1"),
        StoreEvent("/a", deleted, None, created, b"2"),
    ]
    assert await watched(store, "/a", start, deleted) == expected
    # Compaction takes away events, never what a later event shows.
    await store.compact(created)
    assert await watched(store, "/a", created, deleted) == expected[1:]
    await store.compact(updated)
    assert await watched(store, "/a", updated, deleted) == expected[2:]


async def test_a_watch_sees_its_prefix_alone(store: Store) -> None:
    start = await store.revision()
    async with aclosing(store.watch("/a/", start)) as live:
        waiting = asyncio.create_task(anext(live))
        await asyncio.sleep(0)
        await store.commit([Put("/a", b""), Put("/b/1", b""), Put("/a0", b"")])
        last = await store.commit([Put("/a/1", b""), Put("/b/1", b"")])
        assert [event.key for event in await waiting] == ["/a/1"]
    assert [event.key for event in await watched(store, "/a/", start, last)] == ["/a/1"]


async def test_a_watch_may_wait_for_what_is_to_come(store: Store) -> None:
    future = await store.revision() + 2
    async with aclosing(store.watch("/", future)) as watch:
        waiting = asyncio.create_task(anext(watch))
        for number in range(3):
            await asyncio.sleep(0)
            last = await store.commit([Put("/a", b"%d" % number)])
        (event,) = await waiting
        assert (event.revision, event.value) == (last, b"2")


async def test_compacted_history_is_refused_visibly(store: Store) -> None:
    start = await store.revision()
    for number in range(10):
        last = await store.commit([Put("/a", b"%d" % number)])
    await store.compact(last - 3)
    with pytest.raises(Compacted) as caught:
        await watched(store, "/", start, last)
    oldest = caught.value.oldest
    assert oldest == last - 3
    with pytest.raises(Compacted):
        await watched(store, "/", oldest - 1, last)
    events = await watched(store, "/", oldest, last)
    assert [event.revision for event in events] == [last - 2, last - 1, last]


async def test_compaction_keeps_current_values(store: Store) -> None:
    first = await store.commit([Put("/kept", b"1"), Put("/gone", b"2"), Put("/new", b"3")])
    await store.commit([Delete("/gone")])
    last = await store.commit([Put("/new", b"4")])
    await store.compact(last)
    await store.compact(first)  # the past twice is no error
    items = {item.key: (item.value, item.create_revision) for item in (await store.scan("/")).items}
    assert items == {"/kept": (b"1", first), "/new": (b"4", first)}
    assert await store.revision() == last
    assert await store.commit([Create("/gone", b"5")]) == last + 1


async def test_the_future_cannot_be_compacted(store: Store) -> None:
    with pytest.raises(ValueError, match="cannot compact"):
        await store.compact(await store.revision() + 1)


async def test_a_live_watch_is_not_disturbed_by_compaction(store: Store) -> None:
    async with aclosing(store.watch("/", await store.revision())) as watch:
        for number in range(5):
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            revision = await store.commit([Put("/a", b"%d" % number)])
            await store.compact(revision)
            (event,) = await waiting
            assert event.revision == revision


async def test_an_idle_prefix_is_not_overtaken_by_compaction(store: Store) -> None:
    start = await store.revision()
    async with aclosing(store.watch("/rare/", start)) as watch:
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        for number in range(20):
            revision = await store.commit([Put("/busy", b"%d" % number)])
        await store.compact(revision)
        last = await store.commit([Put("/rare/a", b"")])
        assert [event.revision for event in await waiting] == [last]


async def test_watches_end_with_the_store(store: Store) -> None:
    waiting = asyncio.create_task(anext(store.watch("/", await store.revision())))
    await asyncio.sleep(0)
    await store.__aexit__(None, None, None)
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
