"""Fan-out: one subscription per kind, every watcher served from it.

Watchers that ask the same question in the same form share a ``Group``: a change is matched and
written once per group, and each watcher of the group is handed the same bytes. A change visits
only the groups it may concern: those of its namespace, its name, its node.

The promises to a watcher: every change after its start exactly once, in order; objects that begin
or cease to match come as ADDED and DELETED; a bookmark's version covers everything sent before
it. A watcher that lags by more than its bound is dropped, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog

from k8slite.api import codec
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.scheme import Kind
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.forms import Form, event
from k8slite.roles.apiserver.selection import Selection
from k8slite.store.cache import WatchCache
from k8slite.store.entry import Change

log = structlog.get_logger()

#: Events that wait for a watcher which is still being sent its beginning.
PENDING = 10_000
#: Watchers that are sent a bookmark in one go.
_PORTION = 256

#: What a question is pinned to: ("ns", x), ("name", x), ("node", x) or () for nothing.
Anchor = tuple[str, ...]


class Watcher:
    """One receiver. ``send`` takes bytes at once and says False when it can take no more.

    Until ``live`` is set, what arrives is kept in ``pending`` for the owner to send.
    """

    __slots__ = ("_drop", "bookmarks", "dropped", "group", "live", "pending", "send")

    def __init__(
        self, group: Group, send: Callable[[bytes], bool], drop: Callable[[], None]
    ) -> None:
        self.group = group
        self.send = send
        self._drop = drop
        self.live = False
        self.dropped = False
        self.bookmarks = False
        self.pending: list[bytes] = []

    def offer(self, data: bytes) -> None:
        if self.live:
            if not self.send(data):
                self.drop()
        elif len(self.pending) < PENDING:
            self.pending.append(data)
        else:
            self.drop()

    def drop(self) -> None:
        """End a watcher that is too slow."""
        if not self.dropped:
            self.dropped = True
            self.pending.clear()
            self._drop()

    def take_pending(self) -> bytes:
        """What waits, in order; when nothing does, the watcher is live from now on."""
        data = b"".join(self.pending)
        self.pending.clear()
        if not data:
            self.live = True
        return data


class Group:
    """Watchers with one question and one form."""

    __slots__ = ("_clock", "form", "selection", "watchers")

    def __init__(self, selection: Selection, form: Form, clock: Clock) -> None:
        self.selection = selection
        self.form = form
        self.watchers: dict[int, Watcher] = {}
        self._clock = clock

    def write(self, changes: Iterable[Change[Any]]) -> bytes:
        """The changes as this group's watchers see them; empty when none concerns them."""
        return b"".join(filter(None, map(self.write_one, changes)))

    def write_one(self, change: Change[Any]) -> bytes:
        selection, form, entry = self.selection, self.form, change.entry
        if not selection.matches(entry):
            previous = change.previous
            if change.type != "MODIFIED" or previous is None or not selection.matches(previous):
                return b""
            gone = previous.deleted_at(change.revision)
            return event("DELETED", gone, form, self._clock.now())
        type_ = change.type
        if type_ == "MODIFIED" and not selection.everything:
            previous = change.previous
            if previous is not None and not selection.matches(previous):
                type_ = "ADDED"
        if type_ is change.type and form.plain:
            return change.event_bytes(form.version)
        return event(type_, entry, form, self._clock.now())

    def bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        """A BOOKMARK at ``revision``; ``initial_end`` marks the end of the initial events."""
        kind, form = self.selection.kind, self.form
        meta: dict[str, Any] = {"resourceVersion": str(revision)}
        if initial_end:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        name, version = kind.kind, kind.api_version if form.version == "v1" else form.version
        body: dict[str, Any] = {}
        if form.shape == "table":
            name, version = "Table", form.meta_version
            body = {"columnDefinitions": [], "rows": []}
        elif form.shape == "metadata":
            name, version = "PartialObjectMetadata", form.meta_version
        obj = {"kind": name, "apiVersion": version, "metadata": meta, **body}
        return codec.encode({"type": "BOOKMARK", "object": obj}) + b"\n"


