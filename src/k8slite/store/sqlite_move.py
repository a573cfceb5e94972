"""The embedded store as a whole: read while an agent runs, and filled from elsewhere.

A file is filled under another name and takes its place when it is whole. Blocking, for a command
that has its loop to itself.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from k8slite.kit.clock import Clock
from k8slite.store.base import StoreStats, StoreUnavailable
from k8slite.store.contents import Contents
from k8slite.store.sqlite import SqliteStore
from k8slite.store.sqlite_file import FileLock, prepare, translated
from k8slite.store.sqlite_reader import Reader


def require_file(path: Path) -> None:
    if not path.is_file():
        raise StoreUnavailable(f"there is no store {path}")


def contents(path: Path) -> Contents:
    """Everything in the file at one revision; an agent may be writing it. Raises StoreError."""
    require_file(path)
    try:
        with closing(Reader(path)) as reader:
            return reader.contents()
    except sqlite3.Error as error:
        raise translated(error, path) from error


def stats(path: Path) -> StoreStats:
    """As ``contents``, in numbers. Raises StoreError."""
    require_file(path)
    try:
        with closing(Reader(path)) as reader:
            found = reader.contents()
            return StoreStats(found.revision, reader.compacted(), len(found.items), reader.size())
    except sqlite3.Error as error:
        raise translated(error, path) from error


@asynccontextmanager
async def locked_contents(path: Path) -> AsyncIterator[Contents]:
    """As ``contents``, and nobody writes meanwhile. Raises StoreUnavailable naming who does."""
    require_file(path)
    lock = FileLock(path)
    try:
        yield contents(path)
    finally:
        lock.release()


@asynccontextmanager
async def filling(path: Path, clock: Clock, above: int) -> AsyncIterator[SqliteStore]:
    """A new store, all of whose revisions are above ``above``; it is at ``path`` when the block
    ends well. Raises StoreUnavailable when somebody has the store at ``path`` open."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(path)
    try:
        draft = path.with_name(path.name + ".filling")
        _remove(draft)
        prepare(draft)
        _begin_above(draft, max(above, _revision(path)))
        async with SqliteStore(draft, clock) as store:
            yield store
        _remove(path, keep_lock=True)
        os.replace(draft, path)
        _remove(draft)
        _sync(path.parent)
    finally:
        lock.release()


def _revision(path: Path) -> int:
    """Of the store at ``path``; 0 when there is none."""
    return contents(path).revision if path.exists() else 0


def _begin_above(path: Path, revision: int) -> None:
    """Nothing is known of before ``revision``: who asks for it must list."""
    with closing(sqlite3.connect(path, isolation_level=None)) as made:
        made.execute("UPDATE meta SET value = ? WHERE name IN ('first', 'compacted')", (revision,))


def vacuum(path: Path) -> None:
    """Rewrite the file without its holes. Nobody may have it open."""
    lock = FileLock(path)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        lock.release()


def _remove(path: Path, *, keep_lock: bool = False) -> None:
    for suffix in ("", "-wal", "-shm", *(() if keep_lock else (".lock",))):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
