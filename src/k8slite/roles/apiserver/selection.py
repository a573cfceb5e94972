"""Which objects a list or watch is about: a namespace, labels, fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from k8slite.api import selectors
from k8slite.api.paths import Target
from k8slite.api.scheme import Kind
from k8slite.api.selectors import FieldSelector, LabelSelector
from k8slite.kit.clock import Clock
from k8slite.store.entry import Entry
from k8slite.store.table import Table

#: Objects looked at between two turns of the loop.
_SLICE = 256


@dataclass(frozen=True, slots=True)
class Selection:
    """``key`` is equal for equal selections; it names the group of watchers that share one."""

    kind: Kind[Any]
    namespace: str
    labels: LabelSelector
    fields: FieldSelector

    @classmethod
    def of(cls, target: Target) -> Selection:
        """Raises BadRequest for selectors that cannot be read."""
        query = target.query
        labels = selectors.parse_labels(query.text("labelSelector") or query.text("labels"))
        fields = selectors.parse_fields(
            query.text("fieldSelector") or query.text("fields"), target.of
        )
        return cls(target.of, target.namespace, labels, fields)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.kind.plural, self.namespace, str(self.labels), str(self.fields))

    @property
    def everything(self) -> bool:
        """No selector beyond the namespace."""
        return not self.labels and not self.fields

    def matches(self, entry: Entry[Any]) -> bool:
        """``entry``'s namespace is not looked at when there is none to look for."""
        if self.namespace and not entry.key.startswith(f"{self.namespace}/"):
            return False
        if self.everything:
            return True
        obj = entry.object
        if self.labels and not self.labels.matches(obj.metadata.labels):
            return False
        return not self.fields or self.fields.matches(obj)

    async def pick(self, table: Table[Any], clock: Clock) -> Sequence[Entry[Any]]:
        """The selected entries in key order; yields to the loop while it looks.

        The result is one moment's: entries are immutable and taken before the first pause.
        """
        name = self.fields.exact("metadata.name") if self.fields else None
        if name is not None and (self.namespace or not self.kind.namespaced):
            entry = table.get(f"{self.namespace}/{name}" if self.namespace else name)
            return [entry] if entry is not None and self.matches(entry) else []
        entries = table.entries(self.namespace)
        if self.everything:
            return entries
        entries = tuple(entries)
        found: list[Entry[Any]] = []
        for start in range(0, len(entries), _SLICE):
            found.extend(filter(self.matches, entries[start : start + _SLICE]))
            if start + _SLICE < len(entries):
                await clock.sleep(0)
        return found
