"""Live events to the watches of one process, with history behind them.

A watch that falls behind loses its buffer, not its place: it reads the store's history from there
on and then joins the live events again. So memory is bounded and nothing is ever missed; only
history that is compacted meanwhile ends a watch, visibly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from itertools import chain

from k8slite.store.base import Compacted, Lagged, StoreEvent, StoreUnavailable

#: ``history(prefix, after, upto)`` → (events in whole transactions, revision reached ≤ upto).
#: Raises Compacted.
History = Callable[[str, int, int], Awaitable[tuple[list[StoreEvent], int]]]


class _Receiver:
    """The live end of one watch: at most ``bound`` events wait in it (or one transaction)."""

    def __init__(self, prefix: str, bound: int) -> None:
        self.prefix = prefix
        self._bound = bound
        self._batches: list[Sequence[StoreEvent]] = []
        self._count = 0
        self._arrived = asyncio.Event()
        self._lagged = False
        self._closed = False
        self._cut = 0
        self.resume_after = 0  # nothing that matches was lost up to here

    def offer(self, events: Sequence[StoreEvent]) -> None:
        if self._lagged:
            return
        if self.prefix:
            events = [event for event in events if event.key.startswith(self.prefix)]
        if not events:
            return
        if not self._batches:
            self.resume_after = events[0].revision - 1
        self._batches.append(events)
        self._count += len(events)
        if self._count > self._bound and len(self._batches) > 1:
            self._lagged = True
            self._batches.clear()
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def cut(self, oldest: int) -> None:
        """What follows does not join what was offered before."""
        self._cut = oldest
        self._arrived.set()

    async def take(self) -> list[StoreEvent]:
        """All events that wait. Raises Lagged, Compacted when the events were cut, and
        StoreUnavailable once the store is closed."""
        while self._cut or not self._batches:
            if self._cut:
                raise Compacted(self._cut)
            if self._lagged:
                raise Lagged
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._arrived.clear()
            await self._arrived.wait()
        events = list(chain.from_iterable(self._batches))
        self._batches.clear()
        self._count = 0
        return events


class WatchHub:
    """The watches of one store in one process. ``revision`` is the newest one dispatched."""

    def __init__(self, revision: int, *, bound: int = 4096) -> None:
        self.revision = revision
        self._bound = bound
        self._receivers: set[_Receiver] = set()
        self._closed = False

    def dispatch(self, revision: int, events: Sequence[StoreEvent]) -> None:
        """Hand over the events of one or several whole transactions up to ``revision``."""
        self.revision = revision
        for receiver in self._receivers:
            receiver.offer(events)

    def restart(self, revision: int) -> None:
        """Events were lost: what comes from now on comes after ``revision``. Every watch ends with
        Compacted."""
        self.revision = revision
        for receiver in self._receivers:
            receiver.cut(revision)

    def close(self) -> None:
        self._closed = True
        for receiver in self._receivers:
            receiver.close()

    async def watch(
        self, prefix: str, after: int, history: History
    ) -> AsyncGenerator[list[StoreEvent], None]:
        """The store contract's ``watch``: history first, then live, then history again if slow."""
        position = after
        while True:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            receiver = _Receiver(prefix, self._bound)
            live_after = self.revision
            self._receivers.add(receiver)
            try:
                while position < live_after:
                    events, position = await history(prefix, position, live_after)
                    if events:
                        yield events
                while True:
                    events = await receiver.take()
                    # A watch may ask for what is still to come.
                    if events[0].revision <= position:
                        events = [event for event in events if event.revision > position]
                    if events:
                        yield events
            except Lagged:
                position = max(position, receiver.resume_after)
            finally:
                self._receivers.discard(receiver)
