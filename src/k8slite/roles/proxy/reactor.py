"""An edge-triggered epoll of the proxy's own, nested into the asyncio loop.

asyncio's transports copy every byte through Python objects and cannot say "tell me once". Here the
kernel reports each readiness once, handlers move bytes until the kernel says stop, and the asyncio
loop sees a single descriptor: it is readable when the inner epoll has something to report.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol

#: Everything a stream wants to know, each change reported once.
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

#: Events taken at once, and in all before the rest of the process has its turn (about 5 ms).
_BATCH = 128
_SHARE = 512


class Closable(Protocol):
    def close(self) -> None: ...


class Reactor:
    """Descriptors, their handlers, and the turns that long work takes.

    A handler gets the epoll events of its descriptor. What it wants closed it hands to ``close``:
    that happens after the batch, so that no event of the batch can meet a new descriptor of the
    same number.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._closing: list[Closable] = []
        self._turns: deque[Callable[[], None]] = deque()
        self._turn_due = False
        self._polling = False
        self._loop.add_reader(self._epoll.fileno(), self._poll)

    def add(self, fd: int, handler: Callable[[int], None], events: int = EDGES) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def replace(self, fd: int, handler: Callable[[int], None]) -> None:
        """Hand the coming events of ``fd`` to another handler."""
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Report nothing more about ``fd``; call before closing it. Unknown ones are no error."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Like ``remove`` for a descriptor about to be closed for good: the kernel takes a closed
        descriptor out of an epoll by itself."""
        self._handlers.pop(fd, None)

    def close(self, thing: Closable) -> None:
        """Close ``thing`` when the events at hand are handled."""
        if self._polling:
            self._closing.append(thing)
        else:
            thing.close()

    def again(self, turn: Callable[[], None]) -> None:
        """Call ``turn`` later, after everything else that is ready had its share."""
        self._turns.append(turn)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._take_turns)

    def shut(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._sweep()
        self._handlers.clear()
        self._turns.clear()
        self._epoll.close()

    def _poll(self) -> None:
        handlers = self._handlers
        left = _SHARE
        self._polling = True
        try:
            while left > 0 and (events := self._epoll.poll(0, _BATCH)):
                for fd, event in events:
                    handler = handlers.get(fd)
                    if handler is not None:
                        handler(event)
                if self._closing:
                    self._sweep()
                left -= len(events)
        finally:
            self._polling = False

    def _take_turns(self) -> None:
        self._turn_due = False
        turns, self._turns = self._turns, deque()
        for turn in turns:
            turn()

    def _sweep(self) -> None:
        closing, self._closing = self._closing, []
        for thing in closing:
            thing.close()
