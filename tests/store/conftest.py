"""Stores for the contract suite. A further implementation adds a ``Stores`` and its name below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest
from aetcd import rpc
from tests.lab.etcd import EtcdCluster

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.virtual import HandClock
from k8slite.store.base import Store
from k8slite.store.etcd import EtcdStore
from k8slite.store.memory import MemoryStore
from k8slite.store.moving import EtcdShelf, FileShelf, Shelf
from k8slite.store.sqlite import SqliteStore


class Stores:
    """Opens stores of one implementation and lets time pass for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = HandClock()
        self.opened = AsyncExitStack()

    def make(self) -> Store:
        raise NotImplementedError

    async def open(self) -> Store:
        return await self.opened.enter_async_context(self.make())

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class MemoryStores(Stores):
    def make(self) -> Store:
        return MemoryStore(self.clock)


class SqliteStores(Stores):
    def make(self) -> Store:
        return SqliteStore(self.directory / "store.db", self.clock)


_roots = count()


class QuickEtcdStore(EtcdStore):
    """Its leases last a fifth of what is asked for: etcd's time is the world's."""

    async def grant(self, ttl: float) -> int:
        return await super().grant(ttl / 5)


class EtcdStores(Stores):
    """A root of its own in the one etcd of the session."""

    def __init__(self, directory: Path, cluster: EtcdCluster) -> None:
        super().__init__(directory)
        self.cluster = cluster
        self.root = f"/test{next(_roots)}"

    def make(self) -> Store:
        return QuickEtcdStore(self.cluster.endpoints, Clock(), root=self.root)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 5)


async def end_leases(endpoints: list[str]) -> None:
    """So that none of them changes anything in a test to come."""
    async with EtcdStore(endpoints, Clock()) as store:
        member = await store.pool.member()
        found = await member.ask(member.leases.LeaseLeases, rpc.LeaseLeasesRequest(), 5)
        for lease in found.leases:
            await store.revoke(lease.ID)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One real etcd for the whole session."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


IMPLEMENTATIONS = {"memory": MemoryStores, "sqlite": SqliteStores}


@pytest.fixture(params=[*IMPLEMENTATIONS, "etcd"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "etcd":
        cluster = request.getfixturevalue("etcd")
        made: Stores = EtcdStores(tmp_path, cluster)
        async with made.opened:
            yield made
        await end_leases(cluster.endpoints)
        return
    made = IMPLEMENTATIONS[request.param](tmp_path)
    async with made.opened:
        yield made


@pytest.fixture
async def store(stores: Stores) -> Store:
    return await stores.open()


def shelf_of_stores(stores: Stores) -> Shelf | None:
    """The store of ``stores`` as a command line names it; None for one in memory."""
    if isinstance(stores, SqliteStores):
        return FileShelf(stores.directory / "store.db", Clock())
    if isinstance(stores, EtcdStores):
        settings = Settings(
            store="etcd", etcd=tuple(stores.cluster.endpoints), etcd_root=stores.root
        )
        return EtcdShelf(settings, Clock())
    return None
