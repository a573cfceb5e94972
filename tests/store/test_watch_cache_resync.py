"""The watch cache after trouble with its store: it comes back with the right changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.api import codec
from k8slite.api.errors import Expired
from k8slite.api.kinds import POD, SCHEME, SERVICE
from k8slite.api.meta import Object, ObjectMeta
from k8slite.kit.clock import LoopClock
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import run_virtual
from k8slite.store.base import Delete, Op, Put, Snapshot, StoreEvent, StoreUnavailable
from k8slite.store.cache import Change, WatchCache
from k8slite.store.memory import MemoryStore


class FlakyStore(MemoryStore):
    """A store that can be out of reach for its readers while others go on writing."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__(clock, keep_revisions=1_000_000)
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def scan(self, prefix: str) -> Snapshot:
        if not self.reachable.is_set():
            raise StoreUnavailable("out of reach")
        return await super().scan(prefix)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        watch = super().watch(prefix, after)
        while True:
            if not self.reachable.is_set():
                raise StoreUnavailable("out of reach")
            try:
                async with asyncio.timeout(0.1):
                    waiting = asyncio.ensure_future(anext(watch))
                    events = await asyncio.shield(waiting)
            except TimeoutError:
                waiting.cancel()
                await asyncio.wait({waiting})
                watch = super().watch(prefix, after)
                continue
            after = events[-1].revision
            if self.reachable.is_set():
                yield events


def pod(name: str, label: str = "") -> Op:
    meta = ObjectMeta(name=name, namespace="n", labels={"label": label})
    return Put(f"/registry/pods/n/{name}", codec.encode_stored(POD.new(kind="Pod", metadata=meta)))


class Follower:
    """What a reader of changes believes there is."""

    def __init__(self) -> None:
        self.seen: list[Change[Object]] = []
        self.state: dict[str, int] = {}

    def take(self, change: Change[Object]) -> None:
        self.seen.append(change)
        key = change.entry.key
        match change.type:
            case "ADDED":
                assert key not in self.state
                self.state[key] = change.revision
            case "MODIFIED":
                assert self.state[key] < change.revision
                self.state[key] = change.revision
            case "DELETED":
                assert change.revision > self.state.pop(key)


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "delete", "recreate"])),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(before=STEPS, during=STEPS, after=STEPS, compacted=st.booleans())
def test_a_follower_of_changes_ends_where_the_store_is(
    before: list[tuple[str, str]],
    during: list[tuple[str, str]],
    after: list[tuple[str, str]],
    compacted: bool,
) -> None:
    async def main() -> None:
        clock = LoopClock()
        async with FlakyStore(clock) as store:
            cache = WatchCache(store, SCHEME, clock, detect_mutation=True)
            running = asyncio.create_task(cache.run())
            await cache.wait_ready()
            subscriber, reader = Follower(), Follower()
            cache.table(POD).subscribe(subscriber.take)
            stream = cache.changes(POD, cache.revision)
            await cache.wait_for(await write(store, before))
            store.reachable.clear()
            await clock.sleep(1)
            missed = await write(store, during)
            if compacted:
                await store.compact(missed)
            store.reachable.set()
            await cache.wait_for(await write(store, after))
            await cache.wait_for(await store.commit([pod("last")]))

            for change in await anext(stream):
                reader.take(change)
            expected = {
                item.key.removeprefix(POD.prefix): item.mod_revision
                for item in (await store.scan(POD.prefix)).items
            }
            assert subscriber.state == reader.state == expected
            assert {entry.key: entry.revision for entry in cache.table(POD).entries()} == expected
            revisions = [change.revision for change in reader.seen]
            assert revisions == sorted(revisions)
            await stop(running)

    run_virtual(main())


async def write(store: MemoryStore, steps: Sequence[tuple[str, str]]) -> int:
    revision = await store.revision()
    for number, (name, what) in enumerate(steps):
        there = await store.get(f"/registry/pods/n/{name}") is not None
        if what in ("delete", "recreate") and there:
            revision = await store.commit([Delete(f"/registry/pods/n/{name}")])
        if what in ("put", "recreate"):
            revision = await store.commit([pod(name, f"{number}")])
    return revision


def test_no_watch_resumes_inside_a_difference() -> None:
    """Whoever disconnects in the middle of it lists again rather than miss the rest."""

    async def main() -> None:
        clock = LoopClock()
        async with FlakyStore(clock) as store:
            await store.commit([pod("a"), pod("b"), pod("c")])
            cache = WatchCache(store, SCHEME, clock)
            running = asyncio.create_task(cache.run())
            await cache.wait_ready()
            stream = cache.changes(POD, cache.revision)
            store.reachable.clear()
            await clock.sleep(1)
            await store.commit([Delete("/registry/pods/n/a")])
            await store.commit([Delete("/registry/pods/n/b")])
            await store.commit([pod("c", "new")])
            last = await store.commit([pod("d")])
            await store.compact(last)
            store.reachable.set()
            await cache.wait_for(last)
            changes = await anext(stream)
            assert [(change.type, change.entry.key) for change in changes] == [
                ("DELETED", "n/a"),
                ("DELETED", "n/b"),
                ("MODIFIED", "n/c"),
                ("ADDED", "n/d"),
            ]
            for change in changes[:-1]:
                with pytest.raises(Expired):
                    cache.changes(POD, change.revision)
            assert cache.changes(POD, last)
            assert cache.changes(SERVICE, last)
            await stop(running)

    run_virtual(main())


def test_a_store_out_of_reach_at_start_is_waited_for() -> None:
    async def main() -> None:
        clock = LoopClock()
        async with FlakyStore(clock) as store:
            store.reachable.clear()
            cache = WatchCache(store, SCHEME, clock)
            running = asyncio.create_task(cache.run())
            await store.commit([pod("a")])
            await clock.sleep(60)
            assert cache.revision == 0
            store.reachable.set()
            await cache.wait_ready()
            assert len(cache.table(POD)) == 1
            await stop(running)

    run_virtual(main())


def test_lost_keys_of_no_kind_are_told_as_deletions() -> None:
    async def main() -> None:
        clock = LoopClock()
        async with FlakyStore(clock) as store:
            key = "/registry/leases/nodes/n1"
            await store.commit([Put(key, b"1"), Put(f"{key}2", b"1")])
            cache = WatchCache(store, SCHEME, clock)
            running = asyncio.create_task(cache.run())
            await cache.wait_ready()
            seen: list[StoreEvent] = []
            cache.watch_prefix("/registry/leases/", seen.append)
            store.reachable.clear()
            await clock.sleep(1)
            await store.commit([Delete(key)])
            last = await store.commit([Put(f"{key}2", b"2")])
            await store.compact(last)
            store.reachable.set()
            await cache.wait_for(last)
            assert [(event.key, event.value) for event in seen[2:]] == [
                (key, None),
                (f"{key}2", b"2"),
            ]
            await stop(running)

    run_virtual(main())
