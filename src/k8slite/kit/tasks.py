"""Tasks with a name, an owner and an end.

An eternal task that returns is a fault as much as one that raises: ``forever`` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskEnded(RuntimeError):
    """A task that should run until cancelled came to an end by itself."""


async def forever(name: str, coro: Coroutine[Any, Any, None]) -> None:
    """Run ``coro``; raise TaskEnded if it returns."""
    await coro
    raise TaskEnded(f"task {name} ended by itself")


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` and wait for its end; its own failure is raised here."""
    task.cancel()
    # Not "await task": its CancelledError could not be told from our caller's own.
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
