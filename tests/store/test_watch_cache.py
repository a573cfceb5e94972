"""The watch cache: tables that are current, changes that are whole, bytes made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from k8slite.api import codec
from k8slite.api.errors import Expired
from k8slite.api.kinds import CONFIG_MAP, EVENT, NAMESPACE, POD, SCHEME, SERVICE
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.scheme import Kind
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import HandClock
from k8slite.store.base import Create, Delete, Lagged, Op, Put, Store, StoreEvent, Update
from k8slite.store.cache import Change, WatchCache
from k8slite.store.mutation import SharedObjectChanged


@asynccontextmanager
async def running(store: Store, **options: Any) -> AsyncIterator[WatchCache]:
    """A cache that follows ``store`` and whose shared objects nobody may change."""
    cache = WatchCache(store, SCHEME, HandClock(), detect_mutation=True, **options)
    task = asyncio.create_task(cache.run(), name="watch-cache")
    try:
        await cache.wait_ready()
        yield cache
        assert cache.mutations is not None
        cache.mutations.verify()
    finally:
        await stop(task)


@pytest.fixture
async def cache(store: Store) -> AsyncIterator[WatchCache]:
    async with running(store) as cache:
        yield cache


def stored(kind: Kind[Object], name: str, namespace: str = "", label: str = "") -> bytes:
    labels = {"label": label} if label else None
    meta = ObjectMeta(name=name, namespace=namespace, labels=labels)
    return codec.encode_stored(kind.new(kind=kind.kind, metadata=meta))


def create(kind: Kind[Object], name: str, namespace: str = "") -> Op:
    return Create(kind.store_key(namespace, name), stored(kind, name, namespace))


async def write(store: Store, cache: WatchCache, *ops: Op) -> int:
    revision = await store.commit(ops)
    await cache.wait_for(revision)
    return revision


# -- tables -------------------------------------------------------------------------------------


async def test_what_is_in_the_store_at_start_is_in_the_tables(store: Store) -> None:
    created = await store.commit(
        [create(POD, "a", "default"), create(NAMESPACE, "default"), create(SERVICE, "s", "x")]
    )
    async with running(store) as cache:
        assert cache.revision == created
        entry = cache.table(POD).get("default/a")
        assert entry is not None
        assert (entry.key, entry.revision, entry.create_revision) == ("default/a", created, created)
        assert entry.object.metadata.name == "a"
        assert entry.object.metadata.resource_version == str(created)
        assert len(cache.table(NAMESPACE)) == len(cache.table(SERVICE)) == 1
        assert len(cache.table(CONFIG_MAP)) == 0


async def test_a_cache_that_waited_for_a_revision_shows_it(store: Store, cache: WatchCache) -> None:
    pods = cache.table(POD)
    created = await write(store, cache, create(POD, "a", "n"))
    updated = await write(
        store, cache, Update("/registry/pods/n/a", stored(POD, "a", "n", "new"), created)
    )
    entry = pods.get("n/a")
    assert entry is not None
    assert (entry.revision, entry.create_revision) == (updated, created)
    assert entry.object.metadata.labels == {"label": "new"}
    await write(store, cache, Delete("/registry/pods/n/a"))
    assert pods.get("n/a") is None
    assert len(pods) == 0
    await cache.wait_for(created)  # the past needs no waiting


async def test_entries_come_in_the_order_of_the_store(store: Store, cache: WatchCache) -> None:
    places = [("b", "y"), ("a", "z"), ("a-b", "x"), ("a", "m"), ("a.c", "q"), ("aa", "k")]
    for namespace, name in places:
        await write(store, cache, create(POD, name, namespace))
    pods = cache.table(POD)
    in_store = [item.key for item in (await store.scan(POD.prefix)).items]
    assert [POD.prefix + entry.key for entry in pods.entries()] == in_store
    assert [entry.key for entry in pods.entries("a")] == ["a/m", "a/z"]
    assert [entry.key for entry in pods.entries("a-b")] == ["a-b/x"]
    assert pods.entries("none") == []


async def test_a_listing_is_a_snapshot(store: Store, cache: WatchCache) -> None:
    await write(store, cache, create(POD, "a", "n"))
    before = cache.table(POD).entries()
    await write(store, cache, create(POD, "b", "n"), Delete("/registry/pods/n/a"))
    assert [entry.key for entry in before] == ["n/a"]
    assert [entry.key for entry in cache.table(POD).entries()] == ["n/b"]


async def test_an_entry_is_encoded_and_decoded_once(store: Store, cache: WatchCache) -> None:
    await write(store, cache, create(POD, "a", "n"))
    entry = cache.table(POD).get("n/a")
    assert entry is not None
    assert entry.object is entry.object
    assert entry.encoding("v1") is entry.data
    assert entry.encoding("v1beta3") is entry.encoding("v1beta3")
    assert msgspec.json.decode(entry.data)["metadata"]["resourceVersion"] == str(entry.revision)
    assert msgspec.json.decode(entry.encoding("v1beta3"))["apiVersion"] == "v1beta3"
    assert not hasattr(entry, "__dict__")


# -- changes ------------------------------------------------------------------------------------


async def test_subscribers_are_told_every_change_in_order(store: Store, cache: WatchCache) -> None:
    seen: list[Change[Object]] = []
    unsubscribe = cache.table(POD).subscribe(seen.append)
    created = await write(store, cache, create(POD, "a", "n"), create(NAMESPACE, "n"))
    updated = await write(store, cache, Put("/registry/pods/n/a", stored(POD, "a", "n", "x")))
    deleted = await write(store, cache, Delete("/registry/pods/n/a"))
    unsubscribe()
    await write(store, cache, create(POD, "b", "n"))
    assert [(change.type, change.revision) for change in seen] == [
        ("ADDED", created),
        ("MODIFIED", updated),
        ("DELETED", deleted),
    ]
    added, modified, removed = seen
    assert added.previous is None
    assert modified.previous is added.entry
    assert removed.previous is modified.entry
    assert removed.entry.object.metadata.labels == {"label": "x"}
    assert removed.entry.object.metadata.resource_version == str(deleted)


async def test_structs_are_kept_only_where_somebody_reads_them(store: Store) -> None:
    cache = WatchCache(store, SCHEME, HandClock())
    task = asyncio.create_task(cache.run())
    await cache.wait_ready()
    kept: list[bool] = []

    def passes_on(change: Change[Object]) -> None:
        kept.append(change.entry._object is not None)

    cache.table(EVENT).subscribe(passes_on, reads_objects=False)
    await write(store, cache, create(EVENT, "a", "n"))
    cache.table(EVENT).subscribe(lambda change: None)
    await write(store, cache, create(EVENT, "b", "n"))
    assert kept == [False, True]
    await stop(task)


async def test_a_subscriber_that_fails_stops_nobody(store: Store, cache: WatchCache) -> None:
    seen: list[str] = []
    cache.table(POD).subscribe(lambda change: seen.append("before"))
    cache.table(POD).subscribe(lambda change: 1 / 0)  # type: ignore[arg-type, return-value]
    cache.table(POD).subscribe(lambda change: seen.append("after"))
    await write(store, cache, create(POD, "a", "n"))
    await write(store, cache, create(POD, "b", "n"))
    assert seen == ["before", "after"] * 2


async def test_a_stream_gives_the_changes_of_its_kind_after_a_revision(
    store: Store, cache: WatchCache
) -> None:
    start = cache.revision
    first = await write(store, cache, create(POD, "a", "n"))
    await write(store, cache, create(SERVICE, "s", "n"))
    second = await write(store, cache, Delete("/registry/pods/n/a"))
    for after, expected in ((start, [first, second]), (first, [second])):
        stream = cache.changes(POD, after)
        assert [change.revision for change in await anext(stream)] == expected
    stream = cache.changes(POD, second)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    third = await write(store, cache, create(POD, "b", "n"))
    assert [change.revision for change in await waiting] == [third]


async def test_a_watch_line_is_made_once_for_all_watchers(store: Store, cache: WatchCache) -> None:
    streams = [cache.changes(POD, cache.revision) for _ in range(3)]
    revision = await write(store, cache, create(POD, "a", "n"))
    lines = [(await anext(stream))[0].event_bytes("v1") for stream in streams]
    assert lines[0] is lines[1] is lines[2]
    assert lines[0].endswith(b"}\n")
    event = msgspec.json.decode(lines[0])
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"] == {
        "name": "a",
        "namespace": "n",
        "resourceVersion": str(revision),
    }


async def test_a_cancelled_wait_loses_nothing(store: Store, cache: WatchCache) -> None:
    stream = cache.changes(POD, cache.revision)
    for number in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(stream)
        await write(store, cache, create(POD, f"{number}", "n"))
        (change,) = await anext(stream)
        assert change.entry.key == f"n/{number}"
    assert not cache.table(POD)._waiting


async def test_a_stream_knows_a_revision_fit_for_a_bookmark(
    store: Store, cache: WatchCache
) -> None:
    stream = cache.changes(POD, cache.revision)
    elsewhere = await write(store, cache, create(SERVICE, "s", "n"))
    assert stream.revision == elsewhere
    first = await write(store, cache, create(POD, "a", "n"))
    assert stream.revision == elsewhere
    await anext(stream)
    assert stream.revision == first
    assert cache.changes(POD, first + 7).revision == first + 7


async def test_a_closed_stream_ends_its_iteration(cache: WatchCache) -> None:
    stream = cache.changes(POD, cache.revision)

    async def read() -> None:
        async for _ in stream:
            raise AssertionError("nothing was written")

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    stream.close()
    await reading


async def test_a_slow_receiver_lags_visibly_and_alone(store: Store, cache: WatchCache) -> None:
    slow, quick = (cache.changes(POD, cache.revision, bound=10) for _ in range(2))
    seen = 0
    for number in range(30):
        await write(store, cache, create(POD, f"{number}", "n"))
        seen += len(await anext(quick))
    assert seen == 30
    with pytest.raises(Lagged):
        await anext(slow)


async def test_a_resume_may_be_longer_than_the_bound(store: Store, cache: WatchCache) -> None:
    start = cache.revision
    for number in range(30):
        await write(store, cache, create(POD, f"{number}", "n"))
    stream = cache.changes(POD, start, bound=10)
    await write(store, cache, create(POD, "last", "n"))
    assert len(await anext(stream)) == 31


async def test_the_window_of_changes_is_bounded_and_what_is_older_has_expired(
    store: Store,
) -> None:
    async with running(store, history=64) as cache:
        start = cache.revision
        left_behind = cache.changes(POD, start, bound=1000)
        for number in range(200):
            last = await write(
                store, cache, Put("/registry/pods/n/a", stored(POD, "a", "n", f"{number}"))
            )
        with pytest.raises(Expired, match="too old resource version"):
            cache.changes(POD, start)
        with pytest.raises(Lagged):
            await anext(left_behind)
        window = await anext(cache.changes(POD, last - 64))
        assert [change.revision for change in window] == list(range(last - 63, last + 1))
        assert cache.changes(SERVICE, start)


async def test_the_window_is_bounded_in_bytes_too(store: Store) -> None:
    async with running(store, history_bytes=10_000) as cache:
        start = cache.revision
        for number in range(40):
            value = stored(POD, "a", "n", f"{number}" * 500)
            last = await write(store, cache, Put("/registry/pods/n/a", value))
        with pytest.raises(Expired):
            cache.changes(POD, start)
        assert len(await anext(cache.changes(POD, last - 1))) == 1


async def test_history_before_the_start_has_expired(store: Store) -> None:
    await store.commit([create(POD, "a", "n")])
    last = await store.commit([Delete("/registry/pods/n/a")])
    async with running(store) as cache:
        with pytest.raises(Expired):
            cache.changes(POD, last - 1)
        assert cache.changes(POD, last)


async def test_a_burst_is_applied_in_turns_of_the_loop(store: Store, cache: WatchCache) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    revisions = await asyncio.gather(
        *(store.commit([create(EVENT, f"{number}", "n")]) for number in range(2000))
    )
    await cache.wait_for(max(revisions))
    await stop(counting)
    assert len(cache.table(EVENT)) == 2000
    assert turns > 4


# -- keys of no kind ----------------------------------------------------------------------------


async def test_prefixes_of_no_kind_are_watched_raw_and_begin_with_what_is_there(
    store: Store,
) -> None:
    key = "/registry/leases/nodes/n1"
    created = await store.commit([Create(key, b"1"), Create("/registry/leases/other", b"")])
    async with running(store) as cache:
        seen: list[StoreEvent] = []
        unsubscribe = cache.watch_prefix("/registry/leases/nodes/", seen.append)
        assert seen == [StoreEvent(key, created, b"1", created)]
        updated = await write(store, cache, Put(key, b"2"))
        deleted = await write(store, cache, Delete(key))
        assert seen[1:] == [
            StoreEvent(key, updated, b"2", created, b"1"),
            StoreEvent(key, deleted, None, created, b"2"),
        ]
        unsubscribe()
        await write(store, cache, Put(key, b"3"))
        assert len(seen) == 3


async def test_a_lease_that_ends_is_seen_as_a_deletion(stores) -> None:
    store = await stores.open()
    async with running(store) as cache:
        gone = asyncio.Event()
        lease = await store.grant(40)
        await write(store, cache, Create("/registry/leases/nodes/n1", b"", lease))
        cache.watch_prefix("/registry/leases/", lambda event: event.deleted and gone.set())
        await stores.pass_time(40)
        async with asyncio.timeout(60):
            await gone.wait()


# -- what cannot be read ------------------------------------------------------------------------

BROKEN = [
    b"\x00 not JSON",
    b"{}",
    b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":7}}',
    b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}',
    stored(SERVICE, "a", "n"),
]


@pytest.mark.parametrize("value", BROKEN)
async def test_an_object_that_cannot_be_read_is_left_out_visibly(
    store: Store, value: bytes
) -> None:
    key = "/registry/pods/n/broken"
    await store.commit([Create(key, value), create(POD, "whole", "n")])
    async with running(store) as cache:
        pods = cache.table(POD)
        assert [entry.key for entry in pods.entries()] == ["n/whole"]
        assert list(cache.undecodable) == [key]
        await write(store, cache, Put(key, stored(POD, "broken", "n")))
        assert [entry.key for entry in pods.entries()] == ["n/broken", "n/whole"]
        assert not cache.undecodable
        stream = cache.changes(POD, cache.revision)
        await write(store, cache, Put(key, value))
        assert [change.type for change in await anext(stream)] == ["DELETED"]
        assert list(cache.undecodable) == [key]
        await write(store, cache, Delete(key))
        assert not cache.undecodable


async def test_keys_of_odd_shapes_harm_nothing(store: Store, cache: WatchCache) -> None:
    for key in ("", "/", "x", "/registry", "/registry/", "/registry/pods", "/registry/none/a"):
        await write(store, cache, Put(key, b"?"))
    assert len(cache.table(POD)) == 0


# -- mutation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("noticed", ["at the next change", "when verified"])
async def test_a_reader_that_changes_a_shared_object_is_caught(store: Store, noticed: str) -> None:
    cache = WatchCache(store, SCHEME, HandClock(), detect_mutation=True)
    task = asyncio.create_task(cache.run())
    await cache.wait_ready()
    await write(store, cache, Put("/registry/pods/n/a", stored(POD, "a", "n", "x")))
    entry = cache.table(POD).get("n/a")
    assert entry is not None
    labels = entry.object.metadata.labels
    assert labels is not None
    labels["mine"] = "now"
    if noticed == "when verified":
        assert cache.mutations is not None
        with pytest.raises(SharedObjectChanged, match="Pod n/a was changed in place"):
            cache.mutations.verify()
        await stop(task)
    else:
        await store.commit([Delete("/registry/pods/n/a")])
        with pytest.raises(SharedObjectChanged, match="Pod n/a was changed in place"):
            await task


async def test_a_cache_of_one_prefix_reads_nothing_else(store: Store) -> None:
    await store.commit([create(POD, "a", "n"), Create("/authority", b"secret")])
    async with running(store, prefix="/registry/") as cache:
        seen: list[StoreEvent] = []
        cache.watch_prefix("/authority", seen.append)
        await store.commit([Put("/authority", b"newer")])
        await write(store, cache, create(POD, "b", "n"))
        assert [entry.key for entry in cache.table(POD).entries()] == ["n/a", "n/b"]
        assert not seen
