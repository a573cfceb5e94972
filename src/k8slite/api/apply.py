"""``apply``: the patch that makes an object what its author wants, and leaves the rest alone.

Three documents are compared: what the author applied last (kept in an annotation, kubectl's own,
so that either tool can go on where the other stopped), what he wants now, and what there is.
Fields that he set before and does not mention any more go; fields that somebody else set stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from k8slite.api.errors import BadRequest
from k8slite.api.mergekeys import ONE_OF, PRIMITIVE

Raw = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def annotated(document: Raw) -> Raw:
    """The document with itself in its annotation, as it is sent."""
    metadata = dict(document.get("metadata") or {})
    annotations = {
        k: v for k, v in (metadata.get("annotations") or {}).items() if k != LAST_APPLIED
    }
    bare = {**document, "metadata": {**metadata, "annotations": annotations}}
    said = msgspec.json.encode(bare, order="sorted").decode() + "\n"
    metadata["annotations"] = {**annotations, LAST_APPLIED: said}
    return {**document, "metadata": metadata}


def last_applied(current: Raw) -> Raw:
    """What was applied last; {} when the object was made in another way."""
    annotations = (current.get("metadata") or {}).get("annotations") or {}
    try:
        found = msgspec.json.decode(annotations.get(LAST_APPLIED, "{}"))
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def three_way(wanted: Raw, current: Raw, merge_keys: Mapping[str, str]) -> Raw:
    """The strategic merge patch from ``current`` to ``wanted`` (already ``annotated``); {} when
    nothing is to be done. Raises BadRequest for a list element without its merge key."""
    return _Comparison(merge_keys).map(last_applied(current), wanted, current, "")


class _Comparison:
    def __init__(self, merge_keys: Mapping[str, str]) -> None:
        self._merge_keys = merge_keys

    def map(self, before: Raw, wanted: Raw, current: Raw, path: str) -> Raw:
        patch: Raw = {
            key: None for key in before if key not in wanted and current.get(key) is not None
        }
        for key, value in wanted.items():
            inner = f"{path}.{key}" if path else key
            there = current.get(key)
            if there is None:
                patch[key] = value
            elif isinstance(value, dict) and isinstance(there, dict):
                if changed := self.map(_dict(before.get(key)), value, there, inner):
                    patch[key] = changed
            elif isinstance(value, list) and isinstance(there, list) and inner in self._merge_keys:
                self._list(patch, key, _list(before.get(key)), value, there, inner)
            elif value != there:
                patch[key] = value
        return patch

    def _list(  # the six are one comparison
        self, patch: Raw, field: str, before: list[Any], wanted: list[Any], current: list[Any],
        path: str,
    ) -> None:  # fmt: skip
        key = self._merge_keys[path]
        if key == PRIMITIVE:
            added = [item for item in wanted if item not in current]
            gone = [item for item in before if item not in wanted and item in current]
            if gone:
                patch[f"$deleteFromPrimitiveList/{field}"] = gone
            order: list[Any] = wanted
        else:
            added = self._elements(before, wanted, current, key, path)
            order = [{key: _named(item, key, path)} for item in wanted]
        if added:
            patch[field] = added
        if added or f"$deleteFromPrimitiveList/{field}" in patch:
            patch[f"$setElementOrder/{field}"] = order

    def _elements(
        self, before: list[Any], wanted: list[Any], current: list[Any], key: str, path: str
    ) -> list[Raw]:
        there = {_named(item, key, path): item for item in current}
        earlier = {_named(item, key, path): item for item in before}
        names = {_named(item, key, path) for item in wanted}
        changes: list[Raw] = []
        for item in wanted:
            name = item[key]
            if name not in there:
                changes.append(item)
            elif changed := self.map(_dict(earlier.get(name)), item, there[name], path):
                if path.rpartition(".")[2] in ONE_OF:
                    changed["$retainKeys"] = sorted(item)
                changes.append({key: name, **changed})
        gone = [name for name in earlier if name not in names and name in there]
        return changes + [{"$patch": "delete", key: name} for name in gone]


def _dict(value: Any) -> Raw:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(item: Any, key: str, path: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise BadRequest(f"{path}: an element lacks {key}, which tells the elements apart")
    return item[key]
