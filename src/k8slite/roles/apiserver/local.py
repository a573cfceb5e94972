"""The in-process client: skips HTTP, never admission."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from k8slite.api import codec, patch, selectors
from k8slite.api.errors import Expired
from k8slite.api.kinds import NAMESPACE
from k8slite.api.kinds.binding.types import Binding, ObjectReference
from k8slite.api.meta import DeleteOptions, Object, ObjectMeta, Preconditions
from k8slite.api.scheme import Kind
from k8slite.api.user import SYSTEM, User
from k8slite.client.base import Listing, WatchEvent
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.registry import Registry
from k8slite.store.base import Lagged
from k8slite.store.cache import Change, Entry

T = TypeVar("T", bound=Object)


class LocalClient:
    """``client.base.Client`` on a registry, as ``user``. ``nodes`` keeps the heartbeats."""

    def __init__(self, registry: Registry, nodes: Holders, user: User = SYSTEM) -> None:
        self._registry = registry
        self._nodes = nodes
        self._user = user

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T:
        return self._registry.get(kind, namespace, name).object

    async def list(
        self, kind: Kind[T], namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listing[T]:
        chosen = _Choice(kind, namespace, labels, fields)
        cache = self._registry.cache
        entries = cache.table(kind).entries(namespace)
        items = tuple(entry.object for entry in entries if chosen.takes(entry))
        return Listing(items, str(cache.revision))

    async def watch(
        self,
        kind: Kind[T],
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        resource_version: str = "",
    ) -> AsyncIterator[WatchEvent[T]]:
        chosen = _Choice(kind, namespace, labels, fields)
        cache = self._registry.cache
        after = int(resource_version or cache.revision)
        stream = cache.changes(kind, after)
        try:
            if not resource_version:
                for entry in cache.table(kind).entries(namespace):
                    if chosen.takes(entry):
                        yield WatchEvent("ADDED", entry.object)
            async for batch in stream:
                for change in batch:
                    event = chosen.event(change)
                    if event is not None:
                        yield event
        except Lagged:
            raise Expired("the watch fell too far behind; list again") from None
        finally:
            stream.close()

    async def create(self, obj: T) -> T:
        kind = self._registry.scheme.of(obj)
        return (await self._registry.create(kind, obj, user=self._user)).object

    async def update(self, obj: T, *, subresource: str = "") -> T:
        kind = self._registry.scheme.of(obj)
        entry = await self._registry.update(kind, obj, user=self._user, subresource=subresource)
        return entry.object

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        namespace: str,
        patch: dict[str, Any],
        *,
        subresource: str = "",
    ) -> T:
        def patched(obj: T) -> T:
            return _merged(kind, obj, patch)

        entry = await self._registry.modify(
            kind, namespace, name, patched, user=self._user, subresource=subresource
        )
        return entry.object

    async def delete(
        self,
        kind: Kind[T],
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
        propagation: str = "",
    ) -> None:
        options = DeleteOptions(
            grace_period_seconds=grace_seconds,
            preconditions=None if uid is None else Preconditions(uid=uid),
            propagation_policy=propagation,
        )
        await self._registry.delete(kind, namespace, name, options, user=self._user)

    async def bind(self, namespace: str, pod: str, node: str) -> None:
        binding = Binding(
            metadata=ObjectMeta(name=pod, namespace=namespace),
            target=ObjectReference(kind="Node", name=node),
        )
        await self._registry.bind(namespace, binding, user=self._user)

    async def finalize(self, obj: T) -> T:
        kind: Kind[Any] = NAMESPACE
        entry = await self._registry.update(kind, obj, user=self._user, subresource="finalize")
        return entry.object  # type: ignore[no-any-return]

    async def heartbeat(self, node: str) -> float:
        await self._nodes.heartbeat(node)
        return self._nodes.ttl


class _Choice:
    """Which objects a list or watch is about."""

    def __init__(self, kind: Kind[Any], namespace: str, labels: str, fields: str) -> None:
        self._prefix = f"{namespace}/" if namespace else ""
        self._labels = selectors.parse_labels(labels)
        self._fields = selectors.parse_fields(fields, kind) if fields else None

    def takes(self, entry: Entry[Any]) -> bool:
        if not entry.key.startswith(self._prefix):
            return False
        if self._labels and not self._labels.matches(entry.object.metadata.labels):
            return False
        return self._fields is None or self._fields.matches(entry.object)

    def event(self, change: Change[T]) -> WatchEvent[T] | None:
        """What ``change`` is to this watch: an object that begins to match is ADDED, one that
        ceases to is DELETED."""
        before = change.previous is not None and self.takes(change.previous)
        now = change.type != "DELETED" and self.takes(change.entry)
        if now:
            return WatchEvent("MODIFIED" if before else "ADDED", change.entry.object)
        if before:
            return WatchEvent("DELETED", change.entry.object)
        return None


def _merged(kind: Kind[T], obj: T, change: dict[str, Any]) -> T:
    raw = patch.merge_patch(json.loads(codec.encode(obj)), change)
    return codec.from_raw(raw, kind=kind).object