class KindFanout:
    """The changes of one kind, kept for resumption and handed to the groups they concern."""

    def __init__(self, kind: Kind[Any], cache: WatchCache, clock: Clock) -> None:
        self.kind = kind
        self._clock = clock
        self._groups: dict[Anchor, dict[tuple[Any, ...], Group]] = {}
        self._fresh: list[Change[Any]] = []
        self._flush: asyncio.Handle | None = None
        self._table = cache.table(kind)
        self._unsubscribe = self._table.subscribe(self._arrived)
        self.delivered = 0

    def close(self) -> None:
        self._unsubscribe()
        if self._flush is not None:
            self._flush.cancel()

    @property
    def watchers(self) -> Iterable[Watcher]:
        return [
            watcher
            for groups in self._groups.values()
            for group in groups.values()
            for watcher in group.watchers.values()
        ]

    def _arrived(self, change: Change[Any]) -> None:
        self._fresh.append(change)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Hand out what arrived since the last time. A group that cannot be written for is
        dropped; the others do not notice."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        fresh = self._fresh
        if not fresh:
            return
        self._fresh = []
        for group, changes in self._concerned(fresh):
            watchers = tuple(group.watchers.values())
            try:
                data = group.write(changes)
            except Exception:
                log.exception("watch events cannot be written", kind=self.kind.plural)
                for watcher in watchers:
                    watcher.drop()
                continue
            if data:
                for watcher in watchers:
                    watcher.offer(data)
                self.delivered += len(changes) * len(watchers)

    def _concerned(self, changes: list[Change[Any]]) -> list[tuple[Group, list[Change[Any]]]]:
        """Each group with the changes that may concern it, in order."""
        by_anchor: dict[Anchor, list[Change[Any]]] = {}
        for change in changes:
            for anchor in self._anchors_of(change):
                if anchor in self._groups:
                    by_anchor.setdefault(anchor, []).append(change)
        return [
            (group, found)
            for anchor, found in by_anchor.items()
            for group in self._groups[anchor].values()
        ]

    def _anchors_of(self, change: Change[Any]) -> set[Anchor]:
        namespace, _, name = change.entry.key.rpartition("/")
        anchors: set[Anchor] = {(), ("ns", namespace), ("name", name)}
        if self.kind.type is Pod:
            anchors.add(("node", change.entry.object.spec.node_name))
            if change.previous is not None:
                anchors.add(("node", change.previous.object.spec.node_name))
        return anchors

    @staticmethod
    def _anchor(selection: Selection) -> Anchor:
        name = selection.fields.exact("metadata.name")
        if name is not None:
            return ("name", name)
        node = selection.fields.exact("spec.nodeName")
        if node is not None and selection.kind.type is Pod:
            return ("node", node)
        return ("ns", selection.namespace) if selection.namespace else ()

    def join(
        self,
        selection: Selection,
        form: Form,
        send: Callable[[bytes], bool],
        drop: Callable[[], None],
    ) -> Watcher:
        """A watcher that gets every change from this moment on."""
        self.flush()
        groups = self._groups.setdefault(self._anchor(selection), {})
        key = (*selection.key, form)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(selection, form, self._clock)
        watcher = Watcher(group, send, drop)
        group.watchers[id(watcher)] = watcher
        return watcher

    def leave(self, watcher: Watcher) -> None:
        group = watcher.group
        watcher.bookmarks = False
        group.watchers.pop(id(watcher), None)
        if not group.watchers:
            anchor = self._anchor(group.selection)
            groups = self._groups.get(anchor, {})
            groups.pop((*group.selection.key, group.form), None)
            if not groups:
                self._groups.pop(anchor, None)

    def since(self, revision: int) -> list[Change[Any]]:
        """The changes after ``revision``. Raises Expired when they are not all kept."""
        return self._table.since(self._table.place_after(revision))


class Fanout:
    """Every kind's fan-out."""

    def __init__(self, cache: WatchCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._kinds: dict[str, KindFanout] = {}

    def open(self, kinds: Iterable[Kind[Any]]) -> None:
        for kind in kinds:
            if not kind.virtual:
                self._kinds[kind.plural] = KindFanout(kind, self._cache, self._clock)

    def close(self) -> None:
        for fanout in self._kinds.values():
            fanout.close()
        self._kinds.clear()

    def of(self, kind: Kind[Any]) -> KindFanout:
        return self._kinds[kind.plural]

    def counts(self) -> dict[str, int]:
        """Watchers by plural."""
        return {plural: len(list(fanout.watchers)) for plural, fanout in self._kinds.items()}

    def bookmark(self) -> None:
        """Send a bookmark to every live watcher that asked for them."""
        for _ in self.bookmarks():
            pass

    def bookmarks(self) -> Iterator[None]:
        """The same, in portions between which others may run."""
        for fanout in tuple(self._kinds.values()):
            watchers = list(fanout.watchers)
            for start in range(0, len(watchers), _PORTION):
                fanout.flush()  # a bookmark covers everything sent before it
                revision = self._cache.revision
                for watcher in watchers[start : start + _PORTION]:
                    if watcher.bookmarks and watcher.live:
                        watcher.offer(watcher.group.bookmark(revision))
                yield
