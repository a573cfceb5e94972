"""The watch cache: one watch of the store, one copy of every object, for the whole process.

Reads, lists and watches of the API, and the informers of every role, are served from here. An
``Entry`` is one object at one revision: its wire bytes exist already, its struct is decoded when
somebody first asks (law 6).
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from k8slite.api import codec
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

T = TypeVar("T", bound=Object)


class Entry(Generic[T]):
    """One object at one revision. ``key`` is ``namespace/name`` or ``name``."""

    __slots__ = ("_object", "create_revision", "data", "key", "kind", "revision")

    def __init__(
        self, kind: Kind[T], key: str, revision: int, create_revision: int, stored: bytes
    ) -> None:
        self.kind = kind
        self.key = key
        self.revision = revision
        self.create_revision = create_revision
        self.data = codec.stamp(kind, stored, revision)
        self._object: T | None = None

    @property
    def object(self) -> T:
        """The struct, decoded once and shared; never change it."""
        if self._object is None:
            self._object = codec.decode(self.kind, self.data)
        return self._object


_ = Any
