"""Long operations for pods (a pull, a graceful stop): in the background, one of each at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from k8slite.roles.kubelet.runtime import RuntimeFailure

log = structlog.get_logger()


class Operations:
    """Named operations of pods; ``finished(uid)`` when one ends, well or not."""

    def __init__(self, finished: Callable[[str], None]) -> None:
        self._finished = finished
        self._running: dict[str, set[str]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    def busy(self, uid: str) -> frozenset[str]:
        """What is going on for the pod."""
        return frozenset(self._running.get(uid, ()))

    def begin(self, uid: str, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work`` unless an operation of that name runs for the pod."""
        running = self._running.setdefault(uid, set())
        if name in running or self._group is None:
            work.close()
            return
        running.add(name)
        self._group.create_task(self._do(uid, name, work), name=f"{name[:24]}-of-{uid[:8]}")

    async def _do(self, uid: str, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RuntimeFailure as error:
            # The next look at the pod sees what is the case and tries again.
            log.warning("operation failed", role="kubelet", pod=uid, what=name, error=str(error))
        finally:
            names = self._running.get(uid, set())
            names.discard(name)
            if not names:
                self._running.pop(uid, None)
            self._finished(uid)
