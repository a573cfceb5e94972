"""What fields a kind has, read off its structs; and what in a raw document fits none of them.

Documents come in as plain dicts. Before a dict becomes a struct this room drops JSON nulls (to
Kubernetes a null field is an absent one), names unknown fields, and checks what a struct's types
cannot: that times are times and that integers fit in 64 bits.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from typing import Any

import msgspec

from k8slite.api.struct import Struct
from k8slite.api.validation import shown

#: A hook for one field: ``hook(value, path, found)`` notes what is wrong with the value.
Hook = Callable[[Any, str, "Findings"], None]

#: How many unknown fields of one document are named.
MAX_NAMED = 100
#: How many objects a list of a document may hold.
MAX_OBJECTS = 10_000

_INT64 = 1 << 63
_TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)


@dataclass(slots=True)
class Findings:
    """What a look over a document turned up: paths of unknown fields, lines about bad values."""

    unknown: list[str]
    wrong: list[str]


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one struct: wire name → hook (None: nothing to look at below)."""

    hooks: dict[str, Hook | None]
    #: lower-case name → wire name, for the door where case does not matter.
    folded: dict[str, str]
    #: wire name → (struct below, is it a list of them?)
    below: dict[str, tuple[type[Struct], bool]]

    def inspect(self, raw: Any, path: str, found: Findings) -> None:
        """Note what is unknown or wrong in ``raw``; a value of the wrong type is left alone, for
        the conversion to refuse."""
        if type(raw) is not dict:
            return
        hooks = self.hooks
        for name, value in raw.items():
            try:
                hook = hooks[name]
            except KeyError:
                if len(found.unknown) < MAX_NAMED:
                    found.unknown.append(f"{path}{shown(name)[1:-1]}")
                continue
            if hook is not None:
                hook(value, f"{path}{name}", found)


@cache
def fields_of(struct: type[Struct]) -> Fields:
    """The fields of ``struct``, computed once."""
    hooks: dict[str, Hook | None] = {}
    below: dict[str, tuple[type[Struct], bool]] = {}
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        wire: str = field.encode_name
        inner, repeated = _struct_inside(hints[field.name])
        if inner is not None:
            below[wire] = (inner, repeated)
            hooks[wire] = _each_hook(inner) if repeated else _struct_hook(inner)
        else:
            hooks[wire] = _leaf_hook(wire, hints[field.name])
    return Fields(hooks, {name.lower(): name for name in hooks}, below)


def _struct_inside(hint: Any) -> tuple[type[Struct] | None, bool]:
    """The struct in ``Struct``, ``Struct | None`` (not repeated) or ``tuple[Struct, ...]``."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            inner, repeated = _struct_inside(option)
            if inner is not None:
                return inner, repeated
        return None, False
    if origin is tuple:
        inner, _ = _struct_inside(typing.get_args(hint)[0])
        return inner, inner is not None
    return (hint, False) if isinstance(hint, type) and issubclass(hint, Struct) else (None, False)


def _struct_hook(struct: type[Struct]) -> Hook:
    def look(value: Any, path: str, found: Findings) -> None:
        fields_of(struct).inspect(value, f"{path}.", found)

    return look


def _each_hook(struct: type[Struct]) -> Hook:
    def look(value: Any, path: str, found: Findings) -> None:
        if type(value) is list:
            if len(value) > MAX_OBJECTS:
                said = f"{path}: {len(value)} objects; a list may hold {MAX_OBJECTS}"
                found.wrong.append(said)
                return
            inspect = fields_of(struct).inspect
            for index, item in enumerate(value):
                inspect(item, f"{path}[{index}].", found)

    return look


def holds_time(wire: str) -> bool:
    """Is a field of text of this name a time?"""
    return wire.endswith(("Time", "Timestamp", "startedAt", "finishedAt"))


def _leaf_hook(wire: str, hint: Any) -> Hook | None:
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    if str in options and holds_time(wire):
        return _look_at_time
    if int in options:
        return _look_at_integer
    return None


_UNIONS = (typing.Union, types.UnionType)


def _look_at_time(value: Any, path: str, found: Findings) -> None:
    if type(value) is str and value and not _TIME.fullmatch(value):
        said = f"expected a time like 2026-01-02T03:04:05Z, got {shown(value)}"
        found.wrong.append(f"{path}: {said}")


def _look_at_integer(value: Any, path: str, found: Findings) -> None:
    if type(value) is int and not -_INT64 <= value < _INT64:
        found.wrong.append(f"{path}: the number does not fit in 64 bits")


def inspect(struct: type[Struct], raw: Any) -> Findings:
    """Everything in ``raw`` that ``struct`` does not know or allow."""
    found = Findings([], [])
    try:
        msgspec.convert(raw, _strict_twin(struct))
    except msgspec.ValidationError:  # the careful look finds all there is, and where
        fields_of(struct).inspect(raw, "", found)
    return found


@cache
def _strict_twin(struct: type[Struct]) -> type[msgspec.Struct]:
    """``struct`` as a type that refuses whatever ``Fields.inspect`` would name.

    Nearly every document is in order, and msgspec finds that out four times as fast.
    """
    hints = typing.get_type_hints(struct)
    known = msgspec.structs.fields(struct)
    return msgspec.defstruct(
        struct.__name__,
        [(field.name, _strict(hints[field.name], field.encode_name), None) for field in known],
        rename={field.name: field.encode_name for field in known},
        forbid_unknown_fields=True,
        gc=False,
    )


def _strict(hint: Any, wire: str) -> Any:
    """``hint`` with strict twins for structs, and with the bounds of times and integers."""
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        return reduce(or_, (_strict(option, wire) for option in typing.get_args(hint)))
    if origin is tuple:
        inner, _ = _struct_inside(hint)
        item = typing.get_args(hint)[0]
        bounded = msgspec.Meta(max_length=MAX_OBJECTS) if inner is not None else msgspec.Meta()
        return typing.Annotated[list[_strict(item, wire)], bounded]  # type: ignore[misc]
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _strict_twin(hint)
    hook = _leaf_hook(wire, hint)
    if hook is _look_at_time:
        return typing.Annotated[str, msgspec.Meta(pattern=rf"\A({_TIME.pattern})?\Z")]
    if hook is _look_at_integer:
        return typing.Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
    return hint


def without_nulls(value: Any) -> Any:
    """``value`` with every null member of an object left out (a null in a list stays)."""
    if type(value) is dict:
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if type(value) is list:
        return [without_nulls(item) for item in value]
    return value


def folded_names(struct: type[Struct], raw: Any) -> Any:
    """``raw`` with field names that differ from the struct's in case alone put right.

    2015's decoder matched names without regard to case (``TimeoutSeconds``); when two spellings of
    a field stand in one object the later one counts, as it did then. Keys of maps (labels) are
    data and stay.
    """
    if type(raw) is not dict:
        return raw
    fields = fields_of(struct)
    result: dict[str, Any] = {}
    wire: str
    for wire, value in raw.items():
        if wire not in fields.hooks:
            wire = fields.folded.get(wire.lower(), wire)
        if wire in fields.below:
            inner, repeated = fields.below[wire]
            if not repeated:
                value = folded_names(inner, value)
            elif type(value) is list:
                value = [folded_names(inner, item) for item in value]
        result[wire] = value
    return result


# -- turning msgspec's complaints into ours -----------------------------------------------------

_COMPLAINT = re.compile(r"(?s)(.*?)(?: - at `(?:key` in `)?\$(.*)`)?")
_EXPECTED = re.compile(r"Expected `(.*)`, got `(.*)`")
_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "nothing",
}
_GOT = _NAMES | {"bool": "a boolean", "null": "null", "dict": "an object", "list": "a list"}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "array": list, "object": dict}


def explain(error: msgspec.ValidationError, raw: Any) -> str:
    """A conversion error as ``spec.ports[0].port: expected an integer, got a string``."""
    matched = _COMPLAINT.fullmatch(str(error))
    text, place = (matched[1], matched[2] or "") if matched else (str(error), "")
    expected = _EXPECTED.fullmatch(text)
    if expected is None:
        said = text[:1].lower() + text[1:]
        return f"{place.lstrip('.')}: {said}" if place else said
    wanted = [_NAMES.get(name, name) for name in expected[1].split(" | ") if name != "null"]
    if "a string" in wanted and "a number" in wanted:
        wanted = ["a string", "a number"]
    got = expected[2]
    said = f"expected {' or '.join(wanted)}, got {_GOT.get(got, got)}"
    path = "".join(_place(place, raw, _TYPES.get(got)))
    return f"{path}: {said}" if path else said


def _place(place: str, raw: Any, got: type | None) -> Iterator[str]:
    """The path with the key of a map named where msgspec writes ``[...]``."""
    for step in re.findall(r"\.[^.\[]+|\[\d+\]|\[\.\.\.\]", place):
        if step == "[...]" and isinstance(raw, dict):
            key = next((key for key, value in raw.items() if type(value) is got), "...")
            raw = raw.get(key)
            yield f"[{shown(key)[1:-1]}]"
            continue
        if step.startswith("."):
            raw = raw.get(step[1:]) if isinstance(raw, dict) else None
            yield step if place.index(step) else step[1:]
        else:
            index = int(step[1:-1]) if step != "[...]" else 0
            raw = raw[index] if isinstance(raw, list) and index < len(raw) else None
            yield step
