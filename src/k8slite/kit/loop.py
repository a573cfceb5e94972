"""An asyncio loop whose one wait can be shared by code that takes its events straight.

asyncio calls a Python object of its own for every event and cannot wait for edges. What moves
bytes for thousands of connections puts its descriptors into the same epoll, takes their events
first, and leaves the others to asyncio: neither waits for the other, and there is no second epoll
nested into the first.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Waits so many seconds (None: for ever) for so many events at most.
Poll = Callable[[float | None, int], list[tuple[int, int]]]

#: Events taken at once, before timers and everything else have their turn.
_BATCH = 128

_READ = select.EPOLLIN
_WRITE = select.EPOLLOUT


class SharedSelector(selectors.EpollSelector):
    """``epoll`` is the kernel's object; ``poll`` may be replaced by a function that handles some
    of its events itself and returns the others."""

    def __init__(self) -> None:
        super().__init__()
        self.epoll = select.epoll.fromfd(os.dup(self.fileno()))
        self.poll: Poll = self.epoll.poll
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._keys.pop(key.fd, None)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            events = self.poll(timeout if timeout is None or timeout > 0 else 0, _BATCH)
        except InterruptedError:
            return []
        ready = []
        for fd, event in events:
            key = self._keys.get(fd)
            if key is not None:
                # As the standard library's: an error wakes readers and writers alike.
                mask = (selectors.EVENT_WRITE if event & ~_READ else 0) | (
                    selectors.EVENT_READ if event & ~_WRITE else 0
                )
                ready.append((key, mask & key.events))
        return ready

    def close(self) -> None:
        super().close()
        self.epoll.close()


class SharedLoop(asyncio.SelectorEventLoop):
    """The standard loop over a ``SharedSelector``."""

    def __init__(self) -> None:
        self.selector = SharedSelector()
        super().__init__(self.selector)


def run_shared(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on a ``SharedLoop``."""
    with asyncio.Runner(loop_factory=SharedLoop) as runner:
        return runner.run(main)
