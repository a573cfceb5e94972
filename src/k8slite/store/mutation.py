"""A detector of changed shared objects, for tests.

Structs are frozen, but a dict inside one can be changed by a careless reader, which changes the
object for every reader of the process. The detector remembers how an object encodes and says so
when that is no longer true (client-go's cache mutation detector).
"""

from __future__ import annotations

from typing import Any

from k8slite.api import codec
from k8slite.store.entry import Change, Entry


class SharedObjectChanged(AssertionError):
    """Somebody changed an object that everybody shares."""


class MutationDetector:
    """Remembers every current object of a watch cache."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Entry[Any], bytes]] = {}

    def remember(self, entry: Entry[Any]) -> None:
        self._known[entry.kind.kind, entry.key] = (entry, codec.encode(entry.object))

    def replace(self, change: Change[Any]) -> None:
        """Check the entry that ``change`` replaces and remember the new one."""
        place = (change.entry.kind.kind, change.entry.key)
        known = self._known.pop(place, None)
        if known is not None:
            _require_unchanged(*known)
        if change.type != "DELETED":
            self.remember(change.entry)

    def verify(self) -> None:
        """Check every current object. Raises SharedObjectChanged."""
        for entry, encoded in self._known.values():
            _require_unchanged(entry, encoded)


def _require_unchanged(entry: Entry[Any], encoded: bytes) -> None:
    now = codec.encode(entry.object)
    if now != encoded:
        raise SharedObjectChanged(
            f"{entry.kind.kind} {entry.key} was changed in place by a reader: "
            f"{encoded.decode()} became {now.decode()}"
        )
