"""Writing the SQLite file: many requests, each whole or refused, in one durable transaction.

All of it runs on the store's writer thread. A statement of SQLite costs the thread its turn at
the interpreter, so a batch is written in few statements of many rows each.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k8slite.store.base import Delete, KeyValue, Op, OutcomeUnknown, StoreError, StoreEvent
from k8slite.store.sqlite_file import SHIFT, connect, translated
from k8slite.store.sqlite_reader import compacted, newest_revision
from k8slite.store.transaction import Write, evaluate


@dataclass(frozen=True, slots=True)
class Commit:
    ops: Sequence[Op]


@dataclass(frozen=True, slots=True)
class Grant:
    lease: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Revoke:
    lease: int


@dataclass(frozen=True, slots=True)
class Compact:
    revision: int


Request = Commit | Grant | Revoke | Compact

#: What became of a request: the revision it was done at, or why it was refused.
Answer = int | StoreError


@dataclass(slots=True)
class Outcome:
    """What became of a batch; ``events`` of whole transactions up to ``revision``."""

    revision: int
    answers: list[Answer]
    events: list[StoreEvent] = field(default_factory=list)


@dataclass(slots=True)
class _Tip:
    """What the writer knows of the file without reading it."""

    revision: int
    compacted: int
    keys: int
    leases: Mapping[int, float]


class Writer:
    """The one writer of a file.

    History is compacted by itself, a chapter at a time, when it holds more than
    ``keep_revisions`` revisions or ``keep_bytes`` bytes of values.
    """

    def __init__(self, path: Path, *, keep_revisions: int, keep_bytes: int) -> None:
        self._path = path
        self._keep_revisions = keep_revisions
        self._keep_bytes = keep_bytes
        self._connection = connect(path)
        one = self._one
        self.tip = _Tip(
            revision=newest_revision(self._connection),
            compacted=compacted(self._connection),
            keys=one("SELECT COUNT(*) FROM current"),
            leases=dict(self._connection.execute("SELECT id, ttl FROM lease")),
        )
        since = one(
            "SELECT COALESCE(SUM(LENGTH(value)), 0) FROM log WHERE id >= ?",
            (self.tip.compacted + 1) << SHIFT,
        )
        #: (last revision, bytes of values) of every stretch of history, the last one growing.
        self._chapters: deque[tuple[int, int]] = deque([(self.tip.revision, since)])

    def close(self) -> None:
        self._connection.close()

    def _one(self, sql: str, *parameters: Any) -> int:
        (value,) = self._connection.execute(sql, parameters).fetchone()
        return int(value)

    def write(self, requests: Sequence[Request]) -> Outcome:
        """Do all of ``requests`` in order, durably; each has its own answer."""
        batch = _Batch(self._connection, self.tip)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = batch.run(requests)
            self._compact_by_itself(batch)
        except sqlite3.Error as error:
            self._roll_back()
            return self._refused(requests, translated(error, self._path))
        except BaseException:
            self._roll_back()
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return self._refused(requests, self._doubt(error))
        self.tip = batch.tip
        self._write_chapter(batch)
        return Outcome(self.tip.revision, answers, batch.events)

    def _refused(self, requests: Sequence[Request], error: StoreError) -> Outcome:
        # An exception object of its own for each, since each is raised somewhere else.
        return Outcome(self.tip.revision, [type(error)(str(error)) for _ in requests])

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                # The error that brought us here says it all; SQLite has rolled back by itself.
                assert not self._connection.in_transaction

    def _doubt(self, error: sqlite3.Error) -> StoreError:
        """Whether a failed COMMIT left anything behind.

        A full disk cuts the write-ahead log before its commit mark: nothing happened. After any
        other failure the mark may be on disk and would count after a crash, until the next
        transaction overwrites it. So one is made; only if that fails too, nobody knows.
        """
        certain = translated(error, self._path)
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
            return certain
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'doubts'")
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            self._roll_back()
            return OutcomeUnknown(f"the store {self._path} failed while it committed: {error}")
        return certain

    # -- compaction -----------------------------------------------------------------------------

    def _compact_by_itself(self, batch: _Batch) -> None:
        target = 0
        kept = sum(size for _, size in self._chapters)
        for last, size in self._chapters:
            if batch.tip.revision - last < self._keep_revisions and kept <= self._keep_bytes:
                break
            target, kept = last, kept - size
        if target > batch.tip.compacted:
            batch.compact(target)
            batch.give_back_pages()

    def _write_chapter(self, batch: _Batch) -> None:
        while self._chapters and self._chapters[0][0] <= self.tip.compacted:
            self._chapters.popleft()
        if not batch.events:
            return
        size = sum(len(event.value or b"") for event in batch.events)
        if self._chapters:
            last, so_far = self._chapters[-1]
            begins = self._chapters[-2][0] if len(self._chapters) > 1 else self.tip.compacted
            full = last - begins >= self._keep_revisions // 64 or so_far >= self._keep_bytes // 64
            if not full:
                self._chapters.pop()
                size += so_far
        self._chapters.append((self.tip.revision, size))


class _Batch:
    """The requests of one SQLite transaction.

    ``_known`` overlays the table ``current`` with what earlier requests of the batch did.
    """

    def __init__(self, connection: sqlite3.Connection, tip: _Tip) -> None:
        self._connection = connection
        self.tip = _Tip(tip.revision, tip.compacted, tip.keys, tip.leases)
        self.events: list[StoreEvent] = []
        self._known: dict[str, KeyValue | None] = {}
        self._ids: dict[str, int] = {}  # the log row of a known key
        self._changed: dict[str, None] = {}  # keys whose row in ``current`` is to be written
        self._rows: list[tuple[Any, ...]] = []  # of ``log``, to be written

    def run(self, requests: Sequence[Request]) -> list[Answer]:
        self._read({op.key for one in requests if isinstance(one, Commit) for op in one.ops})
        answers = [self._do(request) for request in requests]
        self._flush()
        return answers

    def _do(self, request: Request) -> Answer:
        match request:
            case Commit(ops):
                return self._commit(ops)
            case Grant(lease, ttl):
                self._connection.execute("INSERT INTO lease VALUES (?, ?)", (lease, ttl))
                self.tip.leases = {**self.tip.leases, lease: ttl}
            case Revoke(lease):
                return self._revoke(lease)
            case Compact(revision):
                self.compact(revision)
        return self.tip.revision

    def _commit(self, ops: Sequence[Op]) -> Answer:
        revision = self.tip.revision + 1
        try:
            writes = evaluate(ops, self._known.__getitem__, self.tip.leases, revision)
        except StoreError as error:
            return error
        if writes:
            self._apply(writes, revision)
        return self.tip.revision

    def _apply(self, writes: Sequence[Write], revision: int) -> None:
        self.tip.revision = revision
        for place, write in enumerate(writes):
            new, old = write
            number = revision << SHIFT | place
            event = write.event(revision)
            key = event.key
            before = None if old is None else self._ids[key]
            lease = 0 if new is None else new.lease
            self._rows.append((number, key, event.value, event.create_revision, before, lease))
            self.tip.keys += (new is not None) - (old is not None)
            self._known[key] = new
            self._ids[key] = number
            self._changed[key] = None
            self.events.append(event)

    def _revoke(self, lease: int) -> Answer:
        self._flush()
        rows = self._connection.execute(
            "SELECT key FROM current WHERE lease = ? AND lease != 0 ORDER BY key", (lease,)
        ).fetchall()
        keys = [key for (key,) in rows]
        self._read({key for key in keys if key not in self._known})
        answer = self._commit([Delete(key) for key in keys])
        self._connection.execute("DELETE FROM lease WHERE id = ?", (lease,))
        self.tip.leases = {id: ttl for id, ttl in self.tip.leases.items() if id != lease}
        return answer

    def compact(self, revision: int) -> None:
        """Remove the rows that only history before ``revision`` needs."""
        begin, end = self.tip.compacted, min(revision, self.tip.revision)
        if end <= begin:
            return
        self._flush()
        span = ((begin + 1) << SHIFT, (end + 1) << SHIFT)
        # A replaced row goes with the event that replaced it, never before: that event shows it.
        self._connection.execute(
            "DELETE FROM log WHERE id IN"
            " (SELECT previous FROM log WHERE id >= ? AND id < ? AND previous IS NOT NULL)",
            span,
        )
        self._connection.execute("DELETE FROM log WHERE id >= ? AND id < ? AND value IS NULL", span)
        self._connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (end,))
        self.tip.compacted = end

    def give_back_pages(self, at_most: int = 256) -> None:
        """Shrink the file by some pages when more than half of it is free."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free > max(at_most, pages // 2):
            for _ in range(at_most):  # the module steps such a pragma once, which is one page
                self._connection.execute("PRAGMA incremental_vacuum(1)")

    # -- rows -----------------------------------------------------------------------------------

    def _read(self, keys: set[str]) -> None:
        self._known.update(dict.fromkeys(keys))
        for some in _chunks(list(keys)):
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                "SELECT current.key, value, current.created, current.id, current.lease"
                " FROM current JOIN log ON log.id = current.id"
                f" WHERE current.key IN ({marks})",
                some,
            ).fetchall()
            for key, value, created, number, lease in rows:
                self._known[key] = KeyValue(key, value, created, number >> SHIFT, lease)
                self._ids[key] = number

    def _flush(self) -> None:
        """Write the rows that wait."""
        self._insert("INSERT INTO log VALUES", self._rows)
        self._rows = []
        there, gone = [], []
        for key in self._changed:
            known = self._known[key]
            if known is None:
                gone.append(key)
            else:
                there.append((key, self._ids[key], known.create_revision, known.lease))
        self._changed = {}
        self._insert("INSERT OR REPLACE INTO current VALUES", there)
        for some in _chunks(gone):
            marks = ",".join("?" * len(some))
            self._connection.execute(f"DELETE FROM current WHERE key IN ({marks})", some)

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for some in _chunks(rows):
            marks = ",".join(["(" + ",".join("?" * len(some[0])) + ")"] * len(some))
            self._connection.execute(f"{into} {marks}", [cell for row in some for cell in row])


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Runs of 256, 128, 64 … items, so that few different statements are ever compiled."""
    start, size = 0, 256
    while start < len(items):
        while size > len(items) - start:
            size //= 2
        yield items[start : start + size]
        start += size
