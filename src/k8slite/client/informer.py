"""Informers: a shared, current copy of all objects of a kind, with indexes and handlers.

In a process that has the watch cache an informer is a view of the cache's table and copies nothing
(``CacheInformers``). Elsewhere a reflector keeps the copy by list and watch through a client
(``RemoteInformers``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.client.base import Handler, Informer
from k8slite.store.cache import Change, Entry, WatchCache

T = TypeVar("T", bound=Object)

KeysOf = Callable[[T], Iterable[str]]


class Index(Generic[T]):
    """Object keys by a value of the object; kept up change by change."""

    def __init__(self, keys_of: KeysOf[T]) -> None:
        self._keys_of = keys_of
        self._by_value: dict[str, dict[str, None]] = {}  # dicts as ordered sets

    def put(self, key: str, old: T | None, new: T | None) -> None:
        before = () if old is None else tuple(self._keys_of(old))
        after = () if new is None else tuple(self._keys_of(new))
        if before == after:
            return
        for value in before:
            keys = self._by_value.get(value)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self._by_value[value]
        for value in after:
            self._by_value.setdefault(value, {})[key] = None

    def keys(self, value: str) -> Iterable[str]:
        return self._by_value.get(value, ())


class Audience(Generic[T]):
    """The indexes and handlers of one informer; indexes are right before a handler is called."""

    def __init__(self) -> None:
        self.indexes: dict[str, Index[T]] = {}
        self._handlers: dict[object, Handler[T]] = {}

    def join(self, handler: Handler[T]) -> Callable[[], None]:
        token = object()
        self._handlers[token] = handler

        def leave() -> None:
            self._handlers.pop(token, None)

        return leave

    def tell(self, key: str, old: T | None, new: T | None) -> None:
        for index in self.indexes.values():
            index.put(key, old, new)
        for handler in tuple(self._handlers.values()):
            handler(old, new)


class CacheInformer(Generic[T]):
    """An ``Informer`` that is a view of a table of the watch cache."""

    def __init__(self, cache: WatchCache, kind: Kind[T]) -> None:
        self._cache = cache
        self._kind = kind
        self._table = cache.table(kind)
        self._audience: Audience[T] = Audience()
        self._table.subscribe(self._on_change)
        cache.when_ready(self._on_ready)

    @property
    def kind(self) -> Kind[T]:
        return self._kind

    @property
    def synced(self) -> bool:
        return self._cache.revision > 0

    async def wait_synced(self) -> None:
        await self._cache.wait_ready()

    def get(self, key: str) -> T | None:
        entry = self._table.get(key)
        return None if entry is None else entry.object

    def items(self) -> Iterable[T]:
        return [entry.object for entry in self._table.entries()]

    def in_namespace(self, namespace: str) -> Iterable[T]:
        return [entry.object for entry in self._table.entries(namespace)]

    def index(self, name: str, keys_of: KeysOf[T]) -> None:
        if name not in self._audience.indexes:
            index = self._audience.indexes[name] = Index(keys_of)
            for entry in self._known():
                index.put(entry.key, None, entry.object)

    def by_index(self, name: str, value: str) -> list[T]:
        found = (self._table.get(key) for key in self._audience.indexes[name].keys(value))
        return [entry.object for entry in found if entry is not None]

    def subscribe(self, handler: Handler[T]) -> Callable[[], None]:
        for entry in self._known():
            handler(None, entry.object)
        return self._audience.join(handler)

    def _known(self) -> Iterable[Entry[T]]:
        """What has been told; a first listing under way is told at its end, whole."""
        return self._table.entries() if self.synced else ()

    def _on_ready(self) -> None:
        """The first listing is there: to whoever joined before it, all of it is new."""
        for entry in self._table.entries():
            self._audience.tell(entry.key, None, entry.object)

    def _on_change(self, change: Change[T]) -> None:
        old = None if change.previous is None else change.previous.object
        new = None if change.type == "DELETED" else change.entry.object
        self._audience.tell(change.entry.key, old, new)


class CacheInformers:
    """``client.base.Informers`` over the watch cache of this process."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._informers: dict[str, CacheInformer[Any]] = {}

    def of(self, kind: Kind[T]) -> Informer[T]:
        found = self._informers.get(kind.kind)
        if found is None:
            found = self._informers[kind.kind] = CacheInformer(self._cache, kind)
        return cast("Informer[T]", found)
