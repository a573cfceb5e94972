"""The embedded store: one SQLite file, one writer thread, group commit.

Requests that wait while the disk is busy are committed together, so the rate of durable writes
does not depend on the disk's rate of syncs; each keeps its own revision and its own outcome.

Current values stay on disk: the watch cache already holds every object in memory once, and
SQLite's own page cache is small. Reads (a listing at start, rare single keys, history for a
watch that fell behind) run on a reader thread against a snapshot and never wait for the writer.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog

from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.store.base import (
    KeyValue,
    Op,
    OutcomeUnknown,
    Snapshot,
    StoreError,
    StoreEvent,
    StoreStats,
    StoreUnavailable,
)
from k8slite.store.leases import LeaseDeadlines
from k8slite.store.sqlite_batch import Commit, Compact, Grant, Outcome, Request, Revoke, Writer
from k8slite.store.sqlite_file import FileLock, prepare, translated
from k8slite.store.sqlite_reader import Reader
from k8slite.store.transaction import require_well_formed
from k8slite.store.watching import WatchHub

log = structlog.get_logger()

T = TypeVar("T")

#: So many requests at most share one SQLite transaction.
_BATCH = 512

_Waiting = tuple[Request, "asyncio.Future[int]"]


class SqliteStore:
    """A ``Store`` in the file ``path``, which one process at a time may open.

    At least ``keep_revisions`` revisions of history are kept for watches, unless they hold more
    than ``keep_bytes`` bytes of values; older history goes by itself.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        keep_revisions: int = 10_000,
        keep_bytes: int = 64 << 20,
    ) -> None:
        self._path = path
        self._keep_revisions = keep_revisions
        self._keep_bytes = keep_bytes
        self._deadlines = LeaseDeadlines(clock, self._end_lease)
        self._hub = WatchHub(0)
        self._inbox: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._submitted: list[_Waiting] = []  # in this turn of the loop
        self._resources: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Raises StoreCorrupt, StoreUnavailable."""
        async with AsyncExitStack() as stack:
            self._loop = asyncio.get_running_loop()
            self._readers = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
            stack.callback(self._readers.shutdown)
            self._lock, self._writer, self._reader = await self._read(self._open)
            stack.push_async_callback(self._read, self._close)
            self._hub = WatchHub(self._writer.tip.revision)
            for lease, ttl in self._writer.tip.leases.items():
                self._deadlines.start(lease, ttl)
            ended = self._loop.create_future()
            threading.Thread(
                target=self._write, args=(ended,), name="store-writer", daemon=True
            ).start()
            stack.push_async_callback(self._stop_writer, ended)
            expiry = asyncio.create_task(self._deadlines.run(), name="store-leases")
            stack.push_async_callback(stop, expiry)
            stack.callback(self._hub.close)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        resources, self._resources = self._resources, None
        if resources is not None:
            await resources.aclose()

    def _require_open(self) -> None:
        if self._resources is None:
            raise StoreUnavailable("the store is closed")

    # -- reads ----------------------------------------------------------------------------------

    async def revision(self) -> int:
        self._require_open()
        return self._hub.revision

    async def get(self, key: str) -> KeyValue | None:
        self._require_open()
        return await self._read(self._reader.get, key)

    async def scan(self, prefix: str) -> Snapshot:
        self._require_open()
        return await self._read(self._reader.scan, prefix)

    def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        return self._hub.watch(prefix, after, self._past)

    async def _past(self, prefix: str, after: int, upto: int) -> tuple[list[StoreEvent], int]:
        self._require_open()
        return await self._read(self._reader.history, prefix, after, upto)

    async def stats(self) -> StoreStats:
        self._require_open()
        tip = self._writer.tip
        size = await self._read(self._reader.size)
        return StoreStats(tip.revision, tip.compacted, tip.keys, size)

    async def _read(self, function: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._readers, function, *args)

    # -- writes ---------------------------------------------------------------------------------

    async def commit(self, ops: Sequence[Op]) -> int:
        require_well_formed(ops)
        return await self._submit(Commit(tuple(ops)))

    async def compact(self, revision: int) -> None:
        self._require_open()
        if revision > self._hub.revision:
            raise ValueError(f"cannot compact at {revision}: the store is at {self._hub.revision}")
        await self._submit(Compact(revision))

    async def grant(self, ttl: float) -> int:
        lease = self._deadlines.new_id()
        # First, so that a caller who is cancelled leaves a lease behind that ends by itself.
        self._deadlines.start(lease, ttl)
        try:
            await self._submit(Grant(lease, ttl))
        except StoreError:
            self._deadlines.forget(lease)
            raise
        return lease

    async def keep_alive(self, lease: int) -> None:
        self._require_open()
        self._deadlines.renew(lease)

    async def revoke(self, lease: int) -> None:
        try:
            await self._submit(Revoke(lease))
        except asyncio.CancelledError:
            self._deadlines.start(lease, 0.0)  # whatever became of it, it is done again
            raise
        self._deadlines.forget(lease)

    async def _end_lease(self, lease: int) -> None:
        await self._submit(Revoke(lease))

    async def _submit(self, request: Request) -> int:
        """Have the writer do ``request``. A caller that is cancelled does not learn the outcome."""
        self._require_open()
        future: asyncio.Future[int] = self._loop.create_future()
        if not self._submitted:
            # Handed over at the end of this turn, so that all of its requests share a batch.
            self._loop.call_soon(self._hand_over)
        self._submitted.append((request, future))
        return await future

    def _hand_over(self) -> None:
        if self._submitted:
            self._inbox.put(self._submitted)
            self._submitted = []

    def _finish(self, waiting: Sequence[_Waiting], outcome: Outcome) -> None:
        """On the loop: the watches first, then those who wait for an answer."""
        if outcome.events:
            self._hub.dispatch(outcome.revision, outcome.events)
        for (_, future), answer in zip(waiting, outcome.answers, strict=True):
            if future.done():
                continue  # the caller was cancelled
            if isinstance(answer, StoreError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    # -- threads --------------------------------------------------------------------------------

    def _open(self) -> tuple[FileLock, Writer, Reader]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreUnavailable(
                f"the directory {self._path.parent} cannot be made: {error.strerror}"
            ) from error
        with ExitStack() as stack:
            lock = FileLock(self._path)
            stack.callback(lock.release)
            prepare(self._path)
            try:
                writer = Writer(
                    self._path, keep_revisions=self._keep_revisions, keep_bytes=self._keep_bytes
                )
                stack.callback(writer.close)
                reader = Reader(self._path)
            except sqlite3.Error as error:
                raise translated(error, self._path) from error
            stack.pop_all()
        return lock, writer, reader

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()
        self._lock.release()

    async def _stop_writer(self, ended: asyncio.Future[None]) -> None:
        self._hand_over()
        self._inbox.put(None)
        await ended

    def _write(self, ended: asyncio.Future[None]) -> None:
        """The writer thread: everything that waits becomes one batch."""
        more = True
        while more:
            waiting = self._inbox.get()
            while waiting is not None and len(waiting) < _BATCH:
                try:
                    further = self._inbox.get_nowait()
                except queue.Empty:
                    break
                if further is None:
                    more = False
                    break
                waiting += further
            if waiting is None:
                break
            outcome = self._write_batch([request for request, _ in waiting])
            self._loop.call_soon_threadsafe(self._finish, waiting, outcome)
        self._loop.call_soon_threadsafe(ended.set_result, None)

    def _write_batch(self, requests: Sequence[Request]) -> Outcome:
        try:
            return self._writer.write(requests)
        except Exception as error:
            # A fault of ours; the writer must outlive it, or every later write would hang.
            log.exception("store writer failed")
            unknown = OutcomeUnknown(f"the store failed while it wrote: {error!r}")
            return Outcome(self._writer.tip.revision, [unknown] * len(requests))
