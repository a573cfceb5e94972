"""The proxy's share of the loop's epoll: edge-triggered, straight from the kernel to a handler.

asyncio's transports copy every byte through Python objects and cannot say "tell me once". Here the
kernel reports each readiness once and a handler moves bytes until the kernel says stop. The events
come out of the same wait as asyncio's (``kit.loop``), in batches, so an idle proxy costs the rest
of the process nothing and a busy one costs it a batch at a time.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol

from k8slite.kit.loop import SharedLoop

#: That there is something to read, or everything a stream may want to know; each change once.
READS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
EDGES = READS | select.EPOLLOUT

#: Seconds that a batch of events takes, and the turns of long work after it, before everything else
#: in the process has its turn; and the events that are taken however long they take.
_SHARE = 0.002
_FEWEST, _MOST = 8, 128


class Closable(Protocol):
    def close(self) -> object: ...


class Reactor:
    """Descriptors, their handlers, and the turns that long work takes.

    A handler gets the epoll events of its descriptor. What it wants closed it hands to ``close``:
    that happens after the batch, so that no event of the batch can meet a new descriptor of the
    same number. Made inside the loop; raises RuntimeError when that cannot be shared.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SharedLoop):
            raise RuntimeError("the proxy runs in a kit.loop.SharedLoop: start with run_shared()")
        self._loop = loop
        self._epoll = loop.selector.epoll
        self._wait = loop.selector.poll
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._closing: list[Closable] = []
        self._turns: deque[Callable[[], None]] = deque()
        self._polling = False
        self._bite = _FEWEST  # events to take at once: as many as fit the share, by the last ones
        loop.selector.poll = self._poll

    def add(self, fd: int, handler: Callable[[int], None], events: int = EDGES) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def replace(self, fd: int, handler: Callable[[int], None]) -> None:
        """Hand the coming events of ``fd`` to another handler."""
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Report these of ``fd``'s events from now on, and at once those that are due."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Report nothing more about ``fd``; call before closing it. Unknown ones are no error.

        Closing alone would not do: a process that is just being started holds a copy until it runs
        its program, and meanwhile the kernel would go on reporting the old connection by a number
        that may be a new one's.
        """
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, thing: Closable) -> None:
        """Close ``thing`` when the events at hand are handled."""
        if self._polling:
            self._closing.append(thing)
        else:
            thing.close()

    def again(self, turn: Callable[[], None]) -> None:
        """Call ``turn`` later, after everything else that is ready had its share."""
        self._turns.append(turn)

    def shut(self) -> None:
        """Hand the epoll back without any descriptor of ours."""
        if self._loop.selector.poll == self._poll:  # else another stands before us: we let pass
            self._loop.selector.poll = self._wait
        for fd in tuple(self._handlers):
            self.remove(fd)
        self._sweep()
        self._turns.clear()

    def _poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        """Wait, handle what is ours, and return the events of others."""
        events = self._wait(0 if self._turns else timeout, min(limit, self._bite))
        others = []
        handlers = self._handlers
        self._polling = True
        start = self._loop.time()
        for fd, event in events:
            handler = handlers.get(fd)
            if handler is None:
                others.append((fd, event))
                continue
            try:
                handler(event)
            except Exception as error:  # one connection's trouble is not the others'
                self._report(error)
        if ours := len(events) - len(others):
            took = self._loop.time() - start
            self._bite = max(_FEWEST, min(_MOST, int(ours * _SHARE / (took or _SHARE))))
        if self._turns:
            self._take_turns()
        self._polling = False
        if self._closing:
            self._sweep()
        return others

    def _take_turns(self) -> None:
        """Each at most once, as long as the share lasts."""
        end = self._loop.time() + _SHARE
        for _ in range(len(self._turns)):
            try:
                self._turns.popleft()()
            except Exception as error:
                self._report(error)
            if self._loop.time() >= end:
                return

    def _sweep(self) -> None:
        closing, self._closing = self._closing, []
        for thing in closing:
            thing.close()

    def _report(self, error: Exception) -> None:
        context = {"message": "proxy: a handler failed", "exception": error}
        self._loop.call_exception_handler(context)
