"""The keyed work queue: an event only says that a key is worth a look.

The promises (those of client-go's util/workqueue): a key that waits is kept once however often it
is added; a key is never worked on twice at once; a key added while it is worked on comes back
afterwards; failures come back later and later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from k8slite.kit.backoff import Backoff

K = TypeVar("K", bound=Hashable)

log = structlog.get_logger()


class WorkQueue(Generic[K]):
    """An unbounded set of keys (bounded by the number of objects), worked in order of arrival."""

    def __init__(self, name: str, backoff: Backoff | None = None) -> None:
        self.name = name
        self._backoff = backoff or Backoff(initial=0.005, maximum=60.0)
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()  # in _ready, or to be put there once done
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is worked on (timers may be pending)."""
        return not self._waiting and not self._working

    def add(self, key: K) -> None:
        """Ask for a look at ``key`` now."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._ready.append(key)
            self._arrived.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a look at ``key`` in ``seconds``; the earliest request wins."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        # asyncio runs timers up to its clock's resolution early; asking anew for that tiny rest
        # must let time go on, or virtual time stands still for ever.
        due = loop.time() + max(seconds, 1e-6)
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._expire, key)

    def _expire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> K:
        """Wait for the next key and mark it as worked on. Pair with ``done``."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on ``key`` ended; if it was added meanwhile it becomes ready again."""
        self._working.discard(key)
        if key in self._waiting:
            self._ready.append(key)
            self._arrived.set()

    def forget(self, key: K) -> None:
        """``key`` went well: its back-off starts anew."""
        self._failures.pop(key, None)

    def retry(self, key: K) -> float:
        """``key`` failed: look again after its back-off, in seconds, which is returned."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = self._backoff.delay(failures)
        self.add_after(key, delay)
        return delay

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    def close(self) -> None:
        """Cancel every pending timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def work(self, converge: Callable[[K], Awaitable[None]], *, workers: int = 1) -> None:
        """Run ``converge(key)`` for every key until cancelled; failures come back later."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._worker(converge), name=f"{self.name}-{number}")
        finally:
            self.close()

    async def _worker(self, converge: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self.get()
            try:
                await converge(key)
            except Exception as error:
                delay = self.retry(key)
                log.warning(
                    "converge failed",
                    queue=self.name,
                    key=str(key),
                    error=str(error) or repr(error),
                    retry_in=round(delay, 3),
                    exc_info=self.failures(key) == 3,
                )
            else:
                self.forget(key)
            finally:
                self.done(key)
            # A converge that never waits must not keep the loop from everybody else.
            await asyncio.sleep(0)
