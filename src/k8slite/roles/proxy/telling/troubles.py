"""What is wrong with services on this node: said once as an event, kept as a condition while it
lasts.

The condition (``decide.serving``) is written when the trouble has lasted a moment, and taken away
when it is over. A service is written at most once for each change and never in quick succession;
so many services have a condition of this node and no more. Whoever starts takes away those of its
node that are no longer true.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

import structlog
from msgspec.structs import replace

from k8slite.api.errors import Conflict, NotFound
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import Object
from k8slite.client.base import Informer
from k8slite.decide import serving
from k8slite.decide.serving import Trouble
from k8slite.kit.clock import Clock
from k8slite.kit.workqueue import WorkQueue

log = structlog.get_logger()

T = TypeVar("T", bound=Object)

#: Seconds that a trouble lasts before it becomes a condition: what is over sooner is an event.
SETTLE = 1.0
#: Seconds between two writes of one service.
AGAIN = 5.0
#: Services with a condition of this node. A trouble of many is a trouble of the node, and a
#: hundred nodes may have it at once.
MOST = 64
#: Seconds between two writes of any services.
PAUSE = 0.1

_CONFLICT_AGAIN = 0.2


class EventRecorder(Protocol):
    """What the proxy needs of ``client.events.EventRecorder``."""

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None: ...


class StatusWriter(Protocol):
    """What is needed of ``client.base.Client``."""

    async def update(self, obj: T, *, subresource: str = "") -> T: ...


class Troubles:
    """Run with ``run()``. Without a ``client`` there are events alone."""

    def __init__(
        self,
        node: str,
        services: Informer[Service],
        recorder: EventRecorder,
        client: StatusWriter | None,
        clock: Clock,
    ) -> None:
        self._node = node
        self._services = services
        self._recorder = recorder
        self._client = client
        self._clock = clock
        #: By service key, then by reason and what it is about (a portal name): the message.
        self._said: dict[str, dict[tuple[str, str], str]] = {}
        self._due: dict[str, float] = {}  # not to be written sooner
        self._shown: set[str] = set()  # services that may have a condition
        self._full = False
        self._known = False  # all that is wrong has been told
        self._queue: WorkQueue[str] = WorkQueue("proxy-troubles")

    def tell(self, key: str, about: str, reason: str, message: str) -> None:
        """``message`` says what is wrong with ``about``, a part of service ``key``; "" when that
        is over. Saying the same again costs nothing."""
        said = self._said.get(key)
        if (said.get((reason, about), "") if said else "") == message:
            return
        if not message:
            self._end(key, [(reason, about)])
            return
        self._said.setdefault(key, {})[reason, about] = message
        self._look_later(key)
        service = self._services.get(key)
        if service is not None:
            self._recorder.event(service, reason, message, "Warning")

    def forget(self, key: str, about: str) -> None:
        """``about`` is gone, and its troubles with it."""
        self._end(key, [place for place in self._said.get(key, ()) if place[1] == about])

    def all_told(self) -> None:
        """What is wrong by now is known: conditions of an earlier run that are not true may go."""
        if not self._known and self._client is not None:
            self._known = True
            for service in self._services.items():
                if serving.condition_of(service, self._node):
                    self._queue.add(service.key)

    async def run(self) -> None:
        if self._client is None:
            await asyncio.Event().wait()
        unsubscribe = self._services.subscribe(self._on_service)
        try:
            await self._queue.work(self._converge)
        finally:
            unsubscribe()

    def _end(self, key: str, places: list[tuple[str, str]]) -> None:
        said = self._said.get(key)
        if said is None or not places:
            return
        for place in places:
            said.pop(place, None)
        if not said:
            del self._said[key]
        self._look_later(key)

    def _look_later(self, key: str) -> None:
        if self._client is not None:
            due = self._clock.monotonic() + SETTLE
            self._due[key] = max(self._due.get(key, 0.0), due)
            self._queue.add_after(key, SETTLE)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        """Somebody wrote it: does it still say what is true?"""
        if new is None:
            if old is not None:
                self._shown.discard(old.key)
                self._due.pop(old.key, None)
        elif new.key in self._said or serving.condition_of(new, self._node):
            self._queue.add(new.key)

    async def _converge(self, key: str) -> None:
        service = self._services.get(key)
        if service is None or (key not in self._said and not self._known):
            return
        wait = self._due.get(key, 0.0) - self._clock.monotonic()
        if wait > 0:
            self._queue.add_after(key, wait)
            return
        status = serving.told(service, self._node, self._to_show(key), self._clock.stamp())
        if status is None:
            if key not in self._said:
                self._due.pop(key, None)
            return
        assert self._client is not None
        try:
            await self._client.update(replace(service, status=status), subresource="status")
        except Conflict:  # somebody else wrote it; our copy is about to follow
            self._queue.add_after(key, _CONFLICT_AGAIN * (1 + self._clock.rng.random()))
        except NotFound:
            pass
        else:
            self._due[key] = self._clock.monotonic() + AGAIN
            await self._clock.sleep(PAUSE)

    def _to_show(self, key: str) -> list[Trouble]:
        said = self._said.get(key)
        if not said:
            self._shown.discard(key)
            return []
        if key not in self._shown and len(self._shown) >= MOST:
            if not self._full:
                self._full = True
                log.warning(
                    "no further service gets a condition of this node; events say it",
                    role="proxy", services=MOST,
                )  # fmt: skip
            return []
        self._shown.add(key)
        return [Trouble(reason, message) for (reason, _), message in said.items()]
