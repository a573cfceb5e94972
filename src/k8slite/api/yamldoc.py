"""YAML text → plain documents, safely: in linear time, with bounds, and without surprises.

Built on libyaml's event stream, so that one pass can do what a general loader does not: refuse
alias bombs and deep nesting, name duplicate keys, and read scalars as Kubernetes does:

- ``yes``, ``on`` and their like are booleans (YAML 1.1), ``0644`` is octal;
- times and ``1:30`` stay text, since JSON has no other way to carry them;
- ``.nan`` and ``.inf`` are refused, since JSON cannot carry them;
- keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from k8slite.api.errors import BadRequest
from k8slite.api.validation import shown

#: How deep a document may nest, in any format.
MAX_DEPTH = 200
#: How many values a document may hold, and how many aliases may add.
MAX_VALUES = 250_000
MAX_ALIASED = 100_000
#: How many keys that stand twice are named.
_MAX_NAMED = 100

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
for _yes, _no in (("yes", "no"), ("true", "false"), ("on", "off")):
    for _style in (str.lower, str.capitalize, str.upper):
        _WORDS[_style(_yes)], _WORDS[_style(_no)] = True, False

_INTEGER = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|[1-9][0-9_]*|0)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"


def documents(text: str | bytes) -> Iterator[tuple[Any, list[str]]]:
    """Each document of a stream, with the paths of keys that stand twice in one object.

    Raises BadRequest, in one line that says where.
    """
    if isinstance(text, bytes):
        text = _decoded(text)
    try:
        builder = _Builder()
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                builder = _Builder()
            elif isinstance(event, yaml.DocumentEndEvent):
                yield builder.root, builder.duplicates
            elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent):
                builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise BadRequest(f"malformed YAML: {where}{str(error.problem)[:200]}") from None
    except yaml.YAMLError as error:
        raise BadRequest(f"malformed YAML: {' '.join(str(error).split())[:200]}") from None


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise not_utf8(body) from None


def not_utf8(body: bytes) -> BadRequest:
    """The complaint about a body that is not UTF-8, with the place of the first bad byte."""
    whole = body.decode("utf-8", "replace")
    before = whole.partition("\N{REPLACEMENT CHARACTER}")[0]
    return BadRequest(f"the body is not UTF-8: byte {len(before.encode())} fits nothing")


class _Builder:
    """Puts one document together from events, without recursion."""

    def __init__(self) -> None:
        self.root: Any = None
        self.duplicates: list[str] = []
        self._open: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0
        self._values = 0

    def take(self, event: Any) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise BadRequest(f"the document holds more than {MAX_VALUES} values")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise BadRequest(f"the document nests deeper than {MAX_DEPTH} levels")
            value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._open.append(_Frame(value, event.anchor, self._place()))
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        else:
            frame = self._open.pop()
            if frame.anchor:
                self._anchors[frame.anchor] = (frame.value, frame.size)
            self._put(frame.value, frame.size)

    def _scalar(self, event: Any) -> None:
        frame = self._open[-1] if self._open else None
        value = event.value if _is_text(event) else _scalar(event)
        if frame is not None and frame.wants_key:
            if value == "<<" and event.implicit[0]:
                frame.key, frame.merging = "<<", True
            else:
                self._key(frame, _key_text(value))
            return
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._put(value, 1)

    def _key(self, frame: _Frame, key: str) -> None:
        if key in frame.keys and len(self.duplicates) < _MAX_NAMED:
            self.duplicates.append(f"{frame.place}.{shown(key)[1:-1]}".lstrip(".")[:500])
        frame.keys.add(key)
        frame.key = key

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise BadRequest(_at(event, f"nothing is anchored as &{event.anchor}"))
        value, size = self._anchors[event.anchor]
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise BadRequest(f"aliases add more than {MAX_ALIASED} values to the document")
        if self._open and self._open[-1].wants_key:
            if isinstance(value, dict | list):
                raise BadRequest(_at(event, "a key must be a scalar"))
            self._key(self._open[-1], _key_text(value))
            return
        self._put(value, size)

    def _put(self, value: Any, size: int) -> None:
        if not self._open:
            self.root = value
            return
        frame = self._open[-1]
        frame.size += size
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is None:
            raise BadRequest("malformed YAML: a key must be a scalar")
        else:
            if frame.merging:
                _merge(frame, value)
            else:
                frame.value[frame.key] = value
            frame.key, frame.merging = None, False

    def _place(self) -> str:
        """The path of the value that comes next."""
        if not self._open:
            return ""
        frame = self._open[-1]
        if isinstance(frame.value, list):
            return f"{frame.place}[{len(frame.value)}]"
        return f"{frame.place}.{(frame.key or '')[:100]}".lstrip(".")


class _Frame:
    """One open mapping or sequence. ``size`` counts the values in it, aliases expanded."""

    __slots__ = ("anchor", "key", "keys", "merging", "place", "size", "value")

    def __init__(self, value: Any, anchor: str | None, place: str) -> None:
        self.value = value
        self.anchor = anchor
        self.place = place
        self.size = 1
        self.key: str | None = None
        self.keys: set[str] = set()
        self.merging = False

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None


def _merge(frame: _Frame, value: Any) -> None:
    """``<<: *base``: keys that the mapping itself gives win over merged ones."""
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise BadRequest("malformed YAML: << merges mappings only")
        for key, item in source.items():
            frame.value.setdefault(key, item)


def _is_text(event: Any) -> bool:
    """Quoted, block, or tagged !!str."""
    if event.implicit[0]:
        return False
    return event.tag in (None, "!", f"{_TAG}str")


def _scalar(event: Any) -> Any:
    if not event.implicit[0] and event.tag not in _KNOWN_TAGS:
        tag = event.tag.replace(_TAG, "!!")
        raise BadRequest(_at(event, f"the tag {tag} is not known here"))
    text = event.value
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, event)
    if _FLOAT.fullmatch(text):
        return _float(text, event)
    if _NOT_FINITE.fullmatch(text):
        raise BadRequest(_at(event, f"{text} is no number that JSON can carry"))
    return text


_KNOWN_TAGS = {f"{_TAG}{name}" for name in ("int", "float", "bool", "null", "timestamp", "binary")}


def _integer(text: str, event: Any) -> int | str:
    digits = text.replace("_", "").lstrip("+-")
    if len(digits) > 80:
        raise BadRequest(_at(event, "the number is too long"))
    base = {"0x": 16, "0b": 2, "0o": 8}.get(digits[:2], 8 if digits[:1] == "0" else 10)
    try:
        value = int(digits, base)
    except ValueError:  # only a prefix and underscores
        return text
    return -value if text.startswith("-") else value


def _float(text: str, event: Any) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadRequest(_at(event, f"{text[:40]} is out of range"))
    return value


def _key_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _at(event: Any, problem: str) -> str:
    mark = event.start_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"malformed YAML: {where}{problem[:200]}"
