"""Many requests at once, but never more than so many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from k8slite.api.errors import ApiError

T = TypeVar("T")

#: Requests in flight: enough to fill a group commit of the store.
IN_FLIGHT = 128


async def each(
    items: Iterable[T], action: Callable[[T], Awaitable[object]], *, limit: int = IN_FLIGHT
) -> list[ApiError]:
    """``action`` for every item, ``limit`` of them at a time; the API errors that came of it.

    Any other exception ends the rest and is raised.
    """
    todo = list(items)
    if len(todo) == 1:  # the common case needs no tasks
        return await _attempt(action, todo[0])
    waiting = iter(todo)
    errors: list[ApiError] = []

    async def work() -> None:
        for item in waiting:
            errors.extend(await _attempt(action, item))

    async with asyncio.TaskGroup() as group:
        for number in range(min(limit, len(todo))):
            group.create_task(work(), name=f"each-{number}")
    return errors


async def _attempt(action: Callable[[T], Awaitable[object]], item: T) -> list[ApiError]:
    try:
        await action(item)
    except ApiError as error:
        return [error]
    return []


async def ramp(
    items: Iterable[T], action: Callable[[T], Awaitable[object]], *, limit: int = 2 * IN_FLIGHT
) -> list[ApiError]:
    """As ``each``, but in batches of 1, 2, 4 … ``limit``, ending with the first batch that fails:
    a refusal that holds for all is heard a few times, not thousands of times."""
    todo, start, size = list(items), 0, 1
    while start < len(todo):
        errors = await each(todo[start : start + size], action, limit=limit)
        if errors:
            return errors
        start, size = start + size, min(limit, size * 2)
    return []
