"""kubectl's JSONPath templates: ``{range .items[*]}{.metadata.name}{"\\n"}{end}``.

Text stands as it is; braces hold paths, quoted text, ``range`` and ``end``. A path has fields
(``.a``, ``['a.b']``, ``.a\\.b``), indices (``[0]``, ``[-1]``, ``[1:3]``, ``[0,2]``), ``[*]``,
``..name`` and filters (``[?(@.a=="b")]``). What is not there prints as nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from k8slite.api.errors import BadRequest

Json = Any
#: A step of a path: from one value to those it leads to; the second argument is the root.
Step = Callable[[Json, Json], Iterator[Json]]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Path:
    """``from_root`` for ``$``; otherwise from the value at hand."""

    steps: tuple[Step, ...]
    from_root: bool = False

    def values(self, value: Json, root: Json) -> list[Json]:
        found = [root if self.from_root else value]
        for step in self.steps:
            found = [inner for outer in found for inner in step(outer, root)]
        return found


@dataclass(frozen=True, slots=True)
class Range:
    over: Path
    body: tuple[Text | Path | Range, ...]


Node = Text | Path | Range


# --- steps -----------------------------------------------------------------------------------


def _field(name: str) -> Step:
    def step(value: Json, root: Json) -> Iterator[Json]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _every(value: Json, root: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _descend(name: str) -> Step:
    def step(value: Json, root: Json) -> Iterator[Json]:
        if isinstance(value, dict):
            if name in value:
                yield value[name]
            elif name == "*":
                yield from value.values()
        for inner in _every(value, root):
            yield from step(inner, root)

    return step


def _slice(start: int | None, stop: int | None, stride: int | None) -> Step:
    def step(value: Json, root: Json) -> Iterator[Json]:
        if isinstance(value, list):
            yield from value[start:stop:stride]

    return step


def _index(place: int) -> Step:
    def step(value: Json, root: Json) -> Iterator[Json]:
        if isinstance(value, list) and -len(value) <= place < len(value):
            yield value[place]

    return step


def _union(steps: list[Step]) -> Step:
    def step(value: Json, root: Json) -> Iterator[Json]:
        for one in steps:
            yield from one(value, root)

    return step


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

Operand = Callable[[Json, Json], list[Json]]


def _filter(left: Operand, compare: str, right: Operand | None) -> Step:
    def holds(value: Json, root: Json) -> bool:
        found = left(value, root)
        if right is None:
            return bool(found)
        other = right(value, root)
        if not found or not other:
            return False
        try:
            return _COMPARE[compare](found[0], other[0])
        except TypeError:
            return False

    def step(value: Json, root: Json) -> Iterator[Json]:
        yield from (item for item in _every(value, root) if holds(item, root))

    return step


# --- parser ----------------------------------------------------------------------------------

_NAME = re.compile(r"(?:[^\s.\[\]{}'\"()\\,=!<>]|\\.)+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_SLICE = re.compile(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/", "0": "\0"}


class _Parser:
    def __init__(self, template: str) -> None:
        self.text = template
        self.at = 0

    def error(self, why: str) -> BadRequest:
        return BadRequest(f"jsonpath {self.text!r}: {why} at character {self.at + 1}")

    def starts(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def skip(self, token: str) -> bool:
        if self.starts(token):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.skip(token):
            raise self.error(f"expected {token!r}")

    def spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def template(self) -> tuple[Node, ...]:
        nodes, ended = self.nodes()
        if ended:
            raise self.error("{end} without {range}")
        return nodes

    def nodes(self) -> tuple[tuple[Node, ...], bool]:
        """Nodes up to the end of the text or an ``{end}`` (True)."""
        found: list[Node] = []
        while self.at < len(self.text):
            if not self.skip("{"):
                stop = self.text.find("{", self.at)
                stop = len(self.text) if stop < 0 else stop
                found.append(Text(self.text[self.at : stop]))
                self.at = stop
                continue
            self.spaces()
            if re.match(r"end\s*}", self.text[self.at :]):
                self.at = self.text.index("}", self.at) + 1
                return tuple(found), True
            if re.match(r"range\s", self.text[self.at :]):
                found.append(self.range())
                continue
            found += self.action()
        return tuple(found), False

    def range(self) -> Range:
        self.at += len("range")
        self.spaces()
        over = self.path()
        self.spaces()
        self.expect("}")
        body, ended = self.nodes()
        if not ended:
            raise self.error("{range} without {end}")
        return Range(over, body)

    def action(self) -> Iterator[Node]:
        while not self.skip("}"):
            if self.at >= len(self.text):
                raise self.error("expected '}'")
            if self.starts('"') or self.starts("'"):
                yield Text(self.quoted())
            else:
                before = self.at
                yield self.path()
                if self.at == before:
                    raise self.error(f"unexpected {self.text[self.at]!r}")
            self.spaces()

    def quoted(self) -> str:
        quote = self.text[self.at]
        self.at += 1
        said: list[str] = []
        while not self.skip(quote):
            if self.at >= len(self.text):
                raise self.error(f"expected {quote}")
            character = self.text[self.at]
            self.at += 1
            if character == "\\" and self.at < len(self.text):
                character = _ESCAPES.get(self.text[self.at], "\\" + self.text[self.at])
                self.at += 1
            said.append(character)
        return "".join(said)

    def name(self) -> str:
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.error("expected a field name")
        self.at = match.end()
        return re.sub(r"\\(.)", r"\1", match[0])

    def path(self) -> Path:
        from_root = self.skip("$")
        if not from_root:
            self.skip("@")
        steps: list[Step] = []
        if _NAME.match(self.text, self.at):
            steps.append(self.named())
        while True:
            if self.skip(".."):
                steps.append(_descend(self.name()))
            elif self.skip("["):
                steps.append(self.bracket())
            elif self.skip("."):
                if _NAME.match(self.text, self.at):
                    steps.append(self.named())
                elif not self.starts("["):
                    break  # a lone dot is the value at hand
            else:
                break
        if not steps and self.at < len(self.text) and self.text[self.at] not in "} \t)=!<>":
            raise self.error(f"unexpected {self.text[self.at]!r}")
        return Path(tuple(steps), from_root)

    def named(self) -> Step:
        name = self.name()
        return _every if name == "*" else _field(name)

    def bracket(self) -> Step:
        self.spaces()
        if self.skip("?"):
            return self.filter()
        if self.skip("*"):
            self.expect("]")
            return _every
        steps = [self.element()]
        while self.skip(","):
            steps.append(self.element())
        self.expect("]")
        return steps[0] if len(steps) == 1 else _union(steps)

    def element(self) -> Step:
        self.spaces()
        if self.starts("'") or self.starts('"'):
            name = self.quoted()
            self.spaces()
            return _field(name)
        match = _SLICE.match(self.text, self.at)
        if match is None or not (match[1] or match[2]):
            raise self.error("expected an index, a range, '*', a quoted name or a filter")
        self.at = match.end()
        start, stop, stride = (int(found) if found else None for found in match.group(1, 3, 5))
        if not match[2]:
            return _index(start or 0)
        if stride == 0:
            raise self.error("a step of 0")
        return _slice(start, stop, stride)

    def filter(self) -> Step:
        self.expect("(")
        left = self.operand()
        self.spaces()
        compare = next((token for token in _COMPARE if self.skip(token)), "")
        right = self.operand() if compare else None
        self.spaces()
        self.expect(")")
        self.spaces()
        self.expect("]")
        return _filter(left, compare, right)

    def operand(self) -> Operand:
        self.spaces()
        if self.starts("'") or self.starts('"'):
            return _constant(self.quoted())
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            return _constant(float(match[0]) if match[1] else int(match[0]))
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.skip(word):
                return _constant(value)
        return self.path().values


def _constant(value: Json) -> Operand:
    return lambda _value, _root: [value]


# --- what users call -------------------------------------------------------------------------


def parse(template: str) -> tuple[Node, ...]:
    """Raises BadRequest with the place of the mistake. A bare path may lack its braces."""
    if "{" not in template and template[:1] in (".", "$", "["):
        template = f"{{{template}}}"
    return _Parser(template).template()


def parse_path(path: str) -> Path:
    """One path, as columns and sorting name fields: ``.metadata.name``, with or without dot
    and braces. Raises BadRequest."""
    inner = path.strip().removeprefix("{").removesuffix("}")
    parser = _Parser(inner if inner[:1] in (".", "$", "[", "@") else f".{inner}")
    found = parser.path()
    if parser.at < len(parser.text):
        raise parser.error("the path should end")
    return found


def as_text(value: Json) -> str:
    """A value as a template prints it: text bare, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def render(nodes: tuple[Node, ...], root: Json, value: Json = None, *, inner: bool = False) -> str:
    """The text that a parsed template makes of a document."""
    at_hand = value if inner else root
    said: list[str] = []
    for node in nodes:
        if isinstance(node, Text):
            said.append(node.text)
        elif isinstance(node, Path):
            said.append(" ".join(map(as_text, node.values(at_hand, root))))
        else:
            said += [
                render(node.body, root, item, inner=True)
                for item in node.over.values(at_hand, root)
            ]
    return "".join(said)
