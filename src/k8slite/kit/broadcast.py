"""One sender, many receivers, every buffer bounded.

A receiver that falls behind by more than its bound is closed visibly (``Lagged``): it may start
again from a fresh list; nobody else ever waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lagged(Exception):
    """The receiver was too slow and lost its place."""


class Receiver(Generic[T]):
    """One bounded queue of a ``Broadcast``."""

    def __init__(self, owner: Broadcast[T], bound: int) -> None:
        self._owner = owner
        self._bound = bound
        self._items: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._lagged = False

    def offer(self, item: T) -> None:
        if self._lagged:
            return
        if len(self._items) >= self._bound:
            self._lagged = True
            self._items.clear()
        else:
            self._items.append(item)
        self._arrived.set()

    async def take(self) -> list[T]:
        """Wait for items and return all that are there, in order. Raises Lagged."""
        while not self._items:
            if self._lagged:
                raise Lagged
            self._arrived.clear()
            await self._arrived.wait()
        items = list(self._items)
        self._items.clear()
        return items

    def close(self) -> None:
        self._owner.remove(self)


class Broadcast(Generic[T]):
    """A set of receivers."""

    def __init__(self) -> None:
        self._receivers: dict[int, Receiver[T]] = {}

    def __len__(self) -> int:
        return len(self._receivers)

    def join(self, bound: int = 1000) -> Receiver[T]:
        receiver = Receiver(self, bound)
        self._receivers[id(receiver)] = receiver
        return receiver

    def remove(self, receiver: Receiver[T]) -> None:
        self._receivers.pop(id(receiver), None)

    def send(self, item: T) -> None:
        for receiver in self._receivers.values():
            receiver.offer(item)
