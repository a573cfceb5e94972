"""Virtual time: an event loop that jumps to its next timer instead of waiting for it.

``HandClock`` is the other kind: real sockets and threads on a loop of real time, while the time
that the code is told moves only by hand.

A simulated day takes as long as its callbacks do. The loop advances only when nothing is ready,
so the order of events is that of real time. Threads and real sockets do not belong here: the
loop treats "nothing ready" as "time may pass".
"""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

from k8slite.kit.clock import Clock

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits: a timeout becomes a jump of the clock."""

    elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("virtual time: every task waits and no timer is set")
            self.elapsed += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time; ``time()`` starts at zero."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class HandClock(Clock):
    """A clock that stands still until ``advance``; sleepers wake in the order of their times."""

    def __init__(self, epoch: float = 1_700_000_000.0, seed: int = 0) -> None:
        super().__init__(random.Random(seed))
        self._epoch = epoch
        self._elapsed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._epoch + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), sleeper))
        await sleeper

    async def wait(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        if seconds is None:
            await event.wait()
            return True
        set_ = asyncio.ensure_future(event.wait())
        due = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait({set_, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            set_.cancel()
            due.cancel()
        return event.is_set()

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; whoever wakes has had a few turns of the loop at its due time."""
        end = self._elapsed + seconds
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            if not self._sleepers or self._sleepers[0][0] > end:
                break
            self._elapsed, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)
        self._elapsed = end
