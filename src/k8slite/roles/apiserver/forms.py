"""Content negotiation: in which version and shape an answer is written.

``application/json;as=Table;v=v1;g=meta.k8s.io`` asks for a table, ``as=PartialObjectMetadata`` and
``as=PartialObjectMetadataList`` for metadata alone; several may stand in one Accept header, the
first that can be served wins. There is no protobuf on the way out: clients that prefer it always
accept JSON too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from k8slite.api import codec, tables, v1beta3
from k8slite.api.errors import NotAcceptable
from k8slite.api.meta import ListMeta, Object
from k8slite.api.paths import Target
from k8slite.api.scheme import Kind
from k8slite.store.entry import Entry

OBJECT, TABLE, METADATA = "object", "table", "metadata"

_JSON = frozenset(("application/json", "application/*", "*/*"))
_YAML = frozenset(("application/yaml", "text/yaml", "application/x-yaml"))


@dataclass(frozen=True, slots=True)
class Form:
    """How to write an answer. ``include`` is a table's includeObject."""

    version: str = "v1"
    shape: str = OBJECT
    meta_version: str = "meta.k8s.io/v1"
    include: str = "Metadata"
    pretty: bool = False

    @property
    def plain(self) -> bool:
        """Ready bytes will do."""
        return self.shape == OBJECT and not self.pretty


@lru_cache(maxsize=256)
def _shape(accept: str) -> tuple[str, str]:
    """Accept → (shape, API version of the shape). Raises NotAcceptable."""
    for part in accept.split(","):
        media, *parameters = (word.strip() for word in part.split(";"))
        if media.lower() not in _JSON:
            continue
        given = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        wanted = given.get("as", "")
        version = f"{given.get('g', 'meta.k8s.io')}/{given.get('v', 'v1')}"
        if not wanted:
            return OBJECT, ""
        if version not in ("meta.k8s.io/v1", "meta.k8s.io/v1beta1"):
            continue
        if wanted == "Table":
            return TABLE, version
        if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return METADATA, version
    raise NotAcceptable(
        f'only application/json is served here, and "{accept[:200]}" does not accept it'
    )


_PLAIN = Form()


def negotiate(accept: str, user_agent: str, target: Target) -> Form:
    """Raises NotAcceptable, and BadRequest for a ``pretty`` that is no truth value."""
    query = target.query
    pretty = query.flag("pretty") if "pretty" in query else _person(user_agent)
    if not accept or accept in ("*/*", "application/json"):
        if target.version == "v1" and not pretty:
            return _PLAIN
        return Form(target.version, pretty=pretty)
    shape, version = _shape(accept)
    form = Form(target.version, shape, version, pretty=pretty)
    if shape == TABLE:
        include = query.text("includeObject") or "Metadata"
        form = replace(form, include=include)
    return form


def _person(user_agent: str) -> bool:
    """Tools whose reader is a person get indented answers, as with kube-apiserver."""
    return user_agent.startswith(("curl/", "Wget/", "Mozilla/"))


def beautiful(data: bytes, form: Form) -> bytes:
    return msgspec.json.format(data, indent=2) + b"\n" if form.pretty else data


def one(entry: Written, form: Form, now: float) -> bytes:
    """One object in its form."""
    if form.shape == OBJECT:
        return beautiful(entry.encoding(form.version), form)
    if form.shape == TABLE:
        meta = ListMeta(resource_version=str(entry.revision))
        return beautiful(table(entry.kind, [entry.object], meta, form, now), form)
    return beautiful(codec.encode(partial(entry.object, form)), form)


def event(type_: str, entry: Written, form: Form, now: float) -> bytes:
    """A watch event of ``entry`` with its closing newline."""
    form = replace(form, pretty=False) if form.pretty else form
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), one(entry, form, now))


class Unstored:
    """An object that is in no cache, with an entry's face."""

    revision = 0

    def __init__(self, kind: Kind[Any], obj: Object) -> None:
        self.kind = kind
        self.object = obj
        self.key = obj.key
        self.data = codec.encode(obj)

    def encoding(self, version: str) -> bytes:
        return self.data if version == "v1" else v1beta3.to_bytes(self.kind, self.data)


#: What can be written in a form.
Written = Entry[Any] | Unstored


class PartialObjectMetadata(Object):
    """An object's metadata alone."""


def partial(obj: Object, form: Form) -> PartialObjectMetadata:
    return PartialObjectMetadata(
        kind="PartialObjectMetadata", api_version=form.meta_version, metadata=obj.metadata
    )


def table(
    kind: Kind[Any], objects: Sequence[Object], meta: ListMeta, form: Form, now: float
) -> bytes:
    """The wire Table of ``objects``."""
    list_meta = msgspec.to_builtins(meta)
    found = tables.wire_table(kind, objects, now, include=form.include, list_meta=list_meta)
    found["apiVersion"] = form.meta_version
    return codec.encode(found)


@dataclass(frozen=True, slots=True)
class Page:
    """A list's items and its metadata."""

    kind: Kind[Any]
    entries: Sequence[Written]
    meta: ListMeta


def many(page: Page, form: Form, now: float) -> list[bytes]:
    """A list in its form, as pieces to be sent one after the other."""
    if form.shape == TABLE:
        objects = [entry.object for entry in page.entries]
        return [beautiful(table(page.kind, objects, page.meta, form, now), form)]
    if form.shape == METADATA:
        head = _list_head("PartialObjectMetadataList", form.meta_version, page.meta)
        items: Iterable[bytes] = (
            codec.encode(partial(entry.object, form)) for entry in page.entries
        )
    else:
        api_version = page.kind.api_version if form.version == "v1" else form.version
        head = _list_head(f"{page.kind.kind}List", api_version, page.meta)
        if form.version == "v1":
            items = [entry.data for entry in page.entries]
        else:
            items = (entry.encoding(form.version) for entry in page.entries)
    pieces = _joined(head, items)
    return [beautiful(b"".join(pieces), form)] if form.pretty else pieces


def _list_head(kind: str, api_version: str, meta: ListMeta) -> bytes:
    return b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (
        kind.encode(),
        api_version.encode(),
        codec.encode(meta),
    )


def _joined(head: bytes, items: Iterable[bytes]) -> list[bytes]:
    """Head, items with commas between them, tail, as few pieces of a moderate size."""
    pieces = [head]
    batch: list[bytes] = []
    for item in items:
        batch.append(item)
        if len(batch) == 64:
            pieces += (b",".join(batch), b",")
            batch = []
    if batch:
        pieces.append(b",".join(batch))
    elif len(pieces) > 1:
        pieces.pop()  # the comma behind the last full batch
    pieces.append(b"]}")
    return pieces
