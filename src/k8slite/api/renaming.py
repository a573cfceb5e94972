"""Small steps for converting plain documents between versions.

Every step works on a dict that its caller owns and copies what it goes into; values of a type that
nobody expects are left for decoding to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k8slite.api.scheme import Raw

#: Changes a dict in place.
Change = Callable[[Raw], None]

_ABSENT: Any = object()


def spelling(raw: Raw, name: str) -> str | None:
    """How ``raw`` spells the field ``name``: exactly, or in other letters' case, or not at all."""
    if name in raw:
        return name
    folded = name.lower()
    return next((key for key in raw if key.lower() == folded), None)


def take(raw: Raw, name: str, default: Any = None) -> Any:
    """Take the field ``name`` out of ``raw``, whatever its letters' case."""
    key = spelling(raw, name)
    return default if key is None else raw.pop(key)


def rename(raw: Raw, old: str, new: str) -> None:
    """Call the field ``old`` by its name ``new``; a field that is there under ``new`` stays."""
    value = take(raw, old, _ABSENT)
    if value is not _ABSENT:
        raw.setdefault(new, value)


def within(raw: Raw, name: str, *changes: Change) -> None:
    """Change the object in the field ``name``."""
    inner = raw.get(name)
    if isinstance(inner, dict):
        raw[name] = inner = dict(inner)
        for change in changes:
            change(inner)


def within_each(raw: Raw, name: str, *changes: Change) -> None:
    """Change every object of the list in the field ``name``."""
    items = raw.get(name)
    if not isinstance(items, list):
        return
    raw[name] = items = [dict(item) if isinstance(item, dict) else item for item in items]
    for item in items:
        if isinstance(item, dict):
            for change in changes:
                change(item)
