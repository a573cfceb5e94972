"""The few objects of a kind that rule a namespace, by namespace: one look-up says "none"."""

from __future__ import annotations

from typing import Generic, TypeVar

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.store.cache import Change, Entry, WatchCache

T = TypeVar("T", bound=Object)


class ByNamespace(Generic[T]):
    """Entries of ``kind`` in name order, for each namespace that has any."""

    def __init__(self, cache: WatchCache, kind: Kind[T]) -> None:
        self._table = cache.table(kind)
        self._found: dict[str, tuple[Entry[T], ...]] = {}
        self._table.subscribe(self._on_change)
        if cache.revision:
            self._read_all()
        else:
            cache.when_ready(self._read_all)

    def of(self, namespace: str) -> tuple[Entry[T], ...]:
        return self._found.get(namespace, ())

    def _read_all(self) -> None:
        for entry in self._table.entries():
            self._read(entry)

    def _on_change(self, change: Change[T]) -> None:
        self._read(change.entry)

    def _read(self, entry: Entry[T]) -> None:
        namespace = entry.key.partition("/")[0]
        entries = tuple(self._table.entries(namespace))
        if entries:
            self._found[namespace] = entries
        else:
            self._found.pop(namespace, None)
