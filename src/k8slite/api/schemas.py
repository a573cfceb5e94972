"""Schemas: how every struct looks on the wire, read off its fields, in the words of OpenAPI 3.

One room of schemas is one document's ``components/schemas``: a struct is described once, under the
name that Kubernetes gives its own types, and is referred to everywhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from k8slite.api.fields import holds_time
from k8slite.api.mergekeys import ONE_OF, PRIMITIVE
from k8slite.api.meta import ListMeta
from k8slite.api.scheme import Kind

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"
GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_CORE = "io.k8s.api.core.v1"

#: Values that are more than their JSON type, each a schema of its own.
_VALUES: dict[str, Schema] = {
    f"{_META}.Time": {
        "description": "A moment as RFC 3339 text, e.g. 2026-01-02T03:04:05Z.",
        "type": "string",
        "format": "date-time",
    },
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "description": "A number or a name.",
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
    },
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {
        "description": "An amount with a unit: 100m, 0.5, 64Mi, 1e3.",
        "oneOf": [{"type": "string"}, {"type": "number"}],
    },
}
_TIME, _INT_OR_STRING, _QUANTITY = _VALUES

_SCALARS: tuple[tuple[type[inspect.Type], Schema], ...] = (
    (inspect.StrType, {"type": "string"}),
    (inspect.BoolType, {"type": "boolean"}),
    (inspect.IntType, {"type": "integer", "format": "int64"}),
    (inspect.FloatType, {"type": "number", "format": "double"}),
)

#: An object of any shape.
FREE: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def reference(name: str) -> Schema:
    return {"$ref": f"{REFERENCE}{name}"}


class Schemas:
    """Name → schema. ``found`` is the document's ``components/schemas``."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def of_kind(self, kind: Kind[Any], identity: Mapping[str, str]) -> str:
        """The name of the kind's schema; its list is described too. ``identity`` is
        ``{"group", "version", "kind"}`` as documents write them."""
        name = self.of_struct(kind.type)
        self.found[name][GROUP_VERSION_KIND] = [dict(identity)]
        self._mark_merge_keys(name, kind.merge_keys)
        self._list_of(name, identity, {"items": reference(name)})
        return name

    def of_free_kind(self, kind: Kind[Any], identity: Mapping[str, str]) -> str:
        """``of_kind`` in a version that is converted at the door: an object of any shape."""
        name = f"k8slite.{identity['version']}.{kind.kind}"
        text = f"{kind.kind} as {identity['version']} writes it; kept as {kind.api_version}."
        self.found[name] = {**FREE, "description": text, GROUP_VERSION_KIND: [dict(identity)]}
        self._list_of(name, identity, {"items": reference(name)})
        return name

    def of_struct(self, struct: type[msgspec.Struct]) -> str:
        """The name of the struct's schema."""
        home = _META if struct.__module__ == ListMeta.__module__ else _CORE
        name = f"{home}.{struct.__name__}"
        if name not in self.found:
            schema: Schema = {"type": "object"}
            self.found[name] = schema  # before its fields: they may lead back here
            if text := _description(struct):
                schema["description"] = text
            info = inspect.type_info(struct)
            assert isinstance(info, inspect.StructType)
            schema["properties"] = {
                field.encode_name: self._of_field(field.encode_name, field.type)
                for field in info.fields
            }
        return name

    def _list_of(self, name: str, identity: Mapping[str, str], array: Schema) -> None:
        self.found[f"{name}List"] = {
            "description": f"A list of objects of kind {identity['kind']}.",
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [reference(self.of_struct(ListMeta))]},
                "items": {"type": "array", **array},
            },
            GROUP_VERSION_KIND: [{**identity, "kind": f"{identity['kind']}List"}],
        }

    def _of_field(self, wire: str, type_: inspect.Type) -> Schema:
        schema = self._of_type(type_)
        return self._value(_TIME) if schema == {"type": "string"} and holds_time(wire) else schema

    def _of_type(self, type_: inspect.Type) -> Schema:
        match type_:
            case inspect.StructType(cls=struct):
                return {"allOf": [reference(self.of_struct(struct))]}
            case inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": _bare(self._of_type(item))}
            case inspect.DictType(value_type=value) if not isinstance(value, inspect.AnyType):
                return {"type": "object", "additionalProperties": _bare(self._of_type(value))}
            case inspect.UnionType(types=types):
                return self._of_union(types)
        for scalar, schema in _SCALARS:
            if isinstance(type_, scalar):
                return dict(schema)
        return dict(FREE)

    def _of_union(self, types: tuple[inspect.Type, ...]) -> Schema:
        some = [type_ for type_ in types if not isinstance(type_, inspect.NoneType)]
        if len(some) == 1:
            return self._of_type(some[0])
        number = any(isinstance(type_, inspect.FloatType) for type_ in some)
        return self._value(_QUANTITY if number else _INT_OR_STRING)

    def _value(self, name: str) -> Schema:
        self.found[name] = _VALUES[name]
        return {"allOf": [reference(name)]}

    def _mark_merge_keys(self, name: str, keys: Mapping[str, str]) -> None:
        """Say at every list that merges how its elements are told apart."""
        for path, key in keys.items():
            *way, last = path.split(".")
            fields = self._fields(self.found[name])
            for step in way:
                fields = self._fields(fields.get(step, {}))
            if last not in fields:
                continue  # inside an object of any shape
            marked = fields[last]
            retains = ",retainKeys" if last in ONE_OF else ""
            marked["x-kubernetes-patch-strategy"] = f"merge{retains}"
            if key != PRIMITIVE:
                marked["x-kubernetes-patch-merge-key"] = key

    def _fields(self, schema: Schema) -> dict[str, Schema]:
        """The properties of an object, or of the elements of a list of them."""
        schema = schema.get("items", schema)
        for part in schema.get("allOf", (schema,)):
            target = part.get("$ref", "").removeprefix(REFERENCE)
            found: dict[str, Schema] = self.found.get(target, part).get("properties", {})
            return found
        return {}


def _bare(schema: Schema) -> Schema:
    """What stands alone needs no ``allOf`` around its reference."""
    [alone] = schema.get("allOf", (schema,))
    return dict(alone)


def _description(struct: type) -> str:
    """The struct's own docstring, or for a kind the line that leads its module."""
    text = struct.__dict__.get("__doc__")
    if not text:
        line = (sys.modules[struct.__module__].__doc__ or "").partition("\n\n")[0]
        before, found, text = line.partition(f"{struct.__name__}: ")
        if before or not found:
            return ""
        text = text[:1].upper() + text[1:]
    return " ".join(text.split())
