"""The SQLite file of the embedded store: made, locked, checked and opened.

    log      one row for every change of a key; ``id`` is revision << 20 | place in transaction
    current  the newest row of every key that exists
    lease    leases and their ttl
    meta     ``compacted``, and ``doubts`` (see ``sqlite_batch``)

A value is written once, into ``log``; ``current`` only points at it. Everything that blocks
belongs to threads of the store.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from k8slite.store.base import StoreCorrupt, StoreError, StoreUnavailable

#: Room for the operations of one transaction inside a log id.
SHIFT = 20

#: "k8sl": a file without it is not ours.
_APPLICATION_ID = 0x6B38736C
_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB,
    created INTEGER NOT NULL, previous INTEGER, lease INTEGER NOT NULL
);
CREATE TABLE current (
    key TEXT PRIMARY KEY, id INTEGER NOT NULL, created INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX current_by_lease ON current (lease) WHERE lease != 0;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl REAL NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('compacted', 0), ('doubts', 0), ('first', 1);
"""


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """SQLite's error in the words of the contract; nothing was written."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return corrupt(path, str(error))
    if primary == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"no space left for the store {path}: make room on its disk")
    return StoreUnavailable(f"the store {path} cannot be used: {error}")


def corrupt(path: Path, why: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the store {path} is damaged ({why}): put back a copy of it (with its -wal file), "
        f"or salvage it with 'sqlite3 {path} .recover | sqlite3 {path}.salvaged', "
        "or move it away with its -wal and -shm files to start with an empty cluster"
    )


class FileLock:
    """One process at a time: a lock on ``<path>.lock``, which the kernel drops with the process.

    Raises StoreUnavailable that names the holder.
    """

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        self._fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreUnavailable(
                f"the store {path} is in use by process {holder}: "
                "stop that process, or choose another data directory"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def prepare(path: Path) -> None:
    """Make the file if there is none, and make sure that it can be trusted. Hold the lock.

    Raises StoreCorrupt, StoreUnavailable.
    """
    try:
        if path.exists():
            _check(path)
        else:
            _create(path)
    except sqlite3.Error as error:
        raise translated(error, path) from error
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}") from error


def _create(path: Path) -> None:
    """Under another name first, so that an empty or half-made file never passes for a store."""
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise corrupt(path, f"it is gone, but its log {wal.name} is there")
    draft = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(draft, isolation_level=None)) as made:
        made.execute("PRAGMA page_size = 8192")
        made.execute("PRAGMA auto_vacuum = INCREMENTAL")
        made.execute("PRAGMA synchronous = FULL")
        made.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        made.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        made.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        made.execute("PRAGMA journal_mode = WAL")
    os.replace(draft, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check(path: Path) -> None:
    if path.stat().st_size == 0:
        raise corrupt(path, "it is empty")
    # Read-only, so that a file that is refused stays as it was found.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10.0, isolation_level=None)) as opened:
        (application,) = opened.execute("PRAGMA application_id").fetchone()
        (version,) = opened.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise corrupt(path, "it is not a k8slite store")
        if version != _SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the store {path} has format {version}, this k8slite reads format "
                f"{_SCHEMA_VERSION}: use the k8slite that wrote it"
            )
        (verdict,) = opened.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise corrupt(path, verdict.splitlines()[-1])
        (lost,) = opened.execute(
            "SELECT COUNT(*) FROM current WHERE NOT EXISTS"
            " (SELECT 1 FROM log WHERE log.id = current.id)"
        ).fetchone()
        if lost:
            raise corrupt(path, f"{lost} keys have lost their values")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection for one thread at a time. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=10.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -8192")  # KiB
        connection.execute("PRAGMA journal_size_limit = 16777216")
        connection.execute("PRAGMA cell_size_check = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection
