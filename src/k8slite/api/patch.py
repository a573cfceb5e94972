"""The three ways to change a part of a document: JSON patch, merge patch, strategic merge patch.

Every function takes plain dicts and lists and returns a new document; what it was given stays as
it was. A patch that cannot be read raises BadRequest; a JSON patch that can be read and does not
fit the document raises an ApiError of code 422 that names the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import msgspec

from k8slite.api.errors import ApiError, BadRequest, TooLarge
from k8slite.api.mergekeys import PRIMITIVE

P = ParamSpec("P")
Json = Any
Document = dict[str, Any]

#: Kubernetes' own limit for the operations of one JSON patch.
MAX_OPERATIONS = 10_000
#: Bytes that the ``copy`` operations of one patch may add: a request's own limit.
MAX_COPIED = 3 * 1024 * 1024


def _bounded(apply: Callable[P, Json]) -> Callable[P, Json]:
    """Documents nested deeper than the interpreter's stack are refused, not answered with 500."""

    @wraps(apply)
    def bounded(*args: P.args, **kwargs: P.kwargs) -> Json:
        try:
            return apply(*args, **kwargs)
        except RecursionError:
            raise BadRequest("the patch or the object is nested too deeply") from None

    return bounded


@_bounded
def merge_patch(document: Json, patch: Json) -> Json:
    """RFC 7386: objects merge, null deletes, everything else replaces."""
    return _merge(document, patch)


def _merge(document: Json, patch: Json) -> Json:
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


# --- JSON patch (RFC 6902) -------------------------------------------------------------------


def _misfit(number: int, operation: Mapping[str, Any], why: str) -> ApiError:
    error = ApiError(
        f"the patch does not fit the object: operation {number} "
        f"({operation.get('op')} {operation.get('path')}): {why}"
    )
    error.code, error.reason = 422, "Invalid"
    return error


def _pointer(text: Any, what: str) -> list[str]:
    """RFC 6901: ``/a~1b/0`` → ``["a/b", "0"]``."""
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise BadRequest(f"{what}: {text!r} is no JSON pointer (it begins with '/')")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(array: Sequence[Any], part: str, *, appending: bool = False) -> int:
    limit = len(array) if appending else len(array) - 1
    if appending and part == "-":
        return len(array)
    if not part.isascii() or not part.isdigit() or (len(part) > 1 and part[0] == "0"):
        raise LookupError(f"{part!r} is no index of a list")
    if len(part) > 9 or int(part) > limit:
        raise LookupError(f"index {part} is outside a list of {len(array)}")
    return int(part)


def _child(value: Json, part: str) -> Json:
    if isinstance(value, dict):
        if part not in value:
            raise LookupError(f"there is no {part!r}")
        return value[part]
    if isinstance(value, list):
        return value[_index(value, part)]
    raise LookupError(f"{part!r} is below a value that is neither object nor list")


def _find(document: Json, parts: Sequence[str]) -> Json:
    for part in parts:
        document = _child(document, part)
    return document


def _at(document: Json, parts: Sequence[str], change: Callable[[Json, str], Json]) -> Json:
    """``document`` with the parent of ``parts`` replaced by ``change(parent, last part)``."""
    if len(parts) == 1:
        if not isinstance(document, dict | list):
            raise LookupError(f"{parts[0]!r} is below a value that is neither object nor list")
        return change(document, parts[0])
    inner = _at(_child(document, parts[0]), parts[1:], change)
    if isinstance(document, dict):
        return {**document, parts[0]: inner}
    index = _index(document, parts[0])
    return [*document[:index], inner, *document[index + 1 :]]


def _add(document: Json, parts: Sequence[str], value: Json) -> Json:
    def change(parent: Json, part: str) -> Json:
        if isinstance(parent, dict):
            return {**parent, part: value}
        index = _index(parent, part, appending=True)
        return [*parent[:index], value, *parent[index:]]

    return _at(document, parts, change) if parts else value


def _remove(document: Json, parts: Sequence[str]) -> Json:
    def change(parent: Json, part: str) -> Json:
        _child(parent, part)
        if isinstance(parent, dict):
            return {key: value for key, value in parent.items() if key != part}
        index = _index(parent, part)
        return [*parent[:index], *parent[index + 1 :]]

    return _at(document, parts, change) if parts else None


