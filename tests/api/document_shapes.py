"""Hypothesis strategies: documents of the right shape for any kind, and documents of none."""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st

from k8slite.api.kinds import SCHEME
from k8slite.api.scheme import Kind
from k8slite.api.struct import Struct

WORDS = st.sampled_from(["a", "web", "nginx:latest", "10.0.0.1", "80", "100m", "TCP", "v1", "x/y"])
TIMES = st.just("2026-01-02T03:04:05Z")
KINDS = [kind for kind in SCHEME if not kind.virtual]


@cache
def values_of(hint: Any, wire: str = "") -> st.SearchStrategy[Any]:
    """Values that a field of this type may hold, as plain JSON."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [o for o in typing.get_args(hint) if o is not type(None)]
        return st.one_of(*(values_of(option, wire) for option in options))
    if origin is tuple:
        return st.lists(values_of(typing.get_args(hint)[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(WORDS, values_of(typing.get_args(hint)[1]), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Struct):
        return st.deferred(lambda: fields_of(hint))
    if hint is str:
        return TIMES if wire.endswith(("Time", "Timestamp", "At")) else WORDS
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(-1, 70000)
    if hint is float:
        return st.sampled_from([0.5, 2.0])
    return WORDS


@cache
def fields_of(struct: type[Struct]) -> st.SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(struct)
    optional = {
        field.encode_name: values_of(hints[field.name], field.encode_name)
        for field in msgspec.structs.fields(struct)
        if field.encode_name not in ("kind", "apiVersion")
    }
    return st.fixed_dictionaries({}, optional=optional)


def documents(kind: Kind[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """v1 documents of ``kind``: well formed, seldom valid."""
    head = {"kind": kind.kind, "apiVersion": kind.api_version}
    return fields_of(kind.type).map(lambda body: {**head, **body})


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def spoilt(draw: st.DrawFn, kind: Kind[Any]) -> dict[str, Any]:
    """A document of ``kind`` in which one value somewhere is replaced by garbage."""
    document = draw(documents(kind))
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return document
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        place[key] = draw(GARBAGE)
        return document
