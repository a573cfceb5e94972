"""A client that writes and watches throughout an outage, and the check of what it was told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from k8slite.kit.tasks import stop
from k8slite.store.base import (
    Create,
    Mismatch,
    Op,
    OutcomeUnknown,
    Store,
    StoreEvent,
    StoreUnavailable,
    Update,
)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for ``condition``, at most ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.02)


async def persist(store: Store, *ops: Op) -> int:
    """Commit what may be done twice, however often it takes."""
    for _ in range(100):
        try:
            return await store.commit(ops)
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.1)
    raise AssertionError("the store never came back")


@dataclass
class Load:
    """What was told: ``created`` key → revision; ``unknown`` may be there or not."""

    store: Store
    created: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    refused: int = 0
    count: int = 0  # acknowledged updates of /count
    unsure: int = 0
    events: list[StoreEvent] = field(default_factory=list)
    longest_gap: float = 0.0  # seconds between two acknowledgements
    last: float = field(default_factory=time.monotonic)
    stopping: bool = False

    def acknowledged(self) -> None:
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now

    async def create(self, writer: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            key = f"/keys/{writer}/{number:06}"
            try:
                revision = await self.store.commit([Create(key, key.encode())])
            except StoreUnavailable:
                self.refused += 1
            except OutcomeUnknown:
                self.unknown.add(key)
            else:
                self.created[key] = revision
                self.acknowledged()
            await asyncio.sleep(0.002)

    async def increment(self) -> None:
        """Compare-and-set of one counter: every acknowledged step counts once."""
        while not self.stopping:
            try:
                found = await self.store.get("/count")
                assert found is not None
                value = b"%d" % (int(found.value) + 1)
                await self.store.commit([Update("/count", value, found.mod_revision)])
            except (StoreUnavailable, Mismatch):
                self.refused += 1
            except OutcomeUnknown:
                self.unsure += 1
            else:
                self.count += 1
                self.acknowledged()
            await asyncio.sleep(0.002)

    async def watch(self, after: int) -> None:
        async with aclosing(self.store.watch("", after)) as watch:
            async for events in watch:
                self.events += events

    async def more(self, count: int = 30) -> None:
        """Wait until ``count`` more keys have been created and acknowledged."""
        goal = len(self.created) + count
        await until(lambda: len(self.created) >= goal, 40)

    async def check(self) -> None:
        """What was acknowledged is there once and was seen once, in order; nothing else is."""
        last = await self.store.commit([Create("/end", b"")])
        await until(lambda: bool(self.events) and self.events[-1].revision >= last, 20)
        items = {item.key: item for item in (await self.store.scan("/keys/")).items}
        for key, revision in self.created.items():
            assert key in items, f"acknowledged and lost: {key}"
            assert items[key].mod_revision == revision
        assert set(items) - set(self.created) <= self.unknown
        revisions = [event.revision for event in self.events]
        assert revisions == sorted(set(revisions)), "an event twice or out of order"
        seen = {event.key: event.revision for event in self.events if "/keys/" in event.key}
        assert seen == {key: item.mod_revision for key, item in items.items()}
        counter = await self.store.get("/count")
        assert counter is not None
        assert self.count <= int(counter.value) <= self.count + self.unsure
        counts = [int(event.value or 0) for event in self.events if event.key == "/count"]
        assert counts == list(range(1, int(counter.value) + 1))


@asynccontextmanager
async def loaded(store: Store) -> AsyncIterator[Load]:
    """``store`` written and watched; checked at the end."""
    start = await store.commit([Create("/count", b"0")])
    load = Load(store)
    watching = asyncio.create_task(load.watch(start))
    tasks = [asyncio.create_task(load.create(number)) for number in range(4)]
    tasks += [asyncio.create_task(load.increment())]
    try:
        await load.more()
        yield load
        await load.more()
        load.stopping = True
        await asyncio.gather(*tasks)
        await load.check()
    finally:
        for task in [*tasks, watching]:
            await stop(task)
