"""Many askers, few questions.

A read that must not be stale has to ask the store where it stands. Whoever asks while a question
is on its way cannot use its answer, which may be older than his asking; but all who ask meanwhile
can share the next one. So there are never more than two questions, however many ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """``ask`` gives an answer of ``question`` that was asked after ``ask`` was called."""

    def __init__(self, question: Callable[[], Awaitable[T]], name: str) -> None:
        self._question = question
        self._name = name
        self._asked: asyncio.Task[T] | None = None  # on its way
        self._next: asyncio.Task[T] | None = None  # not yet asked

    async def ask(self) -> T:
        """Raises what the question raises. A caller that is cancelled takes nobody along."""
        if self._next is None:
            self._next = asyncio.create_task(self._fly(self._asked), name=self._name)
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Ask no more: whoever still waits is cancelled."""
        flying = {task for task in (self._asked, self._next) if task is not None}
        for task in flying:
            task.cancel()
        if flying:
            await asyncio.wait(flying)

    async def _fly(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
        self._asked, self._next = self._next, None
        return await self._question()


def _seen(task: asyncio.Task[T]) -> None:
    """An answer that nobody waits for any more is no fault, whatever it is."""
    if not task.cancelled():
        task.exception()
