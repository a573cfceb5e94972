"""The stores: durable creates and updates, reads, and opening the embedded one again.

Beside the embedded store stands SQLite alone, in the same directory and the same run: the same
rows, written from one thread in batches of sixteen by hand, each batch synced. Beside the store on
etcd stands aetcd alone against the same etcd: the same transactions, without compares, watch or
fail-over.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aetcd import rpc
from tests.lab.etcd import EtcdCluster

from bench.table import Row
from k8slite.kit.clock import Clock
from k8slite.store.base import Create, Put
from k8slite.store.etcd import EtcdStore
from k8slite.store.sqlite import SqliteStore

KEYS, IN_FLIGHT, GOAL = 30_000, 128, 20_000
ETCD_KEYS = 15_000
ONE_BY_ONE = 2_000
VALUE = b"x" * 1900  # a pod


@dataclass
class Rate:
    per_second: float
    p50: float  # milliseconds
    p99: float

    def __str__(self) -> str:
        return f"{self.per_second:,.0f}/s, p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms"


async def rate(write: Callable[[int], Awaitable[int]], count: int, in_flight: int) -> Rate:
    """Call ``write(0)`` to ``write(count - 1)``, ``in_flight`` at a time."""
    numbers = iter(range(count))
    took: list[float] = []

    async def writer() -> None:
        for number in numbers:
            start = time.perf_counter()
            await write(number)
            took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(in_flight)))
    seconds = time.perf_counter() - start
    took.sort()
    return Rate(count / seconds, took[count // 2] * 1e3, took[count * 99 // 100] * 1e3)


def by_hand(folder: Path, batch: int) -> float:
    """Rows a second of SQLite alone, ``batch`` rows a synced transaction."""
    connection = sqlite3.connect(folder / f"by-hand-{batch}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE item (key TEXT PRIMARY KEY, value BLOB)")
    count = KEYS if batch > 1 else ONE_BY_ONE
    start = time.perf_counter()
    for first in range(0, count, batch):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO item VALUES (?, ?)",
            [(f"/registry/pods/default/{n:07}", VALUE) for n in range(first, first + batch)],
        )
        connection.execute("COMMIT")
    seconds = time.perf_counter() - start
    connection.close()
    return count / seconds


async def measure(folder: Path) -> list[Row]:
    path = folder / "store.db"
    async with SqliteStore(path, Clock()) as store:

        async def create(number: int) -> int:
            return await store.commit([Create(f"/registry/pods/default/{number:07}", VALUE)])

        async def put(number: int) -> int:
            return await store.commit([Put(f"/registry/pods/default/{number:07}", VALUE)])

        alone = await rate(lambda number: put(KEYS + number % 100), ONE_BY_ONE, 1)
        created = await rate(create, KEYS, IN_FLIGHT)
        updated = await rate(put, KEYS, IN_FLIGHT)
        start = time.perf_counter()
        await store.scan("")
        scanned = time.perf_counter() - start
        size = (await store.stats()).bytes
    start = time.perf_counter()
    async with SqliteStore(path, Clock()):
        opened = time.perf_counter() - start
    by_sixteen, by_one = by_hand(folder, 16), by_hand(folder, 1)
    what = "embedded store, durable"
    return [
        Row(
            f"{what} creates, {IN_FLIGHT} in flight",
            str(created),
            f"SQLite alone, batches of 16: {by_sixteen:,.0f}/s",
            f"≥ {GOAL:,}/s",
            created.per_second >= GOAL,
        ),
        Row(f"{what} updates, {IN_FLIGHT} in flight", str(updated)),
        Row(f"{what} updates, one at a time", str(alone), f"SQLite alone: {by_one:,.0f}/s"),
        Row(f"embedded store, list of {KEYS:,} keys", f"{scanned * 1e3:.0f} ms"),
        Row(
            f"embedded store, check and open {size / 1e6:.0f} MB",
            f"{opened * 1e3:.0f} ms",
        ),
    ]


async def aetcd_alone(endpoint: str) -> Rate:
    """Transactions that create one key, straight through aetcd's stubs."""
    channel = rpc.insecure_channel(endpoint.partition("://")[2])
    kv = rpc.KVStub(channel)

    async def create(number: int) -> int:
        key = f"/alone/pods/default/{number:07}".encode()
        put = rpc.PutRequest(key=key, value=VALUE)
        compare = rpc.Compare(key=key, target=1, create_revision=0)
        reply = await kv.Txn(
            rpc.TxnRequest(compare=[compare], success=[rpc.RequestOp(request_put=put)])
        )
        return int(reply.header.revision)

    alone = await rate(create, ETCD_KEYS, IN_FLIGHT)
    await channel.close()
    return alone


async def measure_etcd(endpoint: str) -> list[Row]:
    alone = await aetcd_alone(endpoint)
    async with EtcdStore([endpoint], Clock(), root="/bench") as store:

        async def create(number: int) -> int:
            return await store.commit([Create(f"/registry/pods/default/{number:07}", VALUE)])

        created = await rate(create, ETCD_KEYS, IN_FLIGHT)
        one_by_one = await rate(lambda number: create(ETCD_KEYS + number), ONE_BY_ONE // 2, 1)
        start = time.perf_counter()
        listed = len((await store.scan("")).items)
        scanned = time.perf_counter() - start
    what = "store on etcd (one member)"
    return [
        Row(
            f"{what}, durable creates, {IN_FLIGHT} in flight",
            str(created),
            f"aetcd alone: {alone}",
        ),
        Row(f"{what}, durable creates, one at a time", str(one_by_one)),
        Row(f"{what}, list of {listed:,} keys", f"{scanned * 1e3:.0f} ms"),
    ]


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk, which /tmp may not be
        yield from asyncio.run(measure(Path(folder)))
        with EtcdCluster(Path(folder)) as cluster:
            yield from asyncio.run(measure_etcd(cluster.endpoints[0]))
