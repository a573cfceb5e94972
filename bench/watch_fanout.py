"""The watch cache: changes of one kind to a thousand streams, one of which never reads.

Beside it stands the same run in which everybody reads: a stalled stream must cost nothing.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from bench.table import Row
from k8slite.api import codec
from k8slite.api.kinds import POD, SCHEME
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.store.base import Create, Lagged, Put
from k8slite.store.cache import ChangeStream, WatchCache
from k8slite.store.memory import MemoryStore

WATCHERS, CHANGES, GOAL = 1_000, 2_000, 40_000
BOUND = 1_000
LISTED = 10_000


def stored(number: int) -> bytes:
    meta = ObjectMeta(
        name=f"pod-{number:05}",
        namespace="default",
        labels={"app": "bench", "number": str(number)},
        annotations={"note": "x" * 1200},
    )
    spec = PodSpec(containers=(Container(name="main", image="busybox"),))
    return codec.encode_stored(Pod(kind="Pod", metadata=meta, spec=spec))


@asynccontextmanager
async def followed() -> AsyncIterator[tuple[MemoryStore, WatchCache]]:
    clock = Clock()
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        task = asyncio.create_task(cache.run())
        await cache.wait_ready()
        yield store, cache
        task.cancel()
        await asyncio.wait({task})


async def fan_out(stalled: bool) -> tuple[float, float, bool]:
    """Events delivered a second, the worst delay in ms, whether the stalled one was told."""
    async with followed() as (store, cache):
        streams = [cache.changes(POD, cache.revision, bound=BOUND) for _ in range(WATCHERS)]
        idle = streams.pop() if stalled else None
        written: dict[int, float] = {}
        worst = 0.0

        async def read(stream: ChangeStream[Pod]) -> None:
            nonlocal worst
            left, size = CHANGES, 0
            async for batch in stream:
                size += len(b"".join([change.event_bytes("v1") for change in batch]))
                worst = max(worst, time.perf_counter() - written[batch[0].revision])
                left -= len(batch)
                if not left:
                    return

        readers = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(0)
        revision = cache.revision
        start = time.perf_counter()
        for number in range(CHANGES):
            written[revision + number + 1] = time.perf_counter()
            await store.commit([Put(f"/registry/pods/default/{number % 100}", stored(number))])
            if number % 4 == 3:
                await asyncio.sleep(0)
        await asyncio.gather(*readers)
        seconds = time.perf_counter() - start
        told = False
        if idle is not None:
            try:
                await anext(idle)
            except Lagged:
                told = True
        return CHANGES * len(streams) / seconds, worst * 1e3, told


async def listing() -> tuple[float, float, float]:
    """Milliseconds of a list of ready bytes after a change; milliseconds of a mere join of as
    many bytes; bytes of memory an entry takes beyond its data."""
    async with followed() as (store, cache):
        tracemalloc.start()
        await store.commit(
            [Create(f"/registry/pods/default/{n:05}", stored(n)) for n in range(LISTED)]
        )
        await cache.wait_for(await store.revision())
        table = cache.table(POD)
        blocks = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, f"*/store/{part}.py") for part in ("cache", "table", "entry")]
        )
        tracemalloc.stop()
        memory = sum(block.size for block in blocks.statistics("lineno"))
        took = []
        for number in range(20):
            revision = await store.commit([Put("/registry/pods/default/00000", stored(number))])
            await cache.wait_for(revision)
            start = time.perf_counter()
            b",".join([entry.data for entry in table.entries()])
            took.append(time.perf_counter() - start)
        parts = [entry.data for entry in table.entries()]
        start = time.perf_counter()
        b",".join(parts)
        joined = time.perf_counter() - start
        return sorted(took)[10] * 1e3, joined * 1e3, memory / LISTED


def rows() -> Iterator[Row]:
    everybody, _, _ = asyncio.run(fan_out(stalled=False))
    rate, worst, told = asyncio.run(fan_out(stalled=True))
    yield Row(
        f"watch cache, {WATCHERS:,} streams, one of them stalled",
        f"{rate:,.0f} events/s delivered, worst delay {worst:.0f} ms",
        f"nobody stalled: {everybody:,.0f}/s",
        f"≥ {GOAL:,}/s, the stalled one lags visibly",
        rate >= GOAL and told,
    )
    took, joined, memory = asyncio.run(listing())
    yield Row(
        f"watch cache, list of {LISTED:,} pods just after a change",
        f"{took:.1f} ms, {memory:,.0f} bytes an entry",
        f"joining ready bytes: {joined:.1f} ms",
    )
