"""The store in memory: the contract at its plainest. For tests, simulation and throw-away clusters.

It keeps nothing across a restart, so "durable" means as long as the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.store.base import (
    Compacted,
    Delete,
    KeyValue,
    Op,
    Snapshot,
    StoreEvent,
    StoreStats,
    StoreUnavailable,
)
from k8slite.store.leases import LeaseDeadlines
from k8slite.store.transaction import evaluate, require_well_formed
from k8slite.store.watching import WatchHub

_FIRST_REVISION = 1  # of the empty store


class MemoryStore:
    """A ``Store`` of dicts. ``keep_revisions`` transactions of history are kept for watches."""

    def __init__(self, clock: Clock, *, keep_revisions: int = 10_000) -> None:
        self._revision = _FIRST_REVISION
        self._compacted = 0
        self._keep = keep_revisions
        self._keys: dict[str, KeyValue] = {}
        self._by_lease: dict[int, set[str]] = {}
        self._history: deque[list[StoreEvent]] = deque()  # a list is a transaction
        self._hub = WatchHub(self._revision)
        self._deadlines = LeaseDeadlines(clock, self._end_lease)
        self._expiry: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._expiry = asyncio.create_task(self._deadlines.run(), name="store-leases")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.close()
        if self._expiry is not None:
            expiry, self._expiry = self._expiry, None
            await stop(expiry)

    def _require_open(self) -> None:
        if self._expiry is None:
            raise StoreUnavailable("the store is closed")

    async def revision(self) -> int:
        self._require_open()
        return self._revision

    async def get(self, key: str) -> KeyValue | None:
        self._require_open()
        return self._keys.get(key)

    async def scan(self, prefix: str) -> Snapshot:
        self._require_open()
        keys = sorted(key for key in self._keys if key.startswith(prefix))
        return Snapshot(self._revision, [self._keys[key] for key in keys])

    async def commit(self, ops: Sequence[Op]) -> int:
        require_well_formed(ops)
        self._require_open()
        return self._apply(ops)

    def _apply(self, ops: Sequence[Op]) -> int:
        revision = self._revision + 1
        writes = evaluate(ops, self._keys.get, self._by_lease, revision)
        if not writes:
            return self._revision
        self._revision = revision
        for new, old in writes:
            if old is not None and old.lease:
                self._by_lease.get(old.lease, set()).discard(old.key)
            if new is None:
                assert old is not None
                del self._keys[old.key]
            else:
                self._keys[new.key] = new
                if new.lease:
                    self._by_lease[new.lease].add(new.key)
        events = [write.event(revision) for write in writes]
        self._history.append(events)
        if len(self._history) > self._keep:
            self._compacted = self._history.popleft()[0].revision
        self._hub.dispatch(revision, events)
        return revision

    def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        return self._hub.watch(prefix, after, self._past)

    async def _past(self, prefix: str, after: int, upto: int) -> tuple[list[StoreEvent], int]:
        if after < self._compacted:
            raise Compacted(self._compacted)
        # Every revision is one entry of the history, so a revision's place is known.
        skip = max(0, len(self._history) - (self._revision - after))
        found = [
            event
            for events in islice(self._history, skip, None)
            for event in events
            if after < event.revision <= upto and event.key.startswith(prefix)
        ]
        return found, upto

    async def compact(self, revision: int) -> None:
        self._require_open()
        if revision > self._revision:
            raise ValueError(f"cannot compact at {revision}: the store is at {self._revision}")
        while self._history and self._history[0][0].revision <= revision:
            self._history.popleft()
        self._compacted = max(self._compacted, revision)

    async def grant(self, ttl: float) -> int:
        self._require_open()
        lease = self._deadlines.new_id()
        self._by_lease[lease] = set()
        self._deadlines.start(lease, ttl)
        return lease

    async def keep_alive(self, lease: int) -> None:
        self._require_open()
        self._deadlines.renew(lease)

    async def revoke(self, lease: int) -> None:
        self._require_open()
        self._deadlines.forget(lease)
        await self._end_lease(lease)

    async def _end_lease(self, lease: int) -> None:
        keys = self._by_lease.get(lease, set())
        self._apply([Delete(key) for key in sorted(keys)])
        self._by_lease.pop(lease, None)

    async def stats(self) -> StoreStats:
        self._require_open()
        size = sum(len(item.key) + len(item.value) for item in self._keys.values())
        return StoreStats(self._revision, self._compacted, len(self._keys), size)
