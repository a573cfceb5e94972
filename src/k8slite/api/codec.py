"""Objects ↔ stored bytes (law 6: encoded once per revision).

Stored bytes are the ``v1`` JSON of an object without its resourceVersion, which only the store
knows. Because every encoding of a kind begins with the same head, ``stamp`` can splice the version
in without decoding anything.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

T = TypeVar("T", bound=Object)

_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: Kind[T]) -> msgspec.json.Decoder[T]:
    found = _decoders.get(kind.type)
    if found is None:
        found = _decoders[kind.type] = msgspec.json.Decoder(kind.type)
    return found


def _head(kind: Kind[Any]) -> bytes:
    return f'{{"kind":"{kind.kind}","apiVersion":"{kind.api_version}","metadata":{{'.encode()


def with_version(obj: T, version: str) -> T:
    """``obj`` at resourceVersion ``version`` ("" for none)."""
    meta = msgspec.structs.replace(obj.metadata, resource_version=version)
    return msgspec.structs.replace(obj, metadata=meta)


def encode_stored(obj: Object) -> bytes:
    """The bytes that the store keeps: no resourceVersion."""
    if obj.metadata.resource_version:
        obj = with_version(obj, "")
    return _encoder.encode(obj)


def stamp(kind: Kind[Any], stored: bytes, revision: int) -> bytes:
    """Stored bytes → wire bytes of the same object at ``revision``.

    Raises ValueError when ``stored`` does not begin with the kind's head.
    """
    head = _head(kind)
    if not stored.startswith(head):
        raise ValueError(f"not a stored {kind.kind}: {stored[:60]!r}")
    tail = stored[len(head) :]
    comma = b"" if tail.startswith(b"}") else b","
    return b'%b"resourceVersion":"%d"%b%b' % (head, revision, comma, tail)


def decode(kind: Kind[T], data: bytes) -> T:
    """Wire or stored ``v1`` bytes that we encoded ourselves → the struct (no defaulting).

    Raises msgspec.ValidationError or msgspec.DecodeError when the bytes are not ours.
    """
    return _decoder(kind).decode(data)


def encode(obj: Any) -> bytes:
    """Any struct → JSON bytes."""
    return _encoder.encode(obj)
