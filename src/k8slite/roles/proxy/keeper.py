"""Keeping the kernel's portal rules as desired: the one writer of netfilter in the process.

Changes are gathered while a commit runs and go out together. Every few seconds it asks whether the
rules are still there, which is cheap, and repairs what somebody else flushed; every minute, and
after any failure, it compares all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import Drifted, Edge, Locked, NetfilterError
from k8slite.netfilter.portals import DesiredRules
from k8slite.roles.proxy.telling.counters import ProxyCounters

log = structlog.get_logger()

#: Seconds between two looks at whether the rules are untouched, and between full comparisons.
LOOK_EVERY = 2.0
COMPARE_EVERY = 60.0

_BACKOFF = Backoff(initial=0.5, maximum=15.0)
_LOCKED_PAUSE = 1.0
_DRIFTING = Backoff(initial=0.01, maximum=1.0)
_ENDLESS = 8  # drifts in a row: more than a second of them


class PortalKeeper:
    """Converges the kernel to ``desired``.

    ``on_begin()`` is called when what is desired then is about to be written, ``on_written()``
    when that is in the kernel; ``on_trouble(text)`` each time that it could not be written;
    ``on_repaired()`` before ``on_written`` when rules may have been missing meanwhile.
    """

    def __init__(
        self,
        desired: DesiredRules,
        edge: Edge,
        clock: Clock,
        counters: ProxyCounters,
        *,
        on_begin: Callable[[], None],
        on_trouble: Callable[[str], None],
        on_written: Callable[[], None],
        on_repaired: Callable[[], None] = lambda: None,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.trouble = ""
        self._desired = desired
        self._edge = edge
        self._clock = clock
        self._counters = counters
        self._on_begin = on_begin
        self._on_trouble = on_trouble
        self._on_written = on_written
        self._on_repaired = on_repaired
        self._look_every = look_every
        self._dirty = asyncio.Event()
        self._compared: float | None = None  # when everything was last compared
        self._synced = False  # at least once
        self._failures = 0
        self._drifts = 0

    def changed(self) -> None:
        """``desired`` changed: write soon."""
        self._dirty.set()

    async def run(self) -> None:
        while True:
            try:
                await self._converge()
            except Drifted as drift:
                # Once is a coincidence; who keeps changing the rules is given time to end.
                self._compared = None
                self._drifts += 1
                if self._drifts >= _ENDLESS:
                    self._fail(f"{drift}; again and again: find what keeps changing the rules")
                if self._drifts > 1:
                    await self._clock.sleep(_DRIFTING.delay(self._drifts - 1))
                continue
            except NetfilterError as error:
                self._compared = None
                self._fail(str(error))
                await self._clock.sleep(self._pause(error))
                continue
            except Exception as error:  # a fault of ours: what stands in the kernel goes on
                log.exception("portal rules not written", role="proxy")
                self._compared = None
                self._fail(f"{type(error).__name__}: {error}; this is a fault of k8slite")
                await self._clock.sleep(_BACKOFF.delay(self._failures))
                continue
            self._drifts, self._failures, self.trouble = 0, 0, ""
            try:
                async with asyncio.timeout(self._look_every):
                    await self._dirty.wait()
            except TimeoutError:
                pass

    async def _converge(self) -> None:
        self._dirty.clear()
        self._on_begin()
        now = self._clock.monotonic()
        change = self._desired.take()
        due = self._compared is None or now - self._compared >= COMPARE_EVERY
        if not due and change:
            await self._edge.change(change)
            self._counters.rule_changes += 1
        elif due or not await self._edge.intact():
            mended = await self._edge.sync(self._desired.all())
            if mended and self._synced:
                self._on_repaired()
            self._synced = True
            if mended and self._compared is not None:
                log.warning(
                    "portal rules repaired",
                    role="proxy",
                    removed=len(mended.remove),
                    added=len(mended.add),
                )
            self._counters.rule_syncs += 1
            self._compared = now
        self._on_written()

    def _fail(self, text: str) -> None:
        self._counters.rule_failures += 1
        self._failures += 1
        if text != self.trouble:
            log.error("portal rules not written", role="proxy", error=text)
            self.trouble = text
        self._on_trouble(text)

    def _pause(self, error: NetfilterError) -> float:
        """A table that another tool holds is soon free again."""
        delay = _BACKOFF.delay(self._failures)
        return min(delay, _LOCKED_PAUSE) if isinstance(error, Locked) else delay
