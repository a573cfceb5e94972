"""Long operations for pods (a pull, a graceful stop): in the background, one of each at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from k8slite.roles.kubelet.runtime import RuntimeFailure

log = structlog.get_logger()


@dataclass(slots=True)
class _Operation:
    task: asyncio.Task[None]
    until: float


class Operations:
    """Named operations of pods; ``finished(uid)`` when one ends, well or not."""

    def __init__(self, finished: Callable[[str], None]) -> None:
        self._finished = finished
        self._running: dict[str, dict[str, _Operation]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    def busy(self, uid: str) -> frozenset[str]:
        """What is going on for the pod."""
        return frozenset(self._running.get(uid, ()))

    def deadlines(self, uid: str) -> dict[str, float]:
        """Operations that must end by a certain time (Unix seconds)."""
        running = self._running.get(uid, {})
        return {name: o.until for name, o in running.items() if o.until < math.inf}

    def begin(
        self, uid: str, name: str, work: Coroutine[Any, Any, None], until: float = math.inf
    ) -> None:
        """Start ``work``, unless an operation of that name runs for the pod; it gives way only
        to one that must end sooner."""
        running = self._running.get(uid, {}).get(name)
        if self._group is None or (running is not None and running.until <= until):
            work.close()
            return
        if running is not None:
            running.task.cancel()
        task = self._group.create_task(self._do(uid, name, work), name=f"{name[:24]}-of-{uid[:8]}")
        self._running.setdefault(uid, {})[name] = _Operation(task, until)

    async def _do(self, uid: str, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RuntimeFailure as error:
            # The next look at the pod sees what is the case and tries again.
            log.warning("operation failed", role="kubelet", pod=uid, what=name, error=str(error))
        finally:
            self._end(uid, name)
            self._finished(uid)

    def _end(self, uid: str, name: str) -> None:
        names = self._running.get(uid, {})
        if name in names and names[name].task is asyncio.current_task():
            del names[name]
        if not names:
            self._running.pop(uid, None)
