"""Label and field selectors: the text that a user writes, and the question it asks of an object.

Labels (grammar of Kubernetes' ``labels.Parse``), joined by commas that mean "and":
``a=b``, ``a==b``, ``a!=b``, ``a in (b,c)``, ``a notin (b,c)``, ``a``, ``!a``, ``a>1``, ``a<1``.
An object without the key satisfies ``!=``, ``notin`` and ``!``.

Fields: ``path=value``, ``path==value``, ``path!=value``; a backslash quotes ``,``, ``=``, itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from k8slite.api.errors import BadRequest
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

Labels = Mapping[str, str] | None

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SYMBOLS = frozenset(("==", "!=", "=", "!", ",", "(", ")", "<", ">"))


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. ``operator`` is one of ``in notin exists ! > <``; ``=`` is ``in`` of one."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        try:
            found, bound = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return found > bound if self.operator == ">" else found < bound

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "<" | ">":
                return f"{self.key}{self.operator}{self.values[0]}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator == 'in' else '!='}{self.values[0]}"
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; without any, everything matches."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        found = labels or {}
        return all(requirement.matches(found) for requirement in self.requirements)

    def __bool__(self) -> bool:
        """Does it ask for anything?"""
        return bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING = LabelSelector()


def match_labels(selector: Labels, labels: Labels) -> bool:
    """Does ``labels`` hold every pair of ``selector``? An empty selector matches everything."""
    return (selector or {}).items() <= (labels or {}).items()


def format_labels(labels: Labels) -> str:
    """``{"b": "2", "a": "1"}`` → ``a=1,b=2``: a set of labels as a selector is written."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


class _LabelParser:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position = 0
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:  # pragma: no cover - every character begins some token
                raise self.error(f"unexpected {text[position]!r}")
            self.tokens.append(match[1])
            position = match.end()
        self.at = 0

    def error(self, why: str) -> BadRequest:
        return BadRequest(f"unable to parse label selector {self.text!r}: {why}")

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> LabelSelector:
        found: list[Requirement] = []
        while self.peek():
            found.append(self.requirement())
            separator = self.take()
            if separator not in ("", ","):
                raise self.error(f"found {separator!r}, expected ',' or the end")
            if separator == "," and not self.peek():
                raise self.error("nothing follows the last ','")
        return LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.take()
            return Requirement(self.key(), "!")
        key = self.key()
        operator = self.peek()
        if operator in ("", ","):
            return Requirement(key, "exists")
        self.take()
        match operator:
            case "=" | "==":
                return Requirement(key, "in", (self.value(),))
            case "!=":
                return Requirement(key, "notin", (self.value(),))
            case "in" | "notin":
                return Requirement(key, operator, self.values())
            case "<" | ">":
                return Requirement(key, operator, (self.number(),))
        raise self.error(f"found {operator!r}, expected one of = == != in notin < >")

    def key(self) -> str:
        key = self.take()
        if not key or key in _SYMBOLS:
            raise self.error(f"found {key!r}, expected a label key")
        if not is_label_key(key):
            raise self.error(
                f"{key!r} is no label key ([prefix/]name, name of at most 63 of A-Za-z0-9-_.)"
            )
        return key

    def value(self) -> str:
        if self.peek() in ("", ",", ")"):
            return ""
        value = self.take()
        if value in _SYMBOLS:
            raise self.error(f"found {value!r}, expected a label value")
        if not is_label_value(value):
            raise self.error(f"{value!r} is no label value (at most 63 of A-Za-z0-9-_.)")
        return value

    def values(self) -> tuple[str, ...]:
        if self.take() != "(":
            raise self.error("expected '(' after in or notin")
        found = {self.value()}
        while (token := self.take()) == ",":
            found.add(self.value())
        if token != ")":
            raise self.error("expected ',' or ')' in a set of values")
        return tuple(sorted(found))

    def number(self) -> str:
        value = self.value()
        try:
            return str(int(value))
        except ValueError:
            raise self.error(f"{value!r} is no whole number") from None


def is_label_key(key: str) -> bool:
    """``[prefix/]name``: a DNS subdomain of at most 253, a name of at most 63."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and _PREFIX.fullmatch(prefix)):
        return False
    return _NAME.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    return value == "" or _NAME.fullmatch(value) is not None


def parse_labels(text: str) -> LabelSelector:
    """Raises BadRequest that says what was expected where."""
    return _LabelParser(text).parse() if text else EVERYTHING


_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def from_document(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A ``LabelSelector`` of the API (``matchLabels``, ``matchExpressions``). Raises BadRequest."""
    document = selector or {}
    found = [
        Requirement(key, "in", (value,))
        for key, value in (document.get("matchLabels") or {}).items()
    ]
    for expression in document.get("matchExpressions") or ():
        operator = _OPERATORS.get(expression.get("operator", ""))
        if operator is None:
            raise BadRequest(
                f"matchExpressions: {expression.get('operator')!r} is no operator "
                f"(one of {', '.join(_OPERATORS)})"
            )
        values = tuple(sorted(expression.get("values") or ()))
        found.append(Requirement(expression.get("key", ""), operator, values))
    return LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    path: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        quoted = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.path}{'=' if self.equal else '!='}{quoted}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Conditions on the fields that a kind declares; all must hold."""

    requirements: tuple[FieldRequirement, ...] = ()
    fields: Callable[[Any], Mapping[str, str]] | None = None

    def matches(self, obj: Object) -> bool:
        further: Mapping[str, str] | None = None
        for requirement in self.requirements:
            if requirement.path == "metadata.name":
                found = obj.metadata.name
            elif requirement.path == "metadata.namespace":
                found = obj.metadata.namespace
            else:
                if further is None:
                    further = self.fields(obj) if self.fields else {}
                found = further.get(requirement.path, "")
            if (found == requirement.value) is not requirement.equal:
                return False
        return True

    def exact(self, path: str) -> str | None:
        """The one value that ``path`` may have, or None when it is not pinned: a list with
        ``metadata.name=x`` is a look-up, a watch with ``spec.nodeName=x`` an index."""
        for requirement in self.requirements:
            if requirement.path == path and requirement.equal:
                return requirement.value
        return None

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


_FIELD_PART = re.compile(r"((?:[^\\,=!]|\\[\\,=])+)(==|!=|=)((?:[^\\,=]|\\[\\,=])*)(,|$)")
#: What v0.17 called a field that has another name today.
_OLD_NAMES = {"spec.host": "spec.nodeName", "name": "metadata.name"}


def parse_fields(text: str, kind: Kind[Any]) -> FieldSelector:
    """Raises BadRequest for a text that cannot be read and for fields that ``kind`` lacks."""
    known = {"metadata.name", *kind.fields(kind.new())}
    if kind.namespaced:
        known.add("metadata.namespace")
    found: list[FieldRequirement] = []
    position = 0
    while position < len(text):
        match = _FIELD_PART.match(text, position)
        if match is None:
            raise BadRequest(
                f"unable to parse field selector {text!r}: expected field=value, field==value or "
                f"field!=value at {text[position:]!r}"
            )
        position = match.end()
        path = match[1].strip()
        path = _OLD_NAMES.get(path, path)
        if path not in known:
            raise BadRequest(
                f"field label not supported: {path} "
                f"({kind.plural} have: {', '.join(sorted(known))})"
            )
        value = re.sub(r"\\(.)", r"\1", match[3])
        found.append(FieldRequirement(path, value, match[2] != "!="))
    return FieldSelector(tuple(found), kind.fields)
