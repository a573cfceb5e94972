"""Pods that fit nowhere, by sort: when one of a sort fits again, the others may too."""

from __future__ import annotations

from collections.abc import Iterator


class Parking:
    """Keys of pods by the sort that the algorithm gave them, in order of arrival."""

    def __init__(self) -> None:
        self._by_sort: dict[bytes, dict[str, None]] = {}
        self._sort_of: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._sort_of)

    def park(self, key: str, sort: bytes) -> None:
        if self._sort_of.get(key) == sort:
            return
        self.leave(key)
        self._sort_of[key] = sort
        self._by_sort.setdefault(sort, {})[key] = None

    def leave(self, key: str) -> None:
        sort = self._sort_of.pop(key, None)
        if sort is not None:
            keys = self._by_sort[sort]
            del keys[key]
            if not keys:
                del self._by_sort[sort]

    def holds(self, sort: bytes) -> bool:
        return sort in self._by_sort

    def firsts(self) -> Iterator[str]:
        """The longest-waiting pod of each sort."""
        for keys in list(self._by_sort.values()):
            if keys:
                yield next(iter(keys))
