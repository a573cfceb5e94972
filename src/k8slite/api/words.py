"""What a user types to name objects: ``pods,rc``, ``rc nginx``, ``pod/a svc/b``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from k8slite.api.errors import BadRequest
from k8slite.api.scheme import Kind, Scheme


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object, or all of a kind when ``name`` is ""."""

    kind: Kind[Any]
    name: str = ""


def _all_words(scheme: Scheme) -> list[str]:
    return [
        word
        for kind in scheme
        for word in (kind.plural, kind.singular, *kind.short_names, *kind.aliases)
    ]


def kind_of(word: str, scheme: Scheme) -> Kind[Any]:
    """Raises BadRequest that suggests the nearest word there is."""
    kind = scheme.word(word)
    if kind is not None:
        return kind
    near = get_close_matches(word.lower(), _all_words(scheme), n=1, cutoff=0.5)
    mend = f"did you mean {near[0]!r}?" if near else "`k8slite ctl get --help` lists them"
    raise BadRequest(f"there is no resource type {word!r}; {mend}")


def document_kind(name: str, scheme: Scheme) -> Kind[Any]:
    """The kind that a document names. Raises BadRequest that suggests the nearest there is."""
    kind = scheme.named(name)
    if kind is not None:
        return kind
    known = {kind.kind.lower(): kind.kind for kind in scheme}
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    mend = f"did you mean {known[near[0]]}?" if near else f"known are {', '.join(known.values())}"
    raise BadRequest(f"there is no kind {name!r}; {mend}")


def kinds_of(words: str, scheme: Scheme) -> list[Kind[Any]]:
    """``services,minions``, or a category: ``all``. Raises BadRequest."""
    found: dict[str, Kind[Any]] = {}
    for word in filter(None, words.split(",")):
        in_category = [kind for kind in scheme if word in kind.categories]
        for kind in in_category or [kind_of(word, scheme)]:
            found[f"{kind.plural}.{kind.group}"] = kind
    if not found:
        raise BadRequest("say a resource type: pods, rc, services, nodes, …")
    return list(found.values())


def wanted(words: Sequence[str], scheme: Scheme) -> list[Wanted]:
    """The arguments of ``get``, ``delete`` and their like. Raises BadRequest."""
    if not words:
        raise BadRequest("say a resource type: pods, rc, services, nodes, …; or a file with -f")
    if any("/" in word for word in words):
        return [_slashed(word, scheme) for word in words]
    first, *names = words
    kinds = kinds_of(first, scheme)
    if not names:
        return [Wanted(kind) for kind in kinds]
    return [Wanted(kind, name) for kind in kinds for name in dict.fromkeys(names)]


def _slashed(word: str, scheme: Scheme) -> Wanted:
    kind, slash, name = word.partition("/")
    if not (kind and slash and name) or "/" in name:
        raise BadRequest(f"{word!r}: name every object as TYPE/NAME when one is named so")
    return Wanted(kind_of(kind, scheme), name)


def one(words: Sequence[str], scheme: Scheme) -> Wanted:
    """Exactly one object by name. Raises BadRequest."""
    found = wanted(words, scheme)
    if len(found) != 1 or not found[0].name:
        raise BadRequest("name one object: TYPE NAME or TYPE/NAME")
    return found[0]


def assignments(words: Sequence[str], what: str) -> tuple[dict[str, str], list[str]]:
    """``a=1 b-`` → ``({"a": "1"}, ["b"])``: what to set and what to remove. Raises BadRequest."""
    values: dict[str, str] = {}
    removed: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key:
            values[key] = value
        elif word.endswith("-") and len(word) > 1:
            removed.append(word[:-1])
        else:
            raise BadRequest(f"{word!r} is no {what}: write key=value, or key- to remove it")
    if both := values.keys() & set(removed):
        raise BadRequest(f"{', '.join(sorted(both))}: set and removed at once")
    return values, removed


def is_assignment(word: str) -> bool:
    """Does ``word`` set or remove a label, rather than name an object?"""
    return "=" in word or word.endswith("-")
