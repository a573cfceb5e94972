"""Tables: what ``get`` prints and what the API answers to clients that ask for a Table.

A column is a function of an object; a table is columns over objects. ``layout`` sets the rows as
Go's tabwriter did for the article's kubectl: columns at least 10 wide, 3 spaces between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import msgspec

from k8slite.api import age
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.scheme import Column, Kind
from k8slite.api.selectors import Labels, format_labels

T = TypeVar("T", bound=Object)

NONE = "<none>"
UNKNOWN = "<unknown>"

#: Control characters as the terminal would show them: what a pod says must not drive a terminal.
_VISIBLE = {code: f"^{chr(code + 64)}" for code in range(32)} | {
    9: " ",
    10: " ",
    13: " ",
    127: "^?",
}


# --- columns ---------------------------------------------------------------------------------


def single(
    title: str,
    text: Callable[[T], str | int],
    *,
    wide: bool = False,
    type: str = "string",
    description: str = "",
) -> Column[T]:
    """A column whose cell is one line."""

    def cells(obj: T, now: float) -> list[str]:
        return [str(text(obj))]

    return Column(title, cells, wide=wide, type=type, description=description)


def several(title: str, texts: Callable[[T], Sequence[str]], *, wide: bool = False) -> Column[T]:
    """A column whose cell may take several lines."""

    def cells(obj: T, now: float) -> list[str]:
        return list(texts(obj)) or [""]

    return Column(title, cells, wide=wide)


def name_of(obj: Object) -> str:
    return obj.metadata.name


def created_at(obj: Object) -> str | None:
    return obj.metadata.creation_timestamp


def aged(
    title: str, stamp: Callable[[T], str | None] = created_at, *, wide: bool = False
) -> Column[T]:
    """A column with the short age of a time that the object holds."""

    def cells(obj: T, now: float) -> list[str]:
        seconds = age.since(stamp(obj), now)
        return [UNKNOWN if seconds is None else age.short(seconds)]

    return Column(title, cells, wide=wide)


def age_in_words(stamp: str | None, now: float) -> str:
    seconds = age.since(stamp, now)
    return UNKNOWN if seconds is None else age.in_words(seconds)


def labels_or_none(labels: Labels) -> str:
    """``a=1,b=2``, or ``<none>``."""
    return format_labels(labels) or NONE


def own_labels(obj: Object) -> str:
    """The labels that somebody gave the object: those that every node and namespace gets by
    itself (``kubernetes.io/…``) were not in the article and would hide what matters."""
    labels = obj.metadata.labels or {}
    return labels_or_none({k: v for k, v in labels.items() if not k.startswith(_OF_ITSELF)})


_OF_ITSELF = ("kubernetes.io/", "beta.kubernetes.io/")

NAME: Column[Any] = single("Name", name_of)
AGE: Column[Any] = aged("Age")


def columns_of(kind: Kind[T], *, article: bool, wide: bool = False) -> list[Column[T]]:
    """The columns that ``get`` shows; kinds younger than the article have today's alone."""
    if article and kind.article_columns:
        return list(kind.article_columns)
    columns = kind.columns or (NAME, AGE)
    return [column for column in columns if wide or not column.wide]


def titles(columns: Sequence[Column[T]]) -> list[str]:
    return [column.title.upper() for column in columns]


def rows(columns: Sequence[Column[T]], obj: T, now: float) -> list[list[str]]:
    """The lines that ``obj`` takes; ``now`` is Unix seconds."""
    cells = [column.cells(obj, now) for column in columns]
    return [list(line) for line in zip_longest(*cells, fillvalue="")]


# --- layout ----------------------------------------------------------------------------------


def visible(text: str) -> str:
    """``text`` on one line, its control characters made harmless."""
    return text.translate(_VISIBLE)


def widths(
    lines: Iterable[Sequence[str]], known: Sequence[int] = (), *, least: int = 10, padding: int = 3
) -> list[int]:
    """The width of every column but the last (which is never padded), padding included.

    ``known`` are the widths of the lines above, which may only grow.
    """
    found = list(known)
    for line in lines:
        for place, cell in enumerate(line[:-1]):
            width = max(least, len(cell) + padding)
            if place == len(found):
                found.append(width)
            elif width > found[place]:
                found[place] = width
    return found


def set_lines(lines: Iterable[Sequence[str]], columns: Sequence[int]) -> str:
    """Rows of cells → lines of text, each cell as wide as its column."""
    padded = [*columns, 0]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line, padded, strict=False)) + "\n"
        for line in lines
    )


def layout(lines: Iterable[Sequence[str]], least: int = 10, padding: int = 3) -> str:
    """Rows of cells → lines of text, as Go's tabwriter sets them. "" for no rows."""
    shown = [[visible(cell) for cell in line] for line in lines]
    return set_lines(shown, widths(shown, least=least, padding=padding))


# --- the wire --------------------------------------------------------------------------------


class PartialObjectMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """An object's head alone (meta.k8s.io/v1)."""

    kind: str = "PartialObjectMetadata"
    apiVersion: str = "meta.k8s.io/v1"
    metadata: ObjectMeta


def partial(obj: Object) -> PartialObjectMetadata:
    return PartialObjectMetadata(metadata=obj.metadata)


def partial_list(objects: Iterable[Object], list_meta: dict[str, Any]) -> dict[str, Any]:
    """A ``PartialObjectMetadataList``, ready to encode. ``list_meta`` as in any list."""
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "items": [partial(obj) for obj in objects],
    }


def _definition(column: Column[Any]) -> dict[str, Any]:
    return {
        "name": column.title,
        "type": column.type,
        "format": "name" if column.title == "Name" else "",
        "description": column.description or column.title,
        "priority": int(column.wide),
    }


def _typed(column: Column[Any], cell: str) -> str | int:
    return int(cell) if column.type == "integer" else cell


def wire_table(
    kind: Kind[T],
    objects: Iterable[T],
    now: float,
    *,
    include: str = "Metadata",
    list_meta: dict[str, Any] | None = None,
    headed: bool = True,
) -> dict[str, Any]:
    """A ``Table`` (meta.k8s.io/v1) of ``objects``, ready to encode.

    ``include`` is the request's includeObject: None, Metadata or Object. ``headed`` False leaves
    the column definitions out, as after the first event of a watch.
    """
    columns = kind.columns or (NAME, AGE)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta or {},
        "columnDefinitions": [_definition(column) for column in columns] if headed else [],
        "rows": [
            {
                "cells": [_typed(column, column.cells(obj, now)[0]) for column in columns],
                "object": _included(obj, include),
            }
            for obj in objects
        ],
    }


def _included(obj: Object, include: str) -> Any:
    if include == "Object":
        return obj
    return None if include == "None" else partial(obj)
