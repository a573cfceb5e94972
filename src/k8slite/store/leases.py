"""Lease deadlines: kept in memory, so that a keep-alive costs no disk write.

After a restart every lease has its whole ttl again: the store was away, not the holders.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable

import structlog

from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.store.base import LeaseGone, StoreError

log = structlog.get_logger()

_RETRY = Backoff(initial=0.5, maximum=30.0)


class LeaseDeadlines:
    """When which lease ends. ``expire(lease)`` deletes an ended lease's keys in the store."""

    def __init__(self, clock: Clock, expire: Callable[[int], Awaitable[None]]) -> None:
        self._clock = clock
        self._expire = expire
        self._ttl: dict[int, float] = {}
        self._deadline: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []  # may hold deadlines that have moved on
        self._sooner = asyncio.Event()

    def __contains__(self, lease: int) -> bool:
        return lease in self._ttl

    def new_id(self) -> int:
        """An id that no lease has: random, so that a stale id never names somebody else's."""
        while True:
            lease = self._clock.rng.getrandbits(62) + 1
            if lease not in self._ttl:
                return lease

    def start(self, lease: int, ttl: float) -> None:
        deadline = self._clock.monotonic() + ttl
        self._ttl[lease] = ttl
        self._deadline[lease] = deadline
        heapq.heappush(self._queue, (deadline, lease))
        if self._queue[0][1] == lease:
            self._sooner.set()

    def renew(self, lease: int) -> None:
        """Raises LeaseGone."""
        ttl = self._ttl.get(lease)
        if ttl is None:
            raise LeaseGone(f"lease {lease} ended or never was")
        self._deadline[lease] = self._clock.monotonic() + ttl

    def forget(self, lease: int) -> None:
        self._ttl.pop(lease, None)
        self._deadline.pop(lease, None)

    async def run(self) -> None:
        """End leases when they are due, until cancelled. Sleeps while there is none."""
        failures = 0
        ended: list[int] = []
        while True:
            ended += self._due()
            try:
                while ended:
                    await self._expire(ended[0])
                    del ended[0]
                failures = 0
            except StoreError as error:
                failures += 1
                log.warning("lease not ended yet", lease=ended[0], error=str(error))
            await self._wait(_RETRY.delay(failures) if ended else None)

    def _due(self) -> list[int]:
        now = self._clock.monotonic()
        ended = []
        while self._queue and self._queue[0][0] <= now:
            _, lease = heapq.heappop(self._queue)
            deadline = self._deadline.get(lease)
            if deadline is None:
                continue
            if deadline > now:  # it was kept alive since
                heapq.heappush(self._queue, (deadline, lease))
                continue
            self.forget(lease)
            ended.append(lease)
        return ended

    async def _wait(self, at_most: float | None) -> None:
        """Until the next deadline, a sooner one, or ``at_most`` seconds."""
        self._sooner.clear()
        delay = at_most
        if self._queue:
            until = max(0.0, self._queue[0][0] - self._clock.monotonic())
            delay = until if delay is None else min(delay, until)
        await self._clock.wait(self._sooner, delay)
