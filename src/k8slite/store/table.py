"""All objects of one kind: found by key, listed in key order, with the latest changes behind.

A stream of changes is a position in the table's shared window of changes, so a change costs
nothing for each watcher but its waking, and a stalled watcher costs nothing at all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

import structlog

from k8slite.api.errors import Expired
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.store.base import Lagged
from k8slite.store.entry import Change, Entry

T = TypeVar("T", bound=Object)

log = structlog.get_logger()


class Table(Generic[T]):
    """The objects of one kind; written by the watch cache alone.

    ``history`` changes are kept for watches that resume, and at most ``history_bytes`` of object
    bytes in them. ``complete_after``: no change after this revision is missing from them.
    """

    def __init__(self, kind: Kind[T], *, history: int, history_bytes: int) -> None:
        self.kind = kind
        self.complete_after = 0
        self._found: dict[str, Entry[T]] = {}
        self._keys: list[str] = []  # sorted; _entries[i] is the entry of _keys[i]
        self._entries: list[Entry[T]] = []
        self._subscribers: dict[object, Callable[[Change[T]], None]] = {}
        self._object_readers: set[object] = set()
        self._history = history
        self._history_bytes = history_bytes
        self._window: list[Change[T]] = []
        self._window_start = 0  # the sequence number of _window[0]
        self._window_bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> Entry[T] | None:
        """By ``namespace/name``, or ``name``."""
        return self._found.get(key)

    def entries(self, namespace: str = "") -> Sequence[Entry[T]]:
        """All entries, or those of a namespace, in key order: a snapshot."""
        if not namespace:
            return self._entries.copy()
        # "0" follows "/" in the alphabet, so it closes the range.
        start = bisect_left(self._keys, f"{namespace}/")
        end = bisect_left(self._keys, f"{namespace}0", lo=start)
        return self._entries[start:end]

    def subscribe(
        self, callback: Callable[[Change[T]], None], *, reads_objects: bool = True
    ) -> Callable[[], None]:
        """Call ``callback`` for every change from now on, on the loop, in revision order.

        ``reads_objects`` False: it passes bytes on and mostly leaves ``entry.object`` alone, so
        structs need not be kept for it. Returns the way to unsubscribe.
        """
        token = object()
        self._subscribers[token] = callback
        if reads_objects:
            self._object_readers.add(token)

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)
            self._object_readers.discard(token)

        return unsubscribe

    @property
    def keeps_objects(self) -> bool:
        """Whether somebody will read the struct of the next change."""
        return bool(self._object_readers)

    def apply(self, change: Change[T]) -> None:
        """Make ``change`` visible and tell the subscribers."""
        entry = change.entry
        key = entry.key
        at = bisect_left(self._keys, key)
        if change.type == "DELETED":
            del self._found[key], self._keys[at], self._entries[at]
        elif key in self._found:
            self._found[key] = self._entries[at] = entry
        else:
            self._keys.insert(at, key)
            self._entries.insert(at, entry)
            self._found[key] = entry
        self._window.append(change)
        self._window_bytes += len(entry.data)
        for callback in tuple(self._subscribers.values()):
            try:
                callback(change)
            except Exception:
                # One role's fault must not stop the cache of all.
                log.exception("subscriber failed", kind=self.kind.kind, key=key)

    def load(self, entry: Entry[T]) -> None:
        """Put an entry of the first listing: it is no change, nobody is told."""
        at = bisect_left(self._keys, entry.key)
        self._keys.insert(at, entry.key)
        self._entries.insert(at, entry)
        self._found[entry.key] = entry

    def restart_history(self, revision: int) -> None:
        """Changes up to ``revision`` were seen as a difference only: no watch may resume there.

        Streams that are open receive them all the same.
        """
        self.complete_after = revision

    def settle(self) -> None:
        """After a run of ``apply``: wake the streams, let old changes go."""
        self._trim()
        for waiter in self._waiting:  # each removes itself when it runs
            if not waiter.done():
                waiter.set_result(None)

    def _trim(self) -> None:
        # An eighth at a time, so that the cost of moving the rest is spread out.
        excess = len(self._window) - self._history
        if excess <= self._history // 8 and self._window_bytes <= self._history_bytes:
            return
        drop = max(excess, 0)
        self._window_bytes -= sum(len(change.entry.data) for change in self._window[:drop])
        while self._window_bytes > self._history_bytes * 7 // 8 and drop < len(self._window):
            self._window_bytes -= len(self._window[drop].entry.data)
            drop += 1
        if drop:
            self.complete_after = max(self.complete_after, self._window[drop - 1].revision)
            del self._window[:drop]
            self._window_start += drop

    @property
    def end(self) -> int:
        """The sequence number that the next change will have."""
        return self._window_start + len(self._window)

    def place_after(self, revision: int) -> int:
        """The sequence number of the first change after ``revision``. Raises Expired."""
        if revision < self.complete_after:
            raise Expired(
                f"too old resource version: {revision} ({self.complete_after}); list again"
            )
        at = len(self._window)  # from the end: most watches resume from a moment ago
        while at and self._window[at - 1].revision > revision:
            at -= 1
        return self._window_start + at

    def since(self, place: int) -> list[Change[T]]:
        """The changes from sequence number ``place`` on. Raises Lagged when they are gone."""
        if place < self._window_start:
            raise Lagged
        return self._window[place - self._window_start :]

    def delivered_before(self, place: int) -> int | None:
        """Who has read up to sequence number ``place`` has everything up to this revision.

        None: everything there is. 0: its place is lost.
        """
        if place == self.end:
            return None
        if place < self._window_start:
            return 0
        return self._window[place - self._window_start].revision - 1

    async def changed(self, waiter: asyncio.Future[None]) -> None:
        """Wait until there are new changes, or somebody resolves ``waiter``."""
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)


class ChangeStream(Generic[T]):
    """The changes of a table after a revision, in order, each once.

    ``async for batch in stream`` gives lists of changes. Waiting may be cancelled (a timeout)
    without losing any. Raises Lagged when the receiver is more than ``bound`` changes behind.
    """

    def __init__(self, table: Table[T], after: int, bound: int, newest: Callable[[], int]) -> None:
        """Raises Expired when ``after`` is older than the kept window."""
        self._table = table
        self._place = table.place_after(after)
        self._after = after
        self._bound = bound
        self._newest = newest
        # What there is already is history that was asked for: it does not count as lagging.
        self._allowance = table.end
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Change[T]]:
        while True:
            if self._closed:
                raise StopAsyncIteration
            batch = self._take()
            if batch:
                return batch
            self._waiter = asyncio.get_running_loop().create_future()
            await self._table.changed(self._waiter)

    def _take(self) -> list[Change[T]]:
        end = self._table.end
        if end - max(self._place, self._allowance) > self._bound:
            raise Lagged
        if self._place == end:
            return []
        batch = self._table.since(self._place)
        self._place = end
        # A revision of the future may have been asked for.
        if batch[0].revision <= self._after:
            batch = [change for change in batch if change.revision > self._after]
        return batch

    @property
    def revision(self) -> int:
        """Everything up to this revision has been delivered: fit for a bookmark."""
        due = self._table.delivered_before(self._place)
        return max(self._after, self._newest() if due is None else due)

    def close(self) -> None:
        """End the stream, and the iteration of whoever waits for it."""
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