def _replace(document: Json, parts: Sequence[str], value: Json) -> Json:
    def change(parent: Json, part: str) -> Json:
        _child(parent, part)
        if isinstance(parent, dict):
            return {**parent, part: value}
        index = _index(parent, part)
        return [*parent[:index], value, *parent[index + 1 :]]

    return _at(document, parts, change) if parts else value


def _same(left: Json, right: Json) -> bool:
    """Equality of JSON values: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _apply(document: Json, op: str, operation: Mapping[str, Any]) -> Json:
    path = _pointer(operation.get("path"), f"{op} path")
    if op == "remove":
        return _remove(document, path)
    if op in ("move", "copy"):
        source = _pointer(operation.get("from"), f"{op} from")
        value = _find(document, source)
        if op == "copy":
            return _add(document, path, value)
        if path[: len(source)] == source and len(path) > len(source):
            raise LookupError("a value cannot be moved into itself")
        return _add(_remove(document, source), path, value)
    if "value" not in operation:
        raise BadRequest(f"{op} {operation.get('path')}: the operation has no value")
    value = operation["value"]
    if op == "add":
        return _add(document, path, value)
    if op == "replace":
        return _replace(document, path, value)
    if not _same(_find(document, path), value):
        raise LookupError("the value tested for is not there")
    return document


_OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")


@_bounded
def json_patch(document: Json, operations: Json) -> Json:
    """RFC 6902: all operations in order, or none.

    Raises BadRequest (malformed), TooLarge, or an ApiError of code 422 (does not fit).
    """
    if not isinstance(operations, list):
        raise BadRequest("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise TooLarge(f"a JSON patch may have {MAX_OPERATIONS} operations, not {len(operations)}")
    copied = 0
    for number, operation in enumerate(operations):
        op = operation.get("op") if isinstance(operation, dict) else None
        if op not in _OPERATIONS:
            raise BadRequest(
                f"operation {number} of the patch: op is {op!r}, "
                f"not one of {', '.join(_OPERATIONS)}"
            )
        try:
            if op == "copy":
                source = _find(document, _pointer(operation.get("from"), "copy from"))
                copied += len(msgspec.json.encode(source))
                if copied > MAX_COPIED:
                    raise TooLarge(f"the patch copies more than {MAX_COPIED} bytes")
            document = _apply(document, op, operation)
        except LookupError as why:
            raise _misfit(number, operation, str(why.args[0])) from None
    return document


# --- strategic merge patch -------------------------------------------------------------------

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"


@_bounded
def strategic_merge(document: Document, patch: Document, merge_keys: Mapping[str, str]) -> Json:
    """Kubernetes' strategic merge patch (apimachinery/pkg/util/strategicpatch).

    ``merge_keys`` maps the path of a list (``spec.containers.ports``, no indices) to the field
    that tells its elements apart, or to ``mergekeys.PRIMITIVE`` for a list of plain values that
    merge as a set; any other list is replaced. Raises BadRequest for an element without its key.
    """
    if not isinstance(patch, dict):
        raise BadRequest("a strategic merge patch is an object")
    return _Strategic(merge_keys).map(document, patch, "")


class _Strategic:
    def __init__(self, merge_keys: Mapping[str, str]) -> None:
        self._merge_keys = merge_keys

    def map(self, original: Document, patch: Document, path: str) -> Document:
        directive = patch.get(_DIRECTIVE)
        if directive == "replace":
            return {key: value for key, value in patch.items() if key != _DIRECTIVE}
        if directive == "delete":
            return {}
        if directive not in (None, "merge"):
            raise BadRequest(f"{path or 'patch'}: unknown {_DIRECTIVE} {directive!r}")
        merged = dict(original)
        if _RETAIN in patch:
            kept = _list(patch[_RETAIN], f"{path}.{_RETAIN}")
            merged = {key: value for key, value in merged.items() if key in kept}
        for key, value in patch.items():
            if key.startswith(_DELETE_PRIMITIVES):
                field = key.removeprefix(_DELETE_PRIMITIVES)
                gone = _list(value, f"{path}.{key}")
                merged[field] = [item for item in merged.get(field) or [] if item not in gone]
        for key, value in patch.items():
            if key.startswith("$"):
                continue
            inner = f"{path}.{key}" if path else key
            if value is None:
                merged.pop(key, None)
            elif key in merged:
                merged[key] = self.value(merged[key], value, inner)
            else:
                merged[key] = self.value(_like(value), value, inner)
        for key, value in patch.items():
            if key.startswith(_ORDER):
                self._reorder(original, merged, key.removeprefix(_ORDER), value, path)
        return merged

    def value(self, original: Json, patch: Json, path: str) -> Json:
        if isinstance(patch, dict):
            return self.map(original if isinstance(original, dict) else {}, patch, path)
        if isinstance(patch, list):
            key = self._merge_keys.get(path, "")
            if not key:
                return patch
            return self.list(original if isinstance(original, list) else [], patch, key, path)
        return patch

    def list(self, original: list[Json], patch: list[Json], key: str, path: str) -> list[Json]:
        identity = _identity(key, path)
        if key == PRIMITIVE:
            merged = list({identity(item): item for item in [*original, *patch]})
            return _ordered(merged, patch, original, identity)
        items = [item for item in patch if _directive(item) is None]
        if any(_directive(item) == "replace" for item in patch):
            return items
        gone = {identity(item) for item in patch if _directive(item) == "delete"}
        merged = [item for item in original if identity(item) not in gone]
        places = {identity(item): place for place, item in enumerate(merged)}
        for item in items:
            place = places.get(identity(item))
            if place is None:
                places[identity(item)] = len(merged)
                merged.append(self.map({}, item, path))
            else:
                merged[place] = self.map(merged[place], item, path)
        return _ordered(merged, items, original, identity)

    def _reorder(
        self, original: Document, merged: Document, field: str, order: Json, path: str
    ) -> None:
        inner = f"{path}.{field}" if path else field
        key = self._merge_keys.get(inner, "")
        if not key or not isinstance(merged.get(field), list):
            return
        identity = _identity(key, inner)
        wanted = _list(order, f"{path}.{_ORDER}{field}")
        merged[field] = _ordered(merged[field], wanted, original.get(field) or [], identity)


def _like(value: Json) -> Json:
    """The empty value that ``value`` merges into where the document has none."""
    return {} if isinstance(value, dict) else [] if isinstance(value, list) else None


def _list(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise BadRequest(f"{what.lstrip('.')}: not a list")
    return value


def _directive(item: Json) -> Json:
    return item.get(_DIRECTIVE) if isinstance(item, dict) else None


def _identity(key: str, path: str) -> Callable[[Json], Json]:
    """What tells an element of the list at ``path`` from its neighbours."""

    def itself(item: Json) -> Json:
        if isinstance(item, dict | list):
            raise BadRequest(f"{path}: every element is a plain value")
        return item

    def identity(item: Json) -> Json:
        if not isinstance(item, dict):
            raise BadRequest(f"{path}: every element is an object that has {key}")
        if key not in item and _directive(item) != "replace":
            raise BadRequest(f"{path}: an element lacks {key}, which tells the elements apart")
        found = item.get(key)
        if isinstance(found, dict | list):
            raise BadRequest(f"{path}: {key} is not a plain value")
        return found

    return itself if key == PRIMITIVE else identity


def _ordered(
    merged: Iterable[Json],
    wanted: Iterable[Json],
    server: Iterable[Json],
    identity: Callable[[Json], Json],
) -> list[Json]:
    """``merged`` with the elements of ``wanted`` in that order, and the others, whose order is the
    server's, between them as near to where they were as that allows (upstream's
    ``mergeSortedSlice``)."""
    order = {identity(item): place for place, item in reversed(list(enumerate(wanted)))}
    live = {identity(item): place for place, item in enumerate(server)}
    mine = sorted((i for i in merged if identity(i) in order), key=lambda i: order[identity(i)])
    others = sorted(
        (i for i in merged if identity(i) not in order),
        key=lambda i: live.get(identity(i), len(live)),
    )
    result: list[Json] = []
    for item in mine:
        place = live.get(identity(item))
        while others and place is not None and live.get(identity(others[0]), place) < place:
            result.append(others.pop(0))
        result.append(item)
    return result + others
