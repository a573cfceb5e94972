"""A cluster moved from the embedded store to three members of etcd and back; moves that break."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from itertools import count
from pathlib import Path

import pytest
from tests.lab.etcd import EtcdCluster

from k8slite.api import codec
from k8slite.api.kinds import POD
from k8slite.api.meta import ObjectMeta
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.store import moving
from k8slite.store.base import Compacted, Create, Delete, KeyValue, Op, Put, Store, StoreUnavailable
from k8slite.store.contents import Contents
from k8slite.store.etcd_opening import open_etcd
from k8slite.store.moving import EtcdShelf, FileShelf, Shelf
from k8slite.store.sqlite import SqliteStore

ROOTS = count()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


@pytest.fixture
def there(three: EtcdCluster) -> EtcdShelf:
    settings = Settings(store="etcd", etcd=tuple(three.endpoints), etcd_root=f"/moved{next(ROOTS)}")
    return EtcdShelf(settings, Clock())


@pytest.fixture
def here(tmp_path: Path) -> FileShelf:
    return FileShelf(tmp_path / "store.db", Clock())


def pod(name: str) -> Op:
    meta = ObjectMeta(name=name, namespace="n", uid=f"uid-of-{name}")
    return Create(
        f"/registry/pods/n/{name}", codec.encode_stored(POD.new(kind="Pod", metadata=meta))
    )


async def begin(store: Store) -> dict[str, bytes]:
    """A cluster that has lived; what is worth moving of it."""
    for number in range(300):
        await store.commit([pod(f"p{number}")])
    for _ in range(200):
        await store.commit([Put("/registry/podcidrs/a", b"x")])
    kept = {item.key: item.value for item in (await store.scan("")).items}
    lease = await store.grant(3600)
    await store.commit([Put("/registry/events/n/e", b"event", lease)])
    sign = await store.grant(3600)
    await store.commit([Put("/registry/leases/nodes/n1", b"alive", sign)])
    return {**kept, "/registry/events/n/e": b"event"}


async def test_there_and_back_with_the_same_objects_and_revisions_that_only_grow(
    here: FileShelf, there: EtcdShelf, tmp_path: Path
) -> None:
    async with SqliteStore(here.path, Clock()) as store:
        before = await begin(store)
        first = await store.revision()
        order = [item.key for item in by_age((await store.scan("")).items) if item.key in before]

    moved = await moving.migrate(here, there)
    assert (moved.keys, moved.left_out, moved.source_revision) == (len(before), 1, first)
    async with open_etcd(there.settings, Clock(), compacts=True) as etcd:
        snapshot = await etcd.scan("")
        assert values(snapshot.items) == before
        ages = {item.key: item.mod_revision for item in snapshot.items}
        assert [ages[key] for key in order] == sorted(ages.values())
        assert min(item.mod_revision for item in snapshot.items) > first
        with pytest.raises(Compacted):
            await anext(etcd.watch("", first - 10))
        async with aclosing(etcd.watch("", snapshot.revision)) as watch:
            second = await etcd.commit([pod("in-etcd")])
            assert [event.revision for event in await anext(watch)] == [second]
        found = await etcd.get("/registry/pods/n/in-etcd")
        assert found is not None
        assert found.mod_revision == second > snapshot.revision > first
        before["/registry/pods/n/in-etcd"] = found.value

    back = FileShelf(tmp_path / "back" / "store.db", Clock())
    moved = await moving.migrate(there, back)
    assert moved.source_revision == second
    async with SqliteStore(back.path, Clock()) as store:
        snapshot = await store.scan("")
        assert values(snapshot.items) == before
        assert min(item.mod_revision for item in snapshot.items) > second
        assert await store.commit([pod("home")]) > snapshot.revision
        with pytest.raises(Compacted):
            await anext(store.watch("", second - 1))
    # The first one is as it was left.
    async with SqliteStore(here.path, Clock()) as store:
        assert await store.revision() == first


def values(items: Iterable[KeyValue]) -> dict[str, bytes]:
    return {item.key: item.value for item in items}


def by_age(items: Iterable[KeyValue]) -> list[KeyValue]:
    return sorted(items, key=lambda item: (item.mod_revision, item.key))


async def test_the_revisions_of_a_place_never_go_back(there: EtcdShelf) -> None:
    """Filled from far ahead, emptied, and filled from far behind."""
    newest = 0
    for turn, revision in enumerate((1_000_000, 7)):
        contents = Contents(revision, [KeyValue("/a", b"1", 5, 6)], {})
        if turn:
            async with open_etcd(there.settings, Clock(), compacts=False) as etcd:
                await etcd.commit([Delete("/a")])
        moved = await moving.restore(contents, there)
        assert moved.revision > max(newest, revision)
        newest = moved.revision


async def break_off(shelf: Shelf) -> None:
    async with shelf.filling(10) as store:
        await store.commit([Put("/half", b"1")])
        raise RuntimeError("pulled the plug")


async def test_a_move_that_broke_off_is_refused_by_agents_and_done_again(
    here: FileShelf, there: EtcdShelf
) -> None:
    async with SqliteStore(here.path, Clock()) as store:
        before = await begin(store)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        await break_off(there)
    with pytest.raises(StoreUnavailable, match=r"holds a half of a cluster.*run the same again"):
        await open_etcd(there.settings, Clock(), compacts=False).__aenter__()
    await moving.migrate(here, there)
    async with open_etcd(there.settings, Clock(), compacts=False) as etcd:
        assert values((await etcd.scan("")).items) == before


async def test_a_file_half_filled_is_never_the_store(here: FileShelf, there: EtcdShelf) -> None:
    with pytest.raises(RuntimeError, match="pulled the plug"):
        await break_off(here)
    assert not here.path.exists()
    await moving.restore(Contents(10, [KeyValue("/a", b"1", 5, 6)], {}), here)
    async with SqliteStore(here.path, Clock()) as store:
        assert values((await store.scan("")).items) == {"/a": b"1"}
    assert {file.name for file in here.path.parent.iterdir()} == {"store.db", "store.db.lock"}


async def test_a_place_in_etcd_that_is_not_empty_is_not_touched(
    here: FileShelf, there: EtcdShelf
) -> None:
    async with SqliteStore(here.path, Clock()) as store:
        await store.commit([pod("a")])
    async with open_etcd(there.settings, Clock(), compacts=False) as etcd:
        await etcd.commit([pod("other")])
        with pytest.raises(StoreUnavailable, match=r"is not empty: it holds 1 keys \(1 pods\)"):
            await moving.migrate(here, there)
        assert (await etcd.stats()).keys == 1


async def test_an_agent_on_the_embedded_store_is_named(here: FileShelf, there: EtcdShelf) -> None:
    async with SqliteStore(here.path, Clock()) as store:
        await store.commit([pod("a")])
        with pytest.raises(StoreUnavailable, match="in use by process"):
            await moving.migrate(here, there)


async def test_a_master_on_etcd_is_named(here: FileShelf, there: EtcdShelf) -> None:
    async with open_etcd(there.settings, Clock(), compacts=False) as etcd:
        lease = await etcd.grant(60)
        await etcd.commit([Put("/registry/leases/masters/192.168.0.10", b"{}", lease)])
        with pytest.raises(StoreUnavailable, match=r"192\.168\.0\.10 runs on this etcd"):
            await moving.migrate(there, here)
        assert not here.path.exists()


async def test_masters_learn_of_a_move_beneath_them(there: EtcdShelf) -> None:
    """A base that was raised ends every watch, so that what they know is listed again."""
    async with (
        open_etcd(there.settings, Clock(), compacts=False) as etcd,
        open_etcd(there.settings, Clock(), compacts=False, filling=True) as other,
    ):
        first = await etcd.commit([Put("/a", b"1")])
        waiting = asyncio.create_task(anext(etcd.watch("", first)))
        await asyncio.sleep(0)
        await other.begin_above(first + 1000)
        async with asyncio.timeout(10):
            with pytest.raises(Compacted):
                await waiting
        assert await etcd.revision() > first + 1000
        assert await etcd.commit([Put("/a", b"2")]) > first + 1000
