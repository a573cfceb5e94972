"""Tells users what a component saw or did, and why. Telling never delays the doing.

The same news about the same object is told once and counted: the first time makes an Event, every
further time raises its ``count``. What has not been written yet is merged in memory; when too much
waits, the oldest news is dropped with a line in the log.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from k8slite.api.errors import ApiError, NotFound, Unavailable, UnknownOutcome
from k8slite.api.kinds import EVENT
from k8slite.api.kinds.binding.types import ObjectReference
from k8slite.api.kinds.event.types import Event, EventSource
from k8slite.api.meta import Object, ObjectMeta
from k8slite.client.base import Client
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock

log = structlog.get_logger()

#: News that waits to be written, at most.
BOUND = 1000
#: Events remembered for counting, at most.
REMEMBERED = 4096
_RETRY = Backoff(initial=0.5, maximum=30.0)
#: What is left of a name's 253 characters beside the suffix.
_LONGEST = 253 - 17
#: Seconds between two words about news that were dropped.
_SAY_EVERY = 10.0
#: Attempts at one piece of news before it is dropped.
_ATTEMPTS = 8


class _News(NamedTuple):
    """What makes two events the same."""

    about: ObjectReference
    reason: str
    message: str
    type: str


@dataclass(slots=True)
class _Telling:
    """How often, and when, a piece of news happened since it was written last."""

    first: str
    last: str
    count: int


class EventRecorder:
    """Events of ``component`` (on ``host``), written by ``run``."""

    def __init__(self, client: Client, clock: Clock, component: str, host: str = "") -> None:
        self._client = client
        self._clock = clock
        self._source = EventSource(component=component, host=host)
        self._waiting: OrderedDict[_News, _Telling] = OrderedDict()
        self._written: OrderedDict[_News, Event] = OrderedDict()
        self._arrived = asyncio.Event()
        self._dropped = 0  # since it was said last
        self._said = float("-inf")

    def event(
        self, obj: Object | ObjectReference, reason: str, message: str, type: str = "Normal"
    ) -> None:
        """``reason``: one CamelCase word; ``type``: Normal or Warning. Never waits."""
        news = _News(reference(obj), reason, message, type)
        now = self._clock.stamp()
        telling = self._waiting.get(news)
        if telling is None:
            if len(self._waiting) >= BOUND:
                self._drop()
            self._waiting[news] = _Telling(now, now, 1)
        else:
            telling.last = now
            telling.count += 1
        self._arrived.set()

    def _drop(self) -> None:
        """The oldest news goes; a flood of them is one line every now and then."""
        dropped, _ = self._waiting.popitem(last=False)
        self._dropped += 1
        now = self._clock.monotonic()
        if now >= self._said + _SAY_EVERY:
            log.warning(
                "events dropped: they come faster than they can be written",
                dropped=self._dropped, reason=dropped.reason, about=dropped.about.name,
            )  # fmt: skip
            self._dropped, self._said = 0, now

    async def run(self) -> None:
        """Write what is told, until cancelled."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            news, telling = self._waiting.popitem(last=False)
            await self._tell(news, telling)

    async def _tell(self, news: _News, telling: _Telling) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._remember(news, await self._write(news, telling))
                return
            except UnknownOutcome:
                self._written.pop(news, None)  # perhaps told: better once too often than never
            except Unavailable:
                pass
            except ApiError as error:
                # A namespace on its way out, for one: nobody is left to read it.
                log.debug("event refused", reason=news.reason, error=error.message)
                return
            except OSError as error:
                log.debug("event not sent", reason=news.reason, error=str(error))
            await self._clock.sleep(_RETRY.delay(attempt))
        log.warning("event lost", reason=news.reason, about=news.about.name)

    async def _write(self, news: _News, telling: _Telling) -> Event:
        known = self._written.get(news)
        if known is not None:
            change = {"count": known.count + telling.count, "lastTimestamp": telling.last}
            meta = known.metadata
            try:
                return await self._client.patch(EVENT, meta.name, meta.namespace, change)
            except NotFound:
                pass  # its hour was over
        return await self._client.create(self._event(news, telling))

    def _event(self, news: _News, telling: _Telling) -> Event:
        about = news.about
        return Event(
            metadata=ObjectMeta(
                name=f"{about.name[:_LONGEST]}.{self._clock.rng.getrandbits(64):016x}",
                namespace=about.namespace or "default",
            ),
            involved_object=about,
            reason=news.reason,
            message=news.message,
            type=news.type,
            source=self._source,
            first_timestamp=telling.first,
            last_timestamp=telling.last,
            count=telling.count,
            reporting_component=self._source.component,
            reporting_instance=self._source.host,
        )

    def _remember(self, news: _News, event: Event) -> None:
        self._written[news] = event
        self._written.move_to_end(news)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def reference(obj: Object | ObjectReference) -> ObjectReference:
    """The reference to ``obj``: without its version, which changes while the news stays."""
    if isinstance(obj, ObjectReference):
        return obj
    meta = obj.metadata
    return ObjectReference(
        kind=obj.kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        api_version=obj.api_version,
    )
