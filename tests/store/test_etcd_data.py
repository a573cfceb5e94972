"""etcd's data: lost, older than they were, compacted, too many, and shared with others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.lab.etcd import EtcdCluster
from tests.store.etcd_load import persist, until

from k8slite.api import codec
from k8slite.api.kinds import POD, SCHEME
from k8slite.api.meta import ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.store.base import Compacted, Create, Delete, Op, OutcomeUnknown, Put, StoreUnavailable
from k8slite.store.cache import WatchCache
from k8slite.store.etcd import EtcdStore


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path) as cluster:
        yield cluster


def pod(name: str, label: str) -> Op:
    meta = ObjectMeta(name=name, namespace="n", labels={"label": label})
    return Put(f"/registry/pods/n/{name}", codec.encode_stored(POD.new(kind="Pod", metadata=meta)))


def labels(cache: WatchCache) -> dict[str, str]:
    return {
        entry.key: (entry.object.metadata.labels or {})["label"]
        for entry in cache.table(POD).entries()
    }


@pytest.mark.parametrize("left", ["an older copy", "nothing"])
async def test_data_that_are_older_than_they_were_are_listed_again_and_revisions_grow(
    alone: EtcdCluster, left: str
) -> None:
    (member,) = alone.members
    data, copy = member.directory / "data", member.directory / "copy"
    async with EtcdStore(alone.endpoints, Clock(), root="/k8slite") as store:
        cache = WatchCache(store, SCHEME, Clock())
        running = asyncio.create_task(cache.run())
        await store.commit([pod("a", "old"), pod("b", "old")])
        member.stop()
        shutil.copytree(data, copy)
        member.start()
        for number in range(20):
            newest = await persist(store, pod("a", f"{number}"), pod("c", "new"))
        await cache.wait_for(newest)
        member.stop()
        member.forget()
        if left == "an older copy":
            shutil.copytree(copy, data)
        member.start()

        expected = {"n/a": "old", "n/b": "old"} if left == "an older copy" else {}
        await until(lambda: labels(cache) == expected and cache.revision > newest, 30)
        assert await store.revision() > newest
        again = await store.commit([pod("d", "again")])
        assert again > newest
        await cache.wait_for(again)
        assert labels(cache) == {**expected, "n/d": "again"}
        with pytest.raises(Compacted):
            await anext(store.watch("", newest))
        await stop(running)
    async with EtcdStore(alone.endpoints, Clock(), root="/k8slite") as store:
        assert await store.revision() == again


async def test_history_is_compacted_by_itself_and_enough_of_it_stays(alone: EtcdCluster) -> None:
    async with (
        EtcdStore(
            alone.endpoints, Clock(), root="/k", keep_revisions=100, compact_every=0.2
        ) as store,
        EtcdStore(
            alone.endpoints, Clock(), root="/k", keep_revisions=100, compact_every=0.2
        ) as other,
    ):
        start = await store.revision()
        async with aclosing(store.watch("", start)) as watch:
            seen = 0
            for turn in range(10):
                for one in (store, other):
                    await asyncio.gather(
                        *(one.commit([Put(f"/{n}", b"%d" % turn)]) for n in range(50))
                    )
                seen += len(await anext(watch))
            while seen < 1000:  # who watches all along is not disturbed
                seen += len(await anext(watch))
            async with asyncio.timeout(30):
                while (stats := await store.stats()).compacted < start + 300:
                    await Clock().sleep(0.05)
            assert stats.revision - stats.compacted >= 100
            with pytest.raises(Compacted):
                await anext(store.watch("", start))


async def test_no_space_is_told_with_the_mend_and_reads_go_on(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, flags=["--quota-backend-bytes=2000000"]) as cluster:
        async with EtcdStore(cluster.endpoints, Clock(), root="/k8slite") as store:
            written: list[str] = []

            async def fill() -> None:
                for number in range(200):
                    await store.commit([Create(f"/{number:03}", bytes(100_000))])
                    written.append(f"/{number:03}")

            with pytest.raises(OutcomeUnknown, match=r"no space left.*k8slite store compact"):
                await fill()
            there = [item.key for item in (await store.scan("/")).items]
            assert there in (written, [*written, f"/{len(written):03}"])


async def test_what_the_server_refuses_is_refused_clearly(alone: EtcdCluster) -> None:
    async with EtcdStore(alone.endpoints, Clock(), root="/k") as store:
        before = await store.revision()
        with pytest.raises(StoreUnavailable, match="refuses a request of that size"):
            await store.commit([Put("/a", bytes(4 << 20))])
        assert await store.revision() == before
        await store.commit([Put("/a", bytes(1_400_000))])


async def test_a_transaction_larger_than_the_server_allows_names_its_flag(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, flags=["--max-txn-ops=128"]) as cluster:
        async with EtcdStore(cluster.endpoints, Clock()) as store:
            await store.commit([Put(f"/{n}", b"") for n in range(128)])
            with pytest.raises(StoreUnavailable, match="--max-txn-ops"):
                await store.commit([Put(f"/{n}", b"") for n in range(129)])


async def test_two_roots_in_one_etcd_do_not_see_or_delay_each_other(alone: EtcdCluster) -> None:
    async with (
        EtcdStore(alone.endpoints, Clock(), root="/one") as one,
        EtcdStore(alone.endpoints, Clock(), root="/one2") as two,
    ):
        mine = await one.commit([Create("/a", b"1"), Create("/b", b"1")])
        mine = await one.commit([Delete("/b")])
        for number in range(20):
            await two.commit([Put("/a", b"%d" % number)])
        # Who waits until a watch shows this revision waits for nothing of the others.
        assert await one.revision() == mine
        assert [item.value for item in (await one.scan("")).items] == [b"1"]
        async with aclosing(one.watch("", mine)) as watch:
            last = await one.commit([Put("/a", b"2")])
            assert [event.revision for event in await anext(watch)] == [last]


async def test_an_endpoint_of_another_cluster_is_never_followed(
    alone: EtcdCluster, tmp_path: Path
) -> None:
    """A member that was made anew by mistake is a cluster of its own, and empty."""
    with EtcdCluster(tmp_path / "stranger") as stranger:
        endpoints = [*alone.endpoints, *stranger.endpoints]
        async with EtcdStore(endpoints, Clock(), root="/k") as store:
            await store.commit([Create("/a", b"1")])
            alone.stop()
            with pytest.raises(StoreUnavailable, match="belongs to another etcd cluster"):
                await store.get("/a")
            alone.start()
            assert await store.get("/a") is not None
