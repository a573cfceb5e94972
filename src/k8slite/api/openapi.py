"""OpenAPI 3: what the API serves and how its objects look, told from the table of kinds.

Enough for kubectl 1.27 and later to create, apply and explain: the paths of every kind with
``x-kubernetes-group-version-kind``, the ``fieldValidation`` parameter that says "the server checks
fields", and a schema of every struct with the merge keys of its lists. Documents are plain dicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from k8slite.api.discovery import CORE_VERSIONS, groups
from k8slite.api.mergekeys import PRIMITIVE
from k8slite.api.scheme import Kind, Scheme

Document = dict[str, Any]

_HUB = "v1"  # the core version whose structs are ours; others are described as free objects

_PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)

_META = "k8slite.api.meta"


def _parameter(name: str, description: str, *, type_: str = "string") -> Document:
    return {
        "name": name, "in": "query", "description": description, "uniqueItems": True,
        "schema": {"type": type_},
    }  # fmt: skip


_WRITE_PARAMETERS = [
    _parameter("dryRun", "All: decide, and write nothing."),
    _parameter("fieldManager", "Who changes the fields."),
    _parameter("fieldValidation", "What to do about unknown fields: Ignore, Warn or Strict."),
]
_LIST_PARAMETERS = [
    _parameter("labelSelector", "Only objects with these labels."),
    _parameter("fieldSelector", "Only objects with these fields."),
    _parameter("limit", "At most so many objects; the answer says how to go on.", type_="integer"),
    _parameter("continue", "Go on where the last answer ended."),
    _parameter("resourceVersion", "At, or not older than, this version."),
    _parameter("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    _parameter("watch", "Go on with every change.", type_="boolean"),
    _parameter("timeoutSeconds", "End a watch after so many seconds.", type_="integer"),
]


def group_versions(scheme: Scheme) -> dict[str, tuple[str, str]]:
    """``api/v1`` or ``apis/<group>/<version>`` → (group, version)."""
    found = {f"api/{version}": ("", version) for version in CORE_VERSIONS}
    for group, versions in groups(scheme).items():
        found |= {f"apis/{group}/{version}": (group, version) for version in versions}
    return found


def index(documents: Mapping[str, bytes]) -> Document:
    """``/openapi/v3``: where each document is; the hash lets clients keep it until it changes."""
    paths = {}
    for path, encoded in documents.items():
        digest = hashlib.sha256(encoded).hexdigest()[:32].upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def document(scheme: Scheme, group: str, version: str) -> Document:
    """``/openapi/v3/<path>`` of one group and version."""
    schemas = _Schemas(free=not group and version != _HUB)
    paths: dict[str, Document] = {}
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    for kind in scheme:
        if kind.group == group and (not group or kind.version == version):
            identity = {"group": group, "version": version, "kind": kind.kind}
            name = schemas.of_kind(kind, identity)
            paths |= _paths(kind, root, identity, name)
    return {
        "openapi": "3.0.0",
        "info": {"title": "k8slite", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas.found},
    }


def _paths(kind: Kind[Any], root: str, identity: Document, schema: str) -> dict[str, Document]:
    """The collection and the single object, in a namespace and across all of them."""
    body = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    answers = {"200": {"description": "OK", "content": {"application/json": body}}}

    def operation(action: str, parameters: list[Document], media: tuple[str, ...]) -> Document:
        made: Document = {
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": identity,
            "operationId": f"{action}{kind.kind}", "parameters": parameters, "responses": answers,
        }  # fmt: skip
        if media:
            made["requestBody"] = {"content": dict.fromkeys(media, body), "required": True}
        return made

    sending = ("application/json", "application/yaml")
    collection: Document = {}
    single: Document = {}
    for verb, place, method, action, parameters, media in (
        ("list", collection, "get", "list", _LIST_PARAMETERS, ()),
        ("create", collection, "post", "post", _WRITE_PARAMETERS, sending),
        ("deletecollection", collection, "delete", "deletecollection", _LIST_PARAMETERS, ()),
        ("get", single, "get", "get", [], ()),
        ("update", single, "put", "put", _WRITE_PARAMETERS, sending),
        ("patch", single, "patch", "patch", _WRITE_PARAMETERS, _PATCHES),
        ("delete", single, "delete", "delete", _WRITE_PARAMETERS[:1], ()),
    ):
        if verb in kind.verbs:
            place[method] = operation(action, parameters, media)
    base = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else ""
    paths = {base or f"{root}/{kind.plural}": collection}
    if kind.namespaced and "get" in collection:
        paths[f"{root}/{kind.plural}"] = {"get": collection["get"]}
    if single:
        paths[f"{base or f'{root}/{kind.plural}'}/{{name}}"] = single
    return paths


class _Schemas:
    """The schemas of one document, by their names on the wire.

    ``free``: kinds are objects of any shape (a version that is converted at the door).
    """

    def __init__(self, *, free: bool) -> None:
        self.found: dict[str, Document] = {}
        self._free = free

    def of_kind(self, kind: Kind[Any], identity: Document) -> str:
        """The name of the kind's schema, which says what it is the schema of."""
        if self._free:
            name = f"k8slite.{identity['version']}.{kind.kind}"
            self.found[name] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        else:
            name = self._of_struct(kind.type, kind.merge_keys, "")
        self.found[name] |= {"x-kubernetes-group-version-kind": [identity]}
        return name

    def _of_struct(self, struct: type, keys: Mapping[str, str], path: str) -> str:
        module = "apimachinery.pkg.apis.meta" if struct.__module__ == _META else "api.core"
        name = f"io.k8s.{module}.v1.{struct.__name__}"
        if name in self.found:
            return name
        schema = self.found[name] = {"type": "object"}
        text = struct.__dict__.get("__doc__")
        if text:
            schema["description"] = text.strip()
        info = msgspec.inspect.type_info(struct)
        assert isinstance(info, msgspec.inspect.StructType)
        properties = {}
        for field in info.fields:
            wire = field.encode_name
            inner = f"{path}.{wire}" if path else wire
            found = self._of_type(field.type, keys, inner)
            if wire.endswith(("Time", "Timestamp")) and found == {"type": "string"}:
                found["format"] = "date-time"
            key = keys.get(inner)
            if key and found.get("type") == "array":
                found["x-kubernetes-patch-strategy"] = "merge"
                if key != PRIMITIVE:
                    found["x-kubernetes-patch-merge-key"] = key
            properties[wire] = found
        schema["properties"] = properties
        return name

    def _of_type(self, type_: msgspec.inspect.Type, keys: Mapping[str, str], path: str) -> Document:
        inspect = msgspec.inspect
        match type_:
            case inspect.StructType(cls=cls):
                name = self._of_struct(cls, keys, path)
                return {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}
            case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
                return {"type": "array", "items": self._of_type(item, keys, path)}
            case inspect.DictType(value_type=value):
                return {"type": "object", "additionalProperties": self._of_type(value, keys, path)}
            case inspect.UnionType(types=types):
                return self._of_union(types, keys, path)
            case inspect.StrType():
                return {"type": "string"}
            case inspect.BoolType():
                return {"type": "boolean"}
            case inspect.IntType():
                return {"type": "integer", "format": "int64"}
            case inspect.FloatType():
                return {"type": "number", "format": "double"}
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

    def _of_union(
        self, types: tuple[msgspec.inspect.Type, ...], keys: Mapping[str, str], path: str
    ) -> Document:
        inspect = msgspec.inspect
        some = [type_ for type_ in types if not isinstance(type_, inspect.NoneType)]
        if len(some) == 1:
            return self._of_type(some[0], keys, path)
        if all(isinstance(type_, inspect.IntType | inspect.StrType) for type_ in some):
            return {
                "x-kubernetes-int-or-string": True,
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }
        return {"oneOf": [self._of_type(type_, keys, path) for type_ in some]}
