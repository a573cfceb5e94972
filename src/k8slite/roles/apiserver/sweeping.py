"""Deleting a whole collection: every object that matches, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from k8slite.api.errors import NotFound
from k8slite.api.meta import Object
from k8slite.store.cache import Entry

T = TypeVar("T", bound=Object)

#: Deletions in flight at once.
WIDTH = 64


async def sweep(
    entries: Sequence[Entry[T]], delete: Callable[[Entry[T]], Awaitable[object]]
) -> None:
    """Delete every entry. An object that somebody else deletes meanwhile is no error; the first
    real error ends the sweep and is raised."""
    waiting = iter(entries)

    async def one_by_one() -> None:
        for entry in waiting:
            try:
                await delete(entry)
            except NotFound:
                continue

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(WIDTH, len(entries))):
                group.create_task(one_by_one(), name=f"sweep-{number}")
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
