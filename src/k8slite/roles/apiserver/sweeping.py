"""Deleting a whole collection: every object that matches, many at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from k8slite.api.errors import NotFound
from k8slite.api.meta import DeleteOptions, Object
from k8slite.api.scheme import Kind
from k8slite.api.selectors import FieldSelector, LabelSelector
from k8slite.api.user import User
from k8slite.store.cache import Entry

if TYPE_CHECKING:
    from k8slite.roles.apiserver.registry import Registry

T = TypeVar("T", bound=Object)

#: Deletions in flight at once.
WIDTH = 64


async def delete_matching(
    registry: Registry,
    kind: Kind[T],
    namespace: str,
    options: DeleteOptions,
    user: User,
    labels: LabelSelector | None,
    fields: FieldSelector | None,
) -> list[Entry[T]]:
    """Delete what matches now; the entries as they were. An object that somebody else deletes
    meanwhile is no error; the first real error ends the sweep and is raised."""
    entries = [
        entry
        for entry in registry.cache.table(kind).entries(namespace)
        if (not labels or labels.matches(entry.object.metadata.labels))
        and (not fields or fields.matches(entry.object))
    ]
    waiting = iter(entries)

    async def sweep() -> None:
        for entry in waiting:
            meta = entry.object.metadata
            try:
                await registry.delete(kind, meta.namespace, meta.name, options, user=user)
            except NotFound:
                continue

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(WIDTH, len(entries))):
                group.create_task(sweep(), name=f"sweep-{kind.plural}-{number}")
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return entries
