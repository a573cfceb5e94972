"""etcd's members die, freeze and come back under a client that writes and watches throughout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import count

import pytest
from tests.lab.etcd import EtcdCluster, EtcdMember
from tests.store.etcd_load import loaded, until

from k8slite.kit.clock import Clock
from k8slite.store import etcd_move
from k8slite.store.base import Compacted, Create, Put, StoreUnavailable
from k8slite.store.etcd import EtcdStore

ROOTS = count()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(three: EtcdCluster) -> EtcdCluster:
    """Three members, all of them healthy."""
    three.start()
    return three


@pytest.fixture
async def store(cluster: EtcdCluster) -> AsyncIterator[EtcdStore]:
    root = f"/outage{next(ROOTS)}"
    async with EtcdStore(cluster.endpoints, Clock(), root=root) as store:
        yield store


@pytest.fixture
def follower(cluster: EtcdCluster) -> EtcdMember:
    """A member that does not lead: without it, the others need no election."""
    leader = cluster.leader()
    return next(member for member in cluster.members if member is not leader)


@pytest.fixture
async def at_follower(cluster: EtcdCluster, follower: EtcdMember) -> AsyncIterator[EtcdStore]:
    """A store that uses this member, and knows of the others."""
    root = f"/outage{next(ROOTS)}"
    async with EtcdStore([follower.endpoint], Clock(), root=root) as store:
        store.pool.endpoints = tuple(cluster.endpoints)
        yield store


def in_use(cluster: EtcdCluster, store: EtcdStore) -> EtcdMember:
    member = store.pool.in_use
    assert member is not None
    return cluster.at(member.endpoint)


async def test_the_member_in_use_is_killed_and_comes_back(
    cluster: EtcdCluster, store: EtcdStore
) -> None:
    async with loaded(store) as load:
        victim = in_use(cluster, store)
        victim.kill()
        await load.more(100)
        assert load.longest_gap < 20
        victim.start()
        await asyncio.to_thread(victim.wait_healthy)


async def test_the_leader_is_killed(cluster: EtcdCluster, store: EtcdStore) -> None:
    async with loaded(store) as load:
        victim = cluster.leader()
        victim.kill()
        await load.more(100)
        assert load.longest_gap < 20


async def test_the_member_in_use_freezes_and_thaws(cluster: EtcdCluster, store: EtcdStore) -> None:
    async with loaded(store) as load:
        victim = in_use(cluster, store)
        with cluster.frozen(victim):
            await load.more(100)
            assert in_use(cluster, store) is not victim
            assert load.longest_gap < 20
        await load.more(20)


async def test_the_leader_freezes_and_thaws(cluster: EtcdCluster, store: EtcdStore) -> None:
    async with loaded(store) as load:
        with cluster.frozen(cluster.leader()):
            await load.more(100)
        await load.more(20)


async def test_reads_cost_a_frozen_endpoint_two_seconds_and_the_next_nothing(
    cluster: EtcdCluster, follower: EtcdMember, at_follower: EtcdStore
) -> None:
    store = at_follower
    await store.commit([Create("/a", b"1")])
    with cluster.frozen(follower):
        start = time.monotonic()
        assert await store.get("/a") is not None
        first = time.monotonic() - start
        start = time.monotonic()
        assert await store.get("/a") is not None
        assert time.monotonic() - start < first
        assert first < 15  # two, on a machine that has nothing else to do


async def test_an_idle_watch_leaves_a_frozen_member(
    cluster: EtcdCluster, follower: EtcdMember, at_follower: EtcdStore
) -> None:
    store = at_follower
    elsewhere = [member.endpoint for member in cluster.members if member is not follower]
    async with EtcdStore(elsewhere, Clock(), root=store.place.root) as other:
        async with aclosing(store.watch("/", await store.revision())) as watch:
            waiting = asyncio.create_task(anext(watch))
            with cluster.frozen(follower):
                # Only the other process knows of this write.
                revision = await other.commit([Put("/a", b"1")])
                async with asyncio.timeout(30):
                    (event,) = await waiting
            assert event.revision == revision


async def test_the_majority_is_lost_and_comes_back(cluster: EtcdCluster, store: EtcdStore) -> None:
    async with loaded(store) as load:
        victims = cluster.members[:2]
        for victim in victims:
            victim.kill()
        refused = load.refused
        await until(lambda: load.refused > refused, 30)
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.get("/count")
        assert time.monotonic() - start < 20
        for victim in victims:
            victim.start()
        await load.more(100)


async def test_all_members_restart_in_turn(cluster: EtcdCluster, store: EtcdStore) -> None:
    async with loaded(store) as load:
        for member in cluster.members:
            member.stop()
            member.start()
            await asyncio.to_thread(member.wait_healthy)
            await load.more(20)


async def test_a_watch_that_was_away_while_history_was_compacted_says_so(
    cluster: EtcdCluster, store: EtcdStore
) -> None:
    """All of this process' connections are gone while another one writes and compacts."""
    await store.commit([Put("/a", b"0")])
    watch = store.watch("/", await store.revision())
    waiting = asyncio.create_task(anext(watch))
    cut = in_use(cluster, store)
    survivors = [member for member in cluster.members if member is not cut]
    store.pool.endpoints = (cut.endpoint,)
    cut.kill()
    ways = [member.endpoint for member in survivors]
    async with EtcdStore(ways, Clock(), root=store.place.root) as other:
        for number in range(10):
            last = await other.commit([Put("/a", b"%d" % number)])
        await other.compact(last)
    cut.start()
    async with asyncio.timeout(30):
        with pytest.raises(Compacted) as caught:
            await waiting
    assert caught.value.oldest >= last
    # The list that follows has everything, and a watch after it goes on.
    snapshot = await store.scan("/")
    assert snapshot.items[0].value == b"9"
    async with aclosing(store.watch("/", snapshot.revision)) as again:
        waiting = asyncio.create_task(anext(again))
        await asyncio.sleep(0)
        last = await store.commit([Put("/a", b"new")])
        assert (await waiting)[0].revision == last


async def test_a_lease_outlives_the_leader(cluster: EtcdCluster, store: EtcdStore) -> None:
    lease = await store.grant(5)
    await store.commit([Put("/leased", b"", lease)])
    cluster.leader().kill()
    for _ in range(6):
        await asyncio.sleep(1)
        await store.keep_alive(lease)
    assert await store.get("/leased") is not None


async def test_health_names_the_member_that_is_down(cluster: EtcdCluster, store: EtcdStore) -> None:
    down = cluster.members[1]
    down.kill()
    await asyncio.to_thread(cluster.leader)
    found = {member.name: member for member in await etcd_move.health(store)}
    assert found[down.name].trouble == "connection refused"
    up = [member for name, member in found.items() if name != down.name]
    assert [member.trouble for member in up] == ["", ""]
    assert [member.leader for member in up].count(True) == 1
