"""Swagger 2.0, the older form of OpenAPI: one document of everything, as JSON or as protobuf.

kubectl up to 1.27 asks for it before it creates anything, later ones for lists of mixed kinds; all
of them take protobuf alone (the messages of gnostic's OpenAPIv2.proto). It says what the documents
of ``api.openapi`` say, in other words, and is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from k8slite.api import openapi, protowire
from k8slite.api.schemas import REFERENCE
from k8slite.api.scheme import Scheme

Document = dict[str, Any]

#: What the answer is called; clients also ask for it with "@" in place of the last dot but one,
#: which is no media type.
PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_DEFINITIONS = "#/definitions/"


def document(scheme: Scheme) -> Document:
    """``/openapi/v2`` as JSON."""
    paths: dict[str, Document] = {}
    definitions: dict[str, Document] = {}
    for group, version in openapi.group_versions(scheme).values():
        newer = openapi.document(scheme, group, version)
        paths |= {path: _item(item) for path, item in newer["paths"].items()}
        for name, schema in newer["components"]["schemas"].items():
            definitions[name] = _schema(schema)
    return {
        "swagger": "2.0",
        "info": {"title": "k8slite", "version": "unversioned"},
        "paths": paths,
        "definitions": definitions,
    }


def _schema(schema: Document) -> Document:
    """References stand without ``allOf``; a choice of types is told by its format."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace(REFERENCE, _DEFINITIONS)}
    found: Document = {}
    for name, value in schema.items():
        match name:
            case "allOf":
                found |= _schema(value[0])
            case "oneOf":
                found["type"] = "string"
            case "items" | "additionalProperties":
                found[name] = _schema(value)
            case "properties":
                found[name] = {field: _schema(inner) for field, inner in value.items()}
            case _:
                found[name] = value
    return found


def _item(item: Document) -> Document:
    return {
        name: [_parameter(one) for one in value] if name == "parameters" else _operation(value)
        for name, value in item.items()
    }


def _parameter(parameter: Document) -> Document:
    return {**{k: v for k, v in parameter.items() if k != "schema"}, **parameter["schema"]}


def _operation(operation: Document) -> Document:
    made = dict(operation)
    made["parameters"] = [_parameter(one) for one in operation.get("parameters", ())]
    made["responses"] = {}
    for code, answer in operation["responses"].items():
        [(media, content)] = answer["content"].items()
        made["responses"][code] = {
            "description": answer["description"],
            "schema": _schema(content["schema"]),
        }
        made["produces"] = [media]
    body = made.pop("requestBody", None)
    if body is not None:
        content = body["content"]
        made["consumes"] = list(content)
        schema = _schema(next(iter(content.values()))["schema"])
        made["parameters"].append(
            {"name": "body", "in": "body", "required": body["required"], "schema": schema}
        )
    return made


# --- as protobuf -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: its number and the message inside ("" for plain values).

    ``named``: the number below which the members of a map stand, each with its name.
    """

    number: int
    message: str = ""
    named: int = 0


_PARAMETER = {"required": 1, "in": 2, "description": 3, "name": 4}

#: Message → its fields, as gnostic's OpenAPIv2.proto numbers them; what it does not list here we
#: never write. "x-" is where vendor extensions go.
_MESSAGES: Mapping[str, Mapping[str, _Field]] = {
    "Document": {
        "swagger": _Field(1),
        "info": _Field(2, "Info"),
        "paths": _Field(8, "PathItem", named=2),
        "definitions": _Field(9, "Schema", named=1),
    },
    "Info": {"title": _Field(1), "version": _Field(2)},
    "PathItem": {
        **{name: _Field(number, "Operation") for name, number in (
            ("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7),
            ("patch", 8),
        )},
        "parameters": _Field(9, "ParametersItem"),
    },
    "Operation": {
        "description": _Field(3),
        "operationId": _Field(5),
        "produces": _Field(6),
        "consumes": _Field(7),
        "parameters": _Field(8, "ParametersItem"),
        "responses": _Field(9, "ResponseValue", named=1),
        "x-": _Field(13),
    },
    "ResponseValue": {"response": _Field(1, "Response")},
    "Response": {"description": _Field(1), "schema": _Field(2, "SchemaItem")},
    "SchemaItem": {"schema": _Field(1, "Schema")},
    "ParametersItem": {"parameter": _Field(1, "Parameter")},
    "Parameter": {"body": _Field(1, "BodyParameter"), "other": _Field(2, "NonBodyParameter")},
    "BodyParameter": {
        "description": _Field(1),
        "name": _Field(2),
        "in": _Field(3),
        "required": _Field(4),
        "schema": _Field(5, "Schema"),
    },
    "NonBodyParameter": {
        "query": _Field(3, "QueryParameter"),
        "path": _Field(4, "PathParameter"),
    },
    "QueryParameter": {
        **{name: _Field(number) for name, number in _PARAMETER.items()},
        "type": _Field(6),
        "uniqueItems": _Field(20),
    },
    "PathParameter": {
        **{name: _Field(number) for name, number in _PARAMETER.items()},
        "type": _Field(5),
        "uniqueItems": _Field(19),
    },
    "Schema": {
        "$ref": _Field(1),
        "format": _Field(2),
        "description": _Field(4),
        "required": _Field(19),
        "additionalProperties": _Field(21, "SchemaItem"),
        "type": _Field(22, "TypeItem"),
        "items": _Field(23, "SchemaItem"),
        "properties": _Field(25, "Schema", named=1),
        "x-": _Field(31),
    },
    "TypeItem": {"value": _Field(1)},
}  # fmt: skip


def _wrapped(message: str, value: Any) -> Any:
    """``value`` with the messages around it that JSON does without."""
    match message:
        case "TypeItem":
            return {"value": value}
        case "SchemaItem":
            return {"schema": value}
        case "ResponseValue":
            return {"response": value}
        case "Response":
            return value
        case "ParametersItem":
            place = value["in"]
            inner = {"body": value} if place == "body" else {"other": {place: value}}
            return {"parameter": inner}
    return value


def protobuf(document: Document) -> bytes:
    """``document`` as gnostic's ``openapi.v2.Document``."""
    return _message("Document", document)


def _message(message: str, value: Document) -> bytes:
    fields = _MESSAGES[message]
    out = []
    for name, inner in value.items():
        if name.startswith("x-"):
            out.append(_extension(fields["x-"].number, name, inner))
            continue
        field = fields[name]
        if field.named:
            members = (_named(field, key, member) for key, member in inner.items())
            out.append(protowire.text(field.number, b"".join(members)))
        else:
            several = inner if isinstance(inner, list) else (inner,)
            out += [_field(field, one) for one in several]
    return b"".join(out)


def _field(field: _Field, value: Any) -> bytes:
    if field.message:
        inner = _message(field.message, _wrapped(field.message, value))
        return protowire.text(field.number, inner)
    if isinstance(value, bool | int):
        return protowire.number(field.number, int(value))
    return protowire.text(field.number, value.encode())


def _named(field: _Field, name: str, value: Any) -> bytes:
    inner = _message(field.message, _wrapped(field.message, value))
    pair = protowire.text(1, name.encode()) + protowire.text(2, inner)
    return protowire.text(field.named, pair)


def _extension(number: int, name: str, value: Any) -> bytes:
    """A vendor extension: its value is YAML, and JSON is YAML."""
    any_value = protowire.text(2, msgspec.json.encode(value))
    pair = protowire.text(1, name.encode()) + protowire.text(2, any_value)
    return protowire.text(number, pair)
