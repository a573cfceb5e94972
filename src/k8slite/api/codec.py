"""Documents → objects, and objects ↔ stored bytes (law 6: encoded once per revision).

A document is what a user sends: JSON or YAML, in any version, with whatever mistakes. It is read
in one direction only: body → plain dict → ``v1`` dict → struct. Whatever is wrong with it is a
``BadRequest`` of one line; fields that nobody knows are named in ``Decoded.warnings``.

Stored bytes are the ``v1`` JSON of an object without its resourceVersion, which only the store
knows. Because every encoding of a kind begins with the same head, ``stamp`` can splice the version
in without decoding anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from k8slite.api import fields, v1beta3, yamldoc
from k8slite.api.errors import BadRequest, UnsupportedMediaType
from k8slite.api.kinds import SCHEME
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind, Raw
from k8slite.api.struct import Struct
from k8slite.api.validation import shown

T = TypeVar("T", bound=Object)
S = TypeVar("S", bound=Struct)

_JSON = frozenset({"", "application/json", "text/json"})
_PROTOBUF = "application/vnd.kubernetes.protobuf"
_YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})

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


# -- documents coming in ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    """An object as its author wrote it: in ``v1`` shape, typed, not yet defaulted.

    ``warnings`` are sentences such as ``unknown field "spec.portals"``. ``api_version`` is the
    version that the document was written in.
    """

    object: T
    kind: Kind[T]
    warnings: list[str] = field(default_factory=list)
    api_version: str = "v1"


def decode_document(
    body: bytes,
    content_type: str = "",
    *,
    kind: Kind[T] | None = None,
    api_version: str | None = None,
    strict: bool = False,
) -> Decoded[T]:
    """One object out of a request's body.

    ``kind`` and ``api_version`` are the door's, when it has them: what the document leaves out is
    taken from there, what it says must agree. ``strict`` turns warnings into a refusal.

    Raises BadRequest (malformed, wrong types, unknown kind or version) and UnsupportedMediaType.
    """
    raw, duplicates = read_body(body, content_type)
    return from_raw(raw, kind=kind, api_version=api_version, strict=strict, duplicates=duplicates)


def from_raw(
    raw: Any,
    *,
    kind: Kind[T] | None = None,
    api_version: str | None = None,
    strict: bool = False,
    duplicates: list[str] | None = None,
) -> Decoded[T]:
    """``decode_document`` for a document that is a plain dict already (without null members)."""
    if type(raw) is not dict:
        raise BadRequest(f"expected an object, got {_noun(raw)}")
    version = _version(raw, api_version)
    kind = _kind(raw, kind, version)
    document = v1beta3.from_v1beta3(raw, kind) if version == v1beta3.VERSION else raw
    warnings = [f'duplicate field "{path}"' for path in duplicates or ()]
    obj = _convert(document, kind.type, warnings, strict)
    if obj.kind != kind.kind or obj.api_version != kind.api_version:
        obj = msgspec.structs.replace(obj, kind=kind.kind, api_version=kind.api_version)
    return Decoded(obj, kind, warnings, version)


def decode_struct(
    body: bytes, content_type: str, struct: type[S], *, strict: bool = False
) -> tuple[S, list[str]]:
    """A body that is no stored kind (DeleteOptions, Scale) and its warnings. Raises as
    ``decode_document``; kind and apiVersion are left to the caller."""
    raw, duplicates = read_body(body, content_type)
    if type(raw) is not dict:
        raise BadRequest(f"expected an object, got {_noun(raw)}")
    if raw.get("apiVersion") == v1beta3.VERSION:
        raw = fields.folded_names(struct, raw)
    warnings = [f'duplicate field "{path}"' for path in duplicates]
    return _convert(raw, struct, warnings, strict), warnings


def decode_documents(text: str | bytes) -> Iterator[Raw]:
    """Every document of a file, JSON or YAML, as plain dicts that carry kind and apiVersion.

    Empty documents are skipped and lists are opened. Raises BadRequest.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if text.lstrip()[:1] == b"{" and _is_one_json(text):
        found: Iterator[Any] = iter((read_body(text, "")[0],))
    else:
        found = (fields.without_nulls(document) for document, _ in yamldoc.documents(text))
    for document in found:
        if document is not None:
            yield from _opened(document)


def _opened(document: Any) -> Iterator[Raw]:
    if type(document) is not dict:
        raise BadRequest(f"expected an object, got {_noun(document)}")
    name = document.get("kind")
    if not isinstance(name, str) or not name:
        raise BadRequest("the document does not say its kind")
    if not isinstance(document.get("apiVersion"), str):
        raise BadRequest(f"the {shown(name)[1:-1]} does not say its apiVersion")
    items = document.get("items")
    if not name.endswith("List") or not isinstance(items, list):
        yield document
        return
    for item in items:
        if type(item) is not dict:
            raise BadRequest(f"expected an object in the {shown(name)[1:-1]}, got {_noun(item)}")
        head = {"apiVersion": document["apiVersion"], "kind": name.removesuffix("List")}
        yield from _opened({**head, **item} if name != "List" else item)


