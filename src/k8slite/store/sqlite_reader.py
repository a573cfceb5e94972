"""Reading the SQLite file: current values and history, each answer from one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8slite.store.base import Compacted, KeyValue, Snapshot, StoreEvent
from k8slite.store.contents import Contents
from k8slite.store.sqlite_file import SHIFT, connect, translated

#: Rows of history read at a time.
_PAGE = 1000

#: The greatest character: no key under a prefix lies behind prefix + this.
_LAST = "\U0010ffff"

_CURRENT = (
    "SELECT current.key, value, current.created, current.id, current.lease"
    " FROM current JOIN log ON log.id = current.id"
)

_HISTORY = (
    "SELECT log.id, log.key, log.value, log.created, before.value"
    " FROM log LEFT JOIN log AS before ON before.id = log.previous"
    " WHERE log.id >= ? AND log.id < ? AND log.key >= ? AND log.key < ? ORDER BY log.id LIMIT ?"
)


class Reader:
    """Answers from a connection of its own; for one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path, read_only=True)

    def close(self) -> None:
        self._connection.close()

    def size(self) -> int:
        """Bytes of the file that are in use."""
        with self._snapshot() as connection:
            pages, free, page_size = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * page_size

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    def get(self, key: str) -> KeyValue | None:
        with self._snapshot() as connection:
            row = connection.execute(f"{_CURRENT} WHERE current.key = ?", (key,)).fetchone()
        return None if row is None else _key_value(row)

    def scan(self, prefix: str) -> Snapshot:
        with self._snapshot() as connection:
            rows = connection.execute(
                f"{_CURRENT} WHERE current.key >= ? AND current.key < ? ORDER BY current.key",
                (prefix, prefix + _LAST),
            ).fetchall()
            revision = newest_revision(connection)
        return Snapshot(revision, [_key_value(row) for row in rows])

    def contents(self) -> Contents:
        with self._snapshot() as connection:
            rows = connection.execute(f"{_CURRENT} ORDER BY current.key").fetchall()
            leases = dict(connection.execute("SELECT id, ttl FROM lease").fetchall())
            revision = newest_revision(connection)
        return Contents(revision, [_key_value(row) for row in rows], leases)

    def compacted(self) -> int:
        with self._snapshot() as connection:
            return compacted(connection)

    def history(self, prefix: str, after: int, upto: int) -> tuple[list[StoreEvent], int]:
        """Events of whole transactions and the revision up to which they are all.

        Raises Compacted.
        """
        with self._snapshot() as connection:
            oldest = compacted(connection)
            if after < oldest:
                raise Compacted(oldest)
            first, end = (after + 1) << SHIFT, (upto + 1) << SHIFT
            keys = (prefix, prefix + _LAST)
            rows = connection.execute(_HISTORY, (first, end, *keys, _PAGE)).fetchall()
            if len(rows) < _PAGE:
                return [_event(row) for row in rows], upto
            # The page may end inside a transaction: give the ones before it, or it alone, whole.
            last = rows[-1][0] >> SHIFT
            if rows[0][0] >> SHIFT < last:
                return [_event(row) for row in rows if row[0] >> SHIFT < last], last - 1
            span = (last << SHIFT, (last + 1) << SHIFT)
            rows = connection.execute(_HISTORY, (*span, *keys, -1)).fetchall()
            return [_event(row) for row in rows], last


def newest_revision(connection: sqlite3.Connection) -> int:
    """Compaction may have removed the newest rows, but never without saying up to where."""
    (last,) = connection.execute("SELECT MAX(id) FROM log").fetchone()
    (floor,) = connection.execute(
        "SELECT MAX(value) FROM meta WHERE name IN ('compacted', 'first')"
    ).fetchone()
    return max((last or 0) >> SHIFT, int(floor))


def compacted(connection: sqlite3.Connection) -> int:
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
    return int(value)


def _key_value(row: tuple[str, bytes, int, int, int]) -> KeyValue:
    key, value, created, number, lease = row
    return KeyValue(key, value, created, number >> SHIFT, lease)


def _event(row: tuple[int, str, bytes | None, int, bytes | None]) -> StoreEvent:
    number, key, value, created, previous = row
    return StoreEvent(key, number >> SHIFT, value, created, previous)
