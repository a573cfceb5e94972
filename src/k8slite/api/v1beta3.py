"""``v1beta3``, the API of early 2015, converted at the door so that its files work unchanged.

Both directions work on plain dicts. What the two versions say in the same words is passed through;
each kind names what it says differently (``kinds/<kind>/v1beta3.py``). Fields that v1beta3 never
had travel along under today's names, so that nothing is lost by going there and back.
"""

from __future__ import annotations

from typing import Any

import msgspec

from k8slite.api import fields
from k8slite.api.kinds import SCHEME
from k8slite.api.scheme import Kind, Raw

VERSION = "v1beta3"


def from_v1beta3(raw: Raw, kind: Kind[Any] | None = None) -> Raw:
    """A v1beta3 document → the same in v1. ``raw`` is left alone.

    Field names are matched without regard to case, as 2015's decoder did. A document of no known
    kind passes with its version alone changed.
    """
    if kind is None:
        kind = SCHEME.named(raw.get("kind", ""))
    result = {**raw, "apiVersion": "v1"}
    if kind is None:
        return result
    if kind.from_v1beta3 is not None:
        result = kind.from_v1beta3(result)
    folded: Raw = fields.folded_names(kind.type, result)
    return folded


def to_v1beta3(raw: Raw) -> Raw:
    """A v1 document, list or Status → the same in v1beta3. ``raw`` is left alone."""
    result = {**raw, "apiVersion": VERSION}
    name = raw.get("kind", "")
    if name == "Status":
        details = raw.get("details")
        if isinstance(details, dict) and "name" in details:
            result["details"] = {
                "id" if key == "name" else key: value for key, value in details.items()
            }
        return result
    items = raw.get("items")
    if isinstance(items, list):
        kind = SCHEME.named(name.removesuffix("List"))
        result["items"] = [_item(item, kind) for item in items]
        return result
    return _item(result, SCHEME.named(name))


def _item(raw: Raw, kind: Kind[Any] | None) -> Raw:
    if "apiVersion" in raw:
        raw = {**raw, "apiVersion": VERSION}
    return kind.to_v1beta3(raw) if kind is not None and kind.to_v1beta3 is not None else raw


def to_bytes(kind: Kind[Any], data: bytes) -> bytes:
    """Wire or stored ``v1`` bytes → ``v1beta3`` bytes of the same object, head first."""
    raw = msgspec.json.decode(data)
    return msgspec.json.encode(_item(raw, kind))
