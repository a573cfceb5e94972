"""The registry's hand on the store: commits, waits for the cache, and keeps errors apart.

KeyExists, Mismatch and LeaseGone are facts that the registry decides upon and pass through;
StoreUnavailable becomes Unavailable (nothing happened), OutcomeUnknown becomes UnknownOutcome
(nobody knows).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from k8slite.api import codec
from k8slite.api.errors import Unavailable, UnknownOutcome
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.admission.request import Request
from k8slite.roles.apiserver.leases import EventLeases
from k8slite.store.base import (
    Create,
    Delete,
    KeyExists,
    LeaseGone,
    Mismatch,
    Op,
    OutcomeUnknown,
    Store,
    StoreUnavailable,
    Update,
)
from k8slite.store.cache import Entry, WatchCache

T = TypeVar("T", bound=Object)

#: How long an acknowledged write waits for the cache before it is answered without it, seconds.
PATIENCE = 5.0


class Fence(Protocol):
    """What must hold for a leader's writes (``roles.election.Fence``)."""

    key: str

    def op(self) -> Op:
        """Raises Unavailable once the lead is lost."""
        ...


class Transactions:
    """A store and the cache that follows it."""

    def __init__(
        self,
        store: Store,
        cache: WatchCache,
        leases: EventLeases,
        clock: Clock,
        fence: Fence | None = None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._leases = leases
        self._fence = fence

    def fenced(self, fence: Fence) -> Transactions:
        """The same, for a leader: each transaction holds only while it leads."""
        return Transactions(self._store, self._cache, self._leases, self._clock, fence)

    async def insert(self, request: Request[T], further: Sequence[Op]) -> Entry[T]:
        """Create ``request.obj``, and ``further`` with it. Raises KeyExists, Mismatch, LeaseGone,
        Unavailable, UnknownOutcome."""
        kind, obj = request.kind, request.obj
        stored = codec.encode_stored(obj)
        if request.dry_run:
            if self._cache.table(kind).get(obj.key) is not None:
                raise KeyExists(store_key(kind, obj))
            return _tried(kind, obj, stored)
        lease = await self._lease(kind)
        revision = await self.commit([Create(store_key(kind, obj), stored, lease), *further])
        return self._entry(kind, obj.key, revision, revision, stored)

    async def replace(self, request: Request[T], further: Sequence[Op]) -> Entry[T]:
        """Replace ``request.entry`` by ``request.obj`` unless they are equal. Raises as insert."""
        kind, obj, entry = request.kind, request.obj, _there(request)
        if obj == entry.object:
            await self._require_current(entry)
            return entry
        stored = codec.encode_stored(obj)
        if request.dry_run:
            return _tried(kind, obj, stored, entry.revision)
        lease = await self._lease(kind)
        update = Update(store_key(kind, obj), stored, entry.revision, lease)
        revision = await self.commit([update, *further])
        return self._entry(kind, entry.key, revision, entry.create_revision, stored)

    async def remove(self, request: Request[T], further: Sequence[Op]) -> Entry[T]:
        """Delete ``request.entry``; the answer is ``request.obj``. Raises as ``insert``."""
        kind, obj, entry = request.kind, request.obj, _there(request)
        stored = codec.encode_stored(obj)
        if request.dry_run:
            return _tried(kind, obj, stored, entry.revision)
        revision = await self.commit([Delete(store_key(kind, obj), entry.revision), *further])
        return Entry(kind, entry.key, revision, entry.create_revision, stored)

    async def commit(self, ops: Sequence[Op]) -> int:
        """Apply ``ops`` and wait until the cache shows it; the revision."""
        fence = self._fence
        try:
            if fence is not None:
                ops = [*ops, fence.op()]
            revision = await self._store.commit(ops)
        except LeaseGone:
            self._leases.forget()
            raise
        except Mismatch as error:
            if fence is None or error.key != fence.key:
                raise
            raise Unavailable("another master leads now", retry_after=1) from error
        except StoreUnavailable as error:
            raise Unavailable(f"the store cannot be written: {error}", retry_after=1) from error
        except OutcomeUnknown as error:
            raise UnknownOutcome(
                f"the store did not say, the write may have happened: {error}"
            ) from error
        if self._cache.revision < revision:
            await self._clock.sleep(0)  # mostly the cache needs but its turn on the loop
        if self._cache.revision < revision:
            # An acknowledged write is answered even when the cache is in trouble.
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._cache.wait_for(revision)
            except TimeoutError:
                pass
        return revision

    async def catch_up(self) -> None:
        """Wait until the cache shows every write acknowledged before this call.

        Raises Unavailable when store or cache cannot say.
        """
        try:
            revision = await self._store.revision()
            if self._cache.revision < revision:
                async with asyncio.timeout(PATIENCE):
                    await self._cache.wait_for(revision)
        except (StoreUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"the store cannot be read: {error}", retry_after=1) from error
        except TimeoutError as error:
            raise Unavailable("the cache is behind the store", retry_after=1) from error

    async def _require_current(self, entry: Entry[Any]) -> None:
        """Nothing to write only if nobody wrote meanwhile, at another master as it may be.

        Raises Mismatch, Unavailable.
        """
        await self.catch_up()
        found = self._cache.table(entry.kind).get(entry.key)
        revision = 0 if found is None else found.revision
        if revision != entry.revision:
            raise Mismatch(entry.kind.prefix + entry.key, revision)

    async def _lease(self, kind: Kind[Any]) -> int:
        if kind.ttl_seconds is None:
            return 0
        try:
            return await self._leases.current()
        except StoreUnavailable as error:
            raise Unavailable(f"the store cannot be written: {error}", retry_after=1) from error

    def _entry(
        self, kind: Kind[T], key: str, revision: int, create_revision: int, stored: bytes
    ) -> Entry[T]:
        """The cache's entry at ``revision``, or one like it when the cache has moved on."""
        found = self._cache.table(kind).get(key)
        if found is not None and found.revision == revision:
            return found
        return Entry(kind, key, revision, create_revision, stored)


def _there(request: Request[T]) -> Entry[T]:
    assert request.entry is not None, "replace and remove are for what is there"
    return request.entry


def store_key(kind: Kind[T], obj: T) -> str:
    return kind.store_key(obj.metadata.namespace, obj.metadata.name)


def _tried(kind: Kind[T], obj: T, stored: bytes, revision: int = 0) -> Entry[T]:
    """What a dry run answers; an object that was never created has no resourceVersion."""
    entry = Entry(kind, obj.key, revision, revision, stored)
    if not revision:
        entry.data = stored
    return entry
