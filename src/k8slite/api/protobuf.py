"""Kubernetes' protobuf encoding of objects, on the way in.

Go clients of 2025 and later (kubectl 1.32: ``create namespace|secret|service…``) send their typed
objects so, without asking whether the server would rather have JSON. A body is the four bytes
``k8s\\0`` and an envelope (``runtime.Unknown``) with apiVersion, kind and the message; the message
is read by the types of our own structs and the numbers of ``api.protonumbers``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from k8slite.api import protowire
from k8slite.api.errors import BadRequest
from k8slite.api.fields import holds_time
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.replicationcontroller.types import Scale
from k8slite.api.meta import DeleteOptions
from k8slite.api.protonumbers import NUMBERS
from k8slite.api.validation import shown

_MAGIC = b"k8s\0"

_Wire = int | memoryview
_Read = Callable[[_Wire], Any]

#: Structs that only travel, by the name of their kind.
_TRAVELLERS: Mapping[str, type[msgspec.Struct]] = {"Scale": Scale, "DeleteOptions": DeleteOptions}

#: Maps whose values are bytes, which JSON writes in base64.
_BYTES = frozenset((("Secret", "data"), ("ConfigMap", "binaryData")))

_EPOCH = datetime(1970, 1, 1)

#: Written by servers alone.
_IGNORED = frozenset((("ObjectMeta", "managedFields"),))


def read_document(body: bytes) -> dict[str, Any]:
    """A body as the plain dict that its JSON would be. Raises BadRequest.

    A field that nobody here knows stands under ``#<number>``, unless it is empty.
    """
    if not body.startswith(_MAGIC):
        raise BadRequest("the body is no protobuf: it does not begin with k8s and a zero byte")
    try:
        envelope = dict(protowire.read(memoryview(body)[len(_MAGIC) :]))
        identity = dict(protowire.read(_bytes(envelope.get(1, memoryview(b"")))))
        api_version, name = (_text(identity.get(number, memoryview(b""))) for number in (1, 2))
        struct = _struct(api_version, name)
        content = _bytes(envelope.get(2, memoryview(b"")))
        return {"apiVersion": api_version, "kind": name} | _message(struct)(content)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"malformed protobuf: {error}") from None


def _struct(api_version: str, name: str) -> type[msgspec.Struct]:
    found = _TRAVELLERS.get(name)
    if found is None and (kind := SCHEME.named(name)) is not None:
        found = kind.type
    if found is None:
        raise BadRequest(f"no kind {shown(name)} is registered for version {shown(api_version)}")
    return found


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message. ``repeated`` fields are lists or maps: ``read`` gives an element."""

    name: str
    read: _Read
    repeated: type[list[Any]] | type[dict[str, Any]] | None = None


@dataclass(slots=True)
class _Embedded:
    """A message whose fields are its holder's own."""

    fields: dict[int, _Field]


class _Message:
    """How messages of one struct are read."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        types = {field.encode_name: field.type for field in info.fields}
        words = NUMBERS[struct.__name__].split()
        self._fields: dict[int, _Field | _Embedded] = {}
        for name, number in zip(words[::2], words[1::2], strict=True):
            field = _field(struct.__name__, name, types[name])
            outer, _, inner = number.partition(".")
            if not inner:
                self._fields[int(outer)] = field
                continue
            embedded = self._fields.setdefault(int(outer), _Embedded({}))
            assert isinstance(embedded, _Embedded)
            embedded.fields[int(inner)] = field

    def __call__(self, value: _Wire) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._into(found, _bytes(value), self._fields)
        return found

    def _into(
        self, found: dict[str, Any], data: memoryview, fields: Mapping[int, _Field | _Embedded]
    ) -> None:
        for number, value in protowire.read(data):
            match fields.get(number):
                case None:
                    if value:
                        found[f"#{number}"] = True
                case _Embedded(fields=inner):
                    self._into(found, _bytes(value), inner)
                case _Field(name=name, read=read, repeated=None):
                    content = read(value)
                    if content is not None:
                        found[name] = content
                case _Field(name=name, read=read, repeated=repeated):
                    if repeated is dict:
                        found.setdefault(name, {}).update((read(value),))
                    else:
                        found.setdefault(name, []).append(read(value))


@cache
def _message(struct: type[msgspec.Struct]) -> _Message:
    return _Message(struct)


def _field(holder: str, name: str, type_: inspect.Type) -> _Field:
    if (holder, name) in _IGNORED:
        return _Field(name, lambda _: None)
    some = [
        one for one in getattr(type_, "types", (type_,)) if not isinstance(one, inspect.NoneType)
    ]
    if len(some) > 1:
        number = any(isinstance(one, inspect.FloatType) for one in some)
        return _Field(name, _quantity if number else _int_or_string)
    match some[0]:
        case inspect.VarTupleType(item_type=item):
            return _Field(name, _reader(holder, name, item), list)
        case inspect.DictType(value_type=value) if not isinstance(value, inspect.AnyType):
            raw = (holder, name) in _BYTES
            return _Field(name, _entry(_base64 if raw else _reader(holder, name, value)), dict)
    return _Field(name, _reader(holder, name, some[0]))


def _reader(holder: str, name: str, type_: inspect.Type) -> _Read:
    """What reads one value of the type."""
    match type_:
        case inspect.StructType(cls=struct):
            return lambda value: _message(struct)(value)
        case inspect.StrType():
            return _time if holds_time(name) else _text
        case inspect.BoolType():
            return lambda value: bool(_number(value))
        case inspect.IntType():
            return lambda value: protowire.signed(_number(value))
        case inspect.UnionType():
            return _quantity

    def refuse(value: _Wire) -> Any:
        raise BadRequest(f"{name} of {holder} is not read from protobuf; send the object as JSON")

    return refuse


# --- values ----------------------------------------------------------------------------------


def _bytes(value: _Wire) -> memoryview:
    if isinstance(value, int):
        raise ValueError("expected bytes, got a number")
    return value


def _number(value: _Wire) -> int:
    if not isinstance(value, int):
        raise ValueError("expected a number, got bytes")
    return value


def _text(value: _Wire) -> str:
    return str(_bytes(value), "utf-8")


def _base64(value: _Wire) -> str:
    return base64.b64encode(_bytes(value)).decode()


def _entry(read: _Read) -> _Read:
    """An entry of a map as a pair."""

    def pair(value: _Wire) -> tuple[str, Any]:
        found = dict(protowire.read(_bytes(value)))
        nothing = memoryview(b"")
        return _text(found.get(1, nothing)), read(found.get(2, nothing))

    return pair


def _quantity(value: _Wire) -> str:
    return _text(dict(protowire.read(_bytes(value))).get(1, memoryview(b"")))


def _int_or_string(value: _Wire) -> int | str:
    found = dict(protowire.read(_bytes(value)))
    if found.get(1, 0):  # its type: 0 a number, 1 a text
        return _text(found.get(3, memoryview(b"")))
    return protowire.signed(_number(found.get(2, 0)))


def _time(value: _Wire) -> str | None:
    """RFC 3339; None for Go's zero time, which is an empty message."""
    found = dict(protowire.read(_bytes(value)))
    if not found:
        return None
    seconds, nanos = (protowire.signed(_number(found.get(number, 0))) for number in (1, 2))
    if not 0 <= nanos < 1_000_000_000:
        raise ValueError("the nanoseconds of a time are more than a second")
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return f"{moment.isoformat()}Z"