def read_body(body: bytes, content_type: str) -> tuple[Any, list[str]]:
    """A body as plain values without null members, and the paths of keys that stand twice.

    Raises BadRequest and UnsupportedMediaType.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in _JSON:
        return _read_json(body)
    if media in _YAML:
        return _read_yaml(body)
    if media == _PROTOBUF:
        from k8slite.api import protobuf  # few clients speak it

        return protobuf.read_document(body), []
    raise UnsupportedMediaType(
        f"the body is {media[:100]}; send application/json or application/yaml"
    )


_plain = msgspec.json.Decoder()


def _is_one_json(body: bytes) -> bool:
    try:
        _plain.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _read_json(body: bytes) -> tuple[Any, list[str]]:
    if not body.strip():
        raise BadRequest("the body is empty; an object is expected")
    try:
        raw = _plain.decode(body)
        if body.count(b"{") + body.count(b"[") > yamldoc.MAX_DEPTH:
            _refuse_depth(raw)
        if b"null" in body:
            raw = fields.without_nulls(raw)
            return raw, _duplicates(body)
        # Without white space the body is as long as its re-encoding, unless a key stands twice
        # (or is escaped, or a number is written in another way: then the slow look decides).
        if len(msgspec.json.format(body, indent=-1)) == len(_encoder.encode(raw)):
            return raw, []
        return raw, _duplicates(body)
    except UnicodeDecodeError:
        raise yamldoc.not_utf8(body) from None
    except RecursionError:
        raise BadRequest("the document nests too deeply") from None
    except msgspec.DecodeError as error:
        text = str(error).removeprefix("JSON is malformed: ")
        raise BadRequest(f"malformed JSON: {text[:1].lower()}{text[1:]}") from None


def _refuse_depth(raw: Any) -> None:
    level = [raw]
    for _ in range(yamldoc.MAX_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if type(value) is dict else value)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise BadRequest(f"the document nests deeper than {yamldoc.MAX_DEPTH} levels")


def _read_yaml(body: bytes) -> tuple[Any, list[str]]:
    found = yamldoc.documents(body)
    first = [document for _, document in zip(range(2), found, strict=False)]
    if not first or first[0][0] is None:
        raise BadRequest("the body is empty; an object is expected")
    if len(first) > 1:
        raise BadRequest("the body holds several documents; send one at a time")
    raw, duplicates = first[0]
    return fields.without_nulls(raw), duplicates


class _Twice(dict[str, Any]):
    """A JSON object that remembers which keys stood in it more than once."""

    twice: tuple[str, ...] = ()


def _duplicates(body: bytes) -> list[str]:
    def collect(pairs: list[tuple[str, Any]]) -> _Twice:
        result = _Twice(pairs)
        if len(result) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            result.twice = tuple(key for key, count in counts.items() if count > 1)
        return result

    def walk(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, _Twice):
            for key in value.twice:
                yield f"{path}.{shown(key)[1:-1]}".lstrip(".")
            for key, item in value.items():
                yield from walk(item, f"{path}.{key}")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, f"{path}[{index}]")

    found = walk(json.loads(body, object_pairs_hook=collect), "")
    return list(islice(found, fields.MAX_NAMED))


def _version(raw: Raw, door: str | None) -> str:
    version = raw.get("apiVersion", "")
    if not isinstance(version, str):
        raise BadRequest(f"apiVersion: expected a string, got {_noun(version)}")
    if not version:
        if door is None:
            raise BadRequest("the document does not say its apiVersion; known are v1 and v1beta3")
        return door
    if door is not None and version != door:
        raise BadRequest(
            f'the document says apiVersion {shown(version)}, this address takes "{door}"'
        )
    return version


def _kind(raw: Raw, door: Kind[T] | None, version: str) -> Kind[T]:
    name = raw.get("kind", "")
    if not isinstance(name, str):
        raise BadRequest(f"kind: expected a string, got {_noun(name)}")
    if not name and door is None:
        raise BadRequest("the document does not say its kind")
    found = SCHEME.named(name) if name else door
    if version == v1beta3.VERSION:
        served = found is not None and not found.group
    else:
        served = found is not None and found.api_version == version
    if found is None or not served:
        raise BadRequest(_unknown_kind(name or (door.kind if door else ""), version))
    if door is not None and found is not door:
        raise BadRequest(f'the document is of kind {shown(name)}, this address takes "{door.kind}"')
    return found


def _unknown_kind(name: str, version: str) -> str:
    versions = sorted({kind.api_version for kind in SCHEME} | {v1beta3.VERSION})
    said = f"no kind {shown(name)} is registered for version {shown(version)}"
    if version not in versions:
        return f"{said}; known versions are {', '.join(versions)}"
    kinds = (kind.kind for kind in SCHEME if version in (kind.api_version, v1beta3.VERSION))
    return f"{said}; known kinds are {', '.join(sorted(kinds))}"


def _convert(raw: Raw, struct: type[S], warnings: list[str], strict: bool) -> S:
    """A plain dict → a struct; what it does not know is added to ``warnings``."""
    found = fields.inspect(struct, raw)
    warnings += [f'unknown field "{path}"' for path in found.unknown]
    try:
        value = msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        raise BadRequest(fields.explain(error, raw)) from None
    except RecursionError:
        raise BadRequest("the document nests too deeply") from None
    if found.wrong:
        raise BadRequest("; ".join(found.wrong[:5]))
    if strict and warnings:
        raise BadRequest("strict decoding error: " + ", ".join(warnings))
    return value


def _noun(value: Any) -> str:
    nouns = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return nouns.get(type(value), "null" if value is None else "a number")
