"""``v1beta3``, the API of early 2015, converted at the door so that its files work unchanged.

Both directions work on plain dicts. What the two versions say in the same words passes through;
each kind names what it says differently (``kinds/<kind>/v1beta3.py``). Fields that v1beta3 never
had travel along under today's names, so that nothing is lost by going there and back.
"""

from __future__ import annotations

from typing import Any

import msgspec

from k8slite.api import fields
from k8slite.api.kinds import SCHEME
from k8slite.api.renaming import rename, within
from k8slite.api.scheme import Kind, Raw

VERSION = "v1beta3"
_NEW = "v1"


def from_v1beta3(raw: Raw, kind: Kind[Any] | None = None) -> Raw:
    """A v1beta3 document, list or Status → the same in v1. ``raw`` is left alone.

    Field names are matched without regard to case, as 2015's decoder did. ``kind`` is what the
    document is when it does not say so itself; of an unknown kind only the version changes.
    Raises BadRequest for a field of the old version that holds the wrong type.
    """
    result = {**raw, "apiVersion": _NEW}
    if raw.get("kind") == "Status":
        within(result, "details", lambda details: rename(details, "id", "name"))
        return result
    items = raw.get("items")
    if isinstance(items, list):
        kind = _named(raw, "List")
        result["items"] = [
            _item_from(item, kind) if isinstance(item, dict) else item for item in items
        ]
        return result
    return _item_from(result, kind or _named(raw))


def to_v1beta3(raw: Raw) -> Raw:
    """A v1 document, list or Status → the same in v1beta3. ``raw`` is left alone."""
    result = {**raw, "apiVersion": VERSION}
    if raw.get("kind") == "Status":
        within(result, "details", lambda details: rename(details, "name", "id"))
        return result
    items = raw.get("items")
    if isinstance(items, list):
        kind = _named(raw, "List")
        result["items"] = [_item_to(item, kind) for item in items]
        return result
    return _item_to(result, _named(raw))


def to_bytes(kind: Kind[Any], data: bytes) -> bytes:
    """Wire or stored ``v1`` bytes → ``v1beta3`` bytes of the same object, head first."""
    return msgspec.json.encode(_item_to(msgspec.json.decode(data), kind))


def _named(raw: Raw, suffix: str = "") -> Kind[Any] | None:
    name = raw.get("kind")
    return SCHEME.named(name.removesuffix(suffix)) if isinstance(name, str) else None


def _item_from(raw: Raw, kind: Kind[Any] | None) -> Raw:
    if "apiVersion" in raw:
        raw = {**raw, "apiVersion": _NEW}
    kind = kind or _named(raw)  # the items of a plain List say what they are
    if kind is None:
        return raw
    folded: Raw = fields.folded_names(kind.type, raw)
    if kind.from_v1beta3 is not None:
        # What the kind renames is then a field that can be matched in its turn.
        folded = fields.folded_names(kind.type, kind.from_v1beta3(folded))
    within(folded, "metadata", lambda meta: _self_link(meta, VERSION, _NEW))
    return folded


def _item_to(raw: Raw, kind: Kind[Any] | None) -> Raw:
    kind = kind or _named(raw)
    if "apiVersion" in raw:
        raw = {**raw, "apiVersion": VERSION}
    if kind is not None and kind.to_v1beta3 is not None:
        raw = kind.to_v1beta3(raw)
    if "selfLink" in raw.get("metadata", ()):
        raw = dict(raw)
        within(raw, "metadata", lambda meta: _self_link(meta, _NEW, VERSION))
    return raw


def _self_link(meta: Raw, old: str, new: str) -> None:
    link = meta.get("selfLink")
    if isinstance(link, str):
        meta["selfLink"] = link.replace(f"/api/{old}/", f"/api/{new}/", 1)
