"""The table of kinds (law 5): a kind is declared once and everything else follows from it.

Routing, discovery, decoding, conversion, tables, the command line and garbage collection all read
``Kind``. The declarations live in ``k8slite.api.kinds.<kind>``; ``Scheme`` is the index over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from k8slite.api.errors import FieldError
from k8slite.api.meta import Object

T = TypeVar("T", bound=Object)

Raw = dict[str, Any]


def _same(obj: Any) -> Any:
    return obj


def _no_errors(new: Any, old: Any) -> list[FieldError]:
    return []


def _no_fields(obj: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table.

    ``cells(obj, now)`` gives the text of each row that the object takes (the article's pods take
    a row for the pod and one for each container; most cells are a single row). ``now`` is Unix
    seconds, for ages.
    """

    title: str
    cells: Callable[[T, float], list[str]]
    wide: bool = False  # shown with -o wide only
    description: str = ""
    type: str = "string"


@dataclass(frozen=True, slots=True)
class Strategy(Generic[T]):
    """What happens to an object on its way into the store; every function is pure.

    ``default`` fills what the user left out. ``prepare_create`` drops what a user may not set
    (status). ``prepare_update(new, old)`` keeps what an update of the body may not touch;
    ``prepare_status(new, old)`` keeps everything but the status. ``validate(new, old)`` has
    ``old`` None on create. ``deletable_at_once(obj)`` is False for objects that take a grace
    period (pods on a node).
    """

    default: Callable[[T], T] = _same
    prepare_create: Callable[[T], T] = _same
    prepare_update: Callable[[T, T], T] = lambda new, old: new
    prepare_status: Callable[[T, T], T] = lambda new, old: new
    validate: Callable[[T, T | None], list[FieldError]] = _no_errors
    validate_status: Callable[[T, T | None], list[FieldError]] = _no_errors
    #: Bumps metadata.generation when this part of the object changes.
    generation_of: Callable[[T], Any] | None = None


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of object.

    ``stored_under`` is the path below /registry (v0.17's names where it had them).
    ``aliases`` are further names that a user may type (``minions`` for nodes).
    ``fields`` gives the field-selector fields beyond metadata.name and metadata.namespace.
    ``from_v1beta3``/``to_v1beta3`` convert the kind's own fields of a raw document, in place of
    nothing (metadata is converted for all kinds by ``api.v1beta3``).
    """

    type: type[T]
    kind: str
    plural: str
    singular: str
    namespaced: bool = True
    group: str = ""
    version: str = "v1"
    short_names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    stored_under: str = ""
    verbs: tuple[str, ...] = (
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    )  # fmt: skip
    subresources: tuple[str, ...] = ()
    strategy: Strategy[T] = field(default_factory=Strategy)
    fields: Callable[[T], dict[str, str]] = _no_fields
    article_columns: tuple[Column[T], ...] = ()
    columns: tuple[Column[T], ...] = ()
    from_v1beta3: Callable[[Raw], Raw] | None = None
    to_v1beta3: Callable[[Raw], Raw] | None = None
    #: Strategic-merge keys by field path: {"spec.containers": "name", …}; "" means "replace".
    merge_keys: Mapping[str, str] = field(default_factory=dict)
    #: Objects of this kind vanish by themselves after so many seconds.
    ttl_seconds: int | None = None
    #: Kept by the API server without a store (componentstatuses, bindings).
    virtual: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """The store prefix of all objects of the kind, with its closing slash."""
        return f"/registry/{self.stored_under or self.plural}/"

    def store_key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else f"{self.prefix}{name}"

    def new(self, **fields: Any) -> T:
        return self.type(**fields)


class Scheme:
    """Every kind, found by any of its names."""

    def __init__(self, kinds: Iterable[Kind[Any]]) -> None:
        self._kinds = tuple(kinds)
        self._by_kind = {kind.kind: kind for kind in self._kinds}
        self._by_plural = {(kind.group, kind.plural): kind for kind in self._kinds}
        self._by_type: dict[type, Kind[Any]] = {kind.type: kind for kind in self._kinds}
        self._by_word: dict[str, Kind[Any]] = {}
        for kind in self._kinds:
            words = (
                kind.plural,
                kind.singular,
                kind.kind.lower(),
                *kind.short_names,
                *kind.aliases,
            )
            for word in words:
                self._by_word.setdefault(word, kind)

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter(self._kinds)

    def of(self, obj: T | type[T]) -> Kind[T]:
        """The kind of an object or struct type. Raises KeyError."""
        return self._by_type[obj if isinstance(obj, type) else type(obj)]

    def named(self, kind: str) -> Kind[Any] | None:
        """By ``kind`` as documents write it (``Pod``)."""
        return self._by_kind.get(kind)

    def resource(self, plural: str, group: str = "") -> Kind[Any] | None:
        """By the path's resource name (``pods``)."""
        return self._by_plural.get((group, plural))

    def word(self, word: str) -> Kind[Any] | None:
        """By whatever a user types: plural, singular, short name, alias (``po``, ``minions``)."""
        return self._by_word.get(word.lower())
