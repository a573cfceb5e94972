"""Stores for the contract suite. A further implementation adds a ``Stores`` and its name below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from k8slite.kit.virtual import HandClock
from k8slite.store.base import Store
from k8slite.store.memory import MemoryStore
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


IMPLEMENTATIONS = {"memory": MemoryStores, "sqlite": SqliteStores}


@pytest.fixture(params=IMPLEMENTATIONS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    made = IMPLEMENTATIONS[request.param](tmp_path)
    async with made.opened:
        yield made


@pytest.fixture
async def store(stores: Stores) -> Store:
    return await stores.open()
