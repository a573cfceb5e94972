"""The watch cache: one watch of the store, one copy of every object, for the whole process.

Reads, lists and watches of the API, and the informers of every role, are served from here. An
``Entry`` is one object at one revision: its wire bytes exist already, its struct is decoded when
somebody first asks (law 6).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any, TypeVar, cast

import structlog

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind, Scheme
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.store.base import Compacted, KeyValue, Snapshot, Store, StoreError, StoreEvent
from k8slite.store.entry import Change, ChangeType, Entry
from k8slite.store.mutation import MutationDetector
from k8slite.store.table import ChangeStream, Table

__all__ = ["Change", "ChangeStream", "ChangeType", "Entry", "Table", "WatchCache"]

T = TypeVar("T", bound=Object)

log = structlog.get_logger()

#: The loop is given a turn after so many keys.
_TURN = 256


class WatchCache:
    """Tables of every stored kind, kept current by ``run``.

    ``history`` changes of each kind are kept for watches that resume, ``history_bytes`` bytes at
    most. ``undecodable`` maps store keys whose value is no object of their kind to the reason;
    they are in no table. ``detect_mutation`` makes a changed shared object an error (tests).
    ``prefix``: keys outside of it are not read.
    """

    def __init__(
        self,
        store: Store,
        scheme: Scheme,
        clock: Clock,
        *,
        prefix: str = "",
        history: int = 10_000,
        history_bytes: int = 8 << 20,
        detect_mutation: bool = False,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._tables: dict[str, Table[Any]] = {
            kind.prefix: Table(kind, history=history, history_bytes=history_bytes)
            for kind in scheme
            if not kind.virtual
        }
        self._of_kind = {table.kind.kind: table for table in self._tables.values()}
        self._others: dict[str, KeyValue] = {}  # keys of no kind
        self._prefix_callbacks: dict[int, tuple[str, Callable[[StoreEvent], None]]] = {}
        self._tokens = count()
        self.undecodable: dict[str, str] = {}
        self._revision = 0
        self._ready = asyncio.Event()
        self._when_ready: list[Callable[[], None]] = []
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by revision
        self._backoff = Backoff(initial=0.1, maximum=5.0)
        self.mutations = MutationDetector() if detect_mutation else None

    @property
    def revision(self) -> int:
        """Every change up to this revision is applied; 0 before the first listing."""
        return self._revision

    def table(self, kind: Kind[T]) -> Table[T]:
        """Raises KeyError for a kind that is not stored."""
        return cast("Table[T]", self._of_kind[kind.kind])

    async def wait_ready(self) -> None:
        """Wait for the first listing of the store."""
        await self._ready.wait()

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, right after the first listing and before any change. A listing
        that has happened is no reason to call: what it brought can be read."""
        if not self._ready.is_set():
            self._when_ready.append(callback)

    async def wait_for(self, revision: int) -> None:
        """Wait until every change up to ``revision`` is applied."""
        if self._revision < revision:
            waiter = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (revision, next(self._tokens), waiter))
            await waiter

    def changes(self, kind: Kind[T], after: int, *, bound: int = 1000) -> ChangeStream[T]:
        """Every change of ``kind`` after revision ``after``; see ChangeStream. Raises Expired."""
        return ChangeStream(self.table(kind), after, bound, lambda: self._revision)

    def watch_prefix(
        self, prefix: str, callback: Callable[[StoreEvent], None]
    ) -> Callable[[], None]:
        """Call ``callback`` for every key of no kind under ``prefix`` (as a creation, at once),
        and for every change from now on; returns the way to unsubscribe."""
        for key in sorted(key for key in self._others if key.startswith(prefix)):
            item = self._others[key]
            callback(StoreEvent(key, item.mod_revision, item.value, item.create_revision))
        token = next(self._tokens)
        self._prefix_callbacks[token] = (prefix, callback)

        def unsubscribe() -> None:
            self._prefix_callbacks.pop(token, None)

        return unsubscribe

    async def run(self) -> None:
        """List, watch, and start again after trouble with the store, until cancelled."""
        failures = 0
        listed = False
        while True:
            before = self._revision
            try:
                if not listed:
                    await self._list()
                    listed = True
                await self._follow()
            except Compacted as error:
                log.warning("watch cache fell behind; lists again", error=str(error))
                listed = False
            except StoreError as error:
                failures = 1 if self._revision > before else failures + 1
                delay = self._backoff.delay(failures)
                log.warning("store trouble", error=str(error), retry_in=round(delay, 3))
                await self._clock.sleep(delay)

    async def _list(self) -> None:
        snapshot = await self._store.scan(self._prefix)
        if self._ready.is_set():
            await self._resync(snapshot)
        else:
            await self._load(snapshot)
            self._ready.set()
            self._revision = snapshot.revision
            for callback in self._when_ready:
                callback()
            self._when_ready.clear()
        self._settle(snapshot.revision, self._tables.values())

    async def _follow(self) -> None:
        async with aclosing(self._store.watch(self._prefix, self._revision)) as batches:
            async for events in batches:
                await self._apply(events)

    # -- applying -------------------------------------------------------------------------------

    async def _apply(self, events: Sequence[StoreEvent]) -> None:
        touched: set[Table[Any]] = set()
        done = revision = self._revision
        begun = 0  # the first event of this turn of the loop
        for number, event in enumerate(events):
            if event.revision != revision:
                done, revision = revision, event.revision
                if number - begun >= _TURN:
                    self._settle(done, touched)
                    touched.clear()
                    begun = number
                    await self._clock.sleep(0)
            table = self._table_of(event.key)
            if table is None:
                self._apply_other(event)
            else:
                self._apply_event(table, event)
                touched.add(table)
        self._settle(revision, touched)

    def _settle(self, revision: int, tables: Iterable[Table[Any]]) -> None:
        self._revision = revision
        for table in tables:
            table.settle()
        while self._waiting and self._waiting[0][0] <= revision:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _table_of(self, key: str) -> Table[Any] | None:
        # Prefixes have three or four slashes: /registry/pods/, /registry/services/specs/.
        third = key.find("/", key.find("/", 1) + 1) + 1
        table = self._tables.get(key[:third])
        if table is None:
            table = self._tables.get(key[: key.find("/", third) + 1])
        return table

    def _apply_event(self, table: Table[Any], event: StoreEvent) -> None:
        kind = table.kind
        key = event.key[len(kind.prefix) :]
        previous = table.get(key)
        entry = None
        if event.value is not None:
            entry = self._entry(table, key, event.revision, event.create_revision, event.value)
        elif event.key in self.undecodable:
            del self.undecodable[event.key]
        if entry is not None:
            kept = "ADDED" if previous is None else "MODIFIED"
            self._change(table, Change(cast(ChangeType, kept), entry.revision, entry, previous))
        elif previous is not None:
            self._change(table, _deletion(previous, event.revision))

    def _entry(
        self, table: Table[Any], key: str, revision: int, created: int, value: bytes
    ) -> Entry[Any] | None:
        """None, and a line in the log, when ``value`` is no object of the kind."""
        store_key = table.kind.prefix + key
        try:
            entry = Entry(table.kind, key, revision, created, value)
            entry.require_decodable(keep=table.keeps_objects)
        except ValueError as error:  # msgspec's errors are ValueErrors
            self.undecodable[store_key] = str(error)
            log.error("object in the store cannot be read", key=store_key, error=str(error))
            return None
        self.undecodable.pop(store_key, None)
        return entry

    def _change(self, table: Table[Any], change: Change[Any]) -> None:
        if self.mutations is not None:
            self.mutations.replace(change)
        table.apply(change)

    def _apply_other(self, event: StoreEvent) -> None:
        if event.value is None:
            self._others.pop(event.key, None)
        else:
            self._others[event.key] = KeyValue(
                event.key, event.value, event.create_revision, event.revision
            )
        for prefix, callback in tuple(self._prefix_callbacks.values()):
            if event.key.startswith(prefix):
                try:
                    callback(event)
                except Exception:
                    log.exception("prefix callback failed", key=event.key)

    # -- listing --------------------------------------------------------------------------------

    async def _load(self, snapshot: Snapshot) -> None:
        """The first listing: nobody has seen anything yet, so there are no changes."""
        for number, item in enumerate(snapshot.items):
            if number % _TURN == _TURN - 1:
                await self._clock.sleep(0)
            table = self._table_of(item.key)
            if table is None:
                self._apply_other(_creation(item))
                continue
            key = item.key[len(table.kind.prefix) :]
            entry = self._entry(table, key, item.mod_revision, item.create_revision, item.value)
            if entry is not None:
                table.load(entry)
                if self.mutations is not None:
                    self.mutations.remember(entry)
        for table in self._tables.values():
            table.restart_history(snapshot.revision)

    async def _resync(self, snapshot: Snapshot) -> None:
        """A later listing: the difference to what is known becomes changes.

        Deletions come first and carry the first revision they may have happened at, so that a
        client that resumes elsewhere after any of these changes is never shown too little.
        """
        gone_at = self._revision + 1
        current = {item.key: item for item in snapshot.items}
        for store_key in list(self.undecodable):
            if store_key not in current:
                del self.undecodable[store_key]
        for table in self._tables.values():
            for entry in table.entries():
                item = current.get(table.kind.prefix + entry.key)
                if item is None or item.create_revision != entry.create_revision:
                    self._change(table, _deletion(entry, gone_at))
            table.settle()
            await self._clock.sleep(0)
        for key, known in list(self._others.items()):
            if key not in current:
                self._apply_other(
                    StoreEvent(key, gone_at, None, known.create_revision, known.value)
                )
        # The store's order of keys is not that of time.
        fresh = sorted(
            (item for item in snapshot.items if item.mod_revision > self._revision),
            key=lambda item: item.mod_revision,
        )
        for number, item in enumerate(fresh):
            if number % _TURN == _TURN - 1:
                await self._clock.sleep(0)
            found = self._table_of(item.key)
            if found is None:
                self._apply_other(_creation(item))
            else:
                self._apply_event(found, _creation(item))
        for table in self._tables.values():
            table.restart_history(snapshot.revision)


def _creation(item: KeyValue) -> StoreEvent:
    return StoreEvent(item.key, item.mod_revision, item.value, item.create_revision)


def _deletion(entry: Entry[Any], revision: int) -> Change[Any]:
    return Change("DELETED", revision, entry.deleted_at(revision), entry)
