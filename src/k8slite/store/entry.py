"""One object at one revision, and one change of it: bytes made once, shared by all readers."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from k8slite.api import codec
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind

T = TypeVar("T", bound=Object)

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


class Entry(Generic[T]):
    """One object at one revision. ``key`` is ``namespace/name`` or ``name``.

    ``data`` is the object's ``v1`` JSON with its resourceVersion; ``object`` the struct.
    """

    __slots__ = ("_converted", "_object", "create_revision", "data", "key", "kind", "revision")

    def __init__(
        self, kind: Kind[T], key: str, revision: int, create_revision: int, stored: bytes
    ) -> None:
        """Raises ValueError when ``stored`` is not an encoding of ``kind``."""
        self.kind = kind
        self.key = key
        self.revision = revision
        self.create_revision = create_revision
        self.data = codec.stamp(kind, stored, revision)
        self._object: T | None = None
        self._converted: bytes | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.kind.kind} {self.key} @{self.revision}>"

    @property
    def object(self) -> T:
        """The struct, decoded once and shared; never change it."""
        if self._object is None:
            self._object = codec.decode(self.kind, self.data)
        return self._object

    def encoding(self, version: str) -> bytes:
        """The object as ``v1`` or ``v1beta3`` JSON, made once."""
        if version == "v1":
            return self.data
        if self._converted is None:
            from k8slite.api import v1beta3  # only a process that serves the old version loads it

            self._converted = v1beta3.to_bytes(self.kind, self.data)
        return self._converted

    def require_decodable(self, *, keep: bool) -> None:
        """Raise ValueError when the bytes are no such object; ``keep`` the struct or drop it.

        Dropping saves several times the size of the bytes for objects that are only passed on.
        """
        decoded = codec.decode(self.kind, self.data)
        if keep:
            self._object = decoded

    def deleted_at(self, revision: int) -> Entry[T]:
        """The last state, as watches show it on deletion: with the deletion's resourceVersion."""
        last: Entry[T] = Entry.__new__(Entry)
        last.kind, last.key = self.kind, self.key
        last.revision, last.create_revision = revision, self.create_revision
        # resourceVersion is the first field of metadata, which nothing but fixed text precedes.
        last.data = self.data.replace(
            b'"resourceVersion":"%d"' % self.revision, b'"resourceVersion":"%d"' % revision, 1
        )
        last._object = last._converted = None
        return last


class Change(Generic[T]):
    """``entry`` became what it is at ``revision``; DELETED: it is the last state.

    ``previous`` is the state before (None for ADDED).
    """

    __slots__ = ("_events", "entry", "previous", "revision", "type")

    def __init__(
        self, type: ChangeType, revision: int, entry: Entry[T], previous: Entry[T] | None
    ) -> None:
        self.type = type
        self.revision = revision
        self.entry = entry
        self.previous = previous
        self._events: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"<Change {self.type} {self.entry.kind.kind} {self.entry.key} @{self.revision}>"

    def event_bytes(self, version: str) -> bytes:
        """The line of a watch, made once: ``{"type":…,"object":…}`` and a newline."""
        if self._events is None:
            self._events = {}
        line = self._events.get(version)
        if line is None:
            encoded = self.entry.encoding(version)
            line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), encoded)
            self._events[version] = line
        return line
