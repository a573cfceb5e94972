"""The shape of a controller: events put keys on a queue, a key is looked at and mended.

A controller holds no state that it could not lose: whatever it knows beyond its informers only
saves work. It begins when its informers are complete, so that it never mistakes "not heard of yet"
for "not there".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from k8slite.api.errors import Conflict
from k8slite.api.scheme import Kind
from k8slite.client.base import Client, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.workqueue import WorkQueue

K = TypeVar("K", bound=Hashable)
Unsubscribe = Callable[[], None]

log = structlog.get_logger()

#: Somebody else wrote first; our informer will show it in a moment. Seconds until the next look.
AFTER_CONFLICT = 0.1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every controller is handed."""

    client: Client
    informers: Informers
    recorder: EventRecorder
    clock: Clock
    settings: Settings


class Controller(Generic[K]):
    """One controller. Subclasses name the ``kinds`` they read and say how to ``subscribe`` and
    ``converge``."""

    name: ClassVar[str]
    kinds: ClassVar[Sequence[Kind[Any]]]
    workers: ClassVar[int] = 8

    def __init__(self, around: Surroundings) -> None:
        self.client = around.client
        self.informers = around.informers
        self.recorder = around.recorder
        self.clock = around.clock
        self.settings = around.settings
        self.queue: WorkQueue[K] = WorkQueue(self.name)
        self.running = False

    def subscribe(self) -> Iterable[Unsubscribe]:
        """Begin to listen; every object that is there already is told as an addition."""
        raise NotImplementedError

    async def converge(self, key: K) -> None:
        """Compare what ``key`` is with what it should be, and act."""
        raise NotImplementedError

    async def run(self) -> None:
        """Until cancelled."""
        for kind in self.kinds:
            await self.informers.of(kind).wait_synced()
        unsubscribes = list(self.subscribe())
        self.running = True
        log.debug("controller runs", controller=self.name)
        try:
            await self.queue.work(self._look, workers=self.workers)
        finally:
            self.running = False
            for unsubscribe in unsubscribes:
                unsubscribe()

    async def _look(self, key: K) -> None:
        try:
            await self.converge(key)
        except Conflict:
            self.queue.add_after(key, AFTER_CONFLICT)
