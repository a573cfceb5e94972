"""The store contract: bytes under keys, one revision a transaction, watches that miss nothing.

Every implementation (memory, SQLite, etcd) passes the suite in ``tests/store``. The shape is
etcd's, cut to what an API server needs:

- a transaction either happens whole, at one new revision, or not at all;
- revisions only grow, across restarts too; the first write makes revision 2 or later;
- a watch from revision R delivers every event after R exactly once, in order, whole transactions
  at a time; when R is compacted away it says so (``Compacted``) instead of leaving a gap;
- a lease that is not kept alive for its ttl ends, and the keys put under it are deleted with
  ordinary events; keep-alives cost no disk write;
- acknowledged means durable. ``KeyExists`` and ``Mismatch`` are certain (nothing was written);
  ``StoreUnavailable`` is certain (nothing was written); ``OutcomeUnknown`` is not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


class StoreError(Exception):
    """The root of what a store may raise."""


class KeyExists(StoreError):
    """A ``Create`` met a key that is there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key exists: {key}")
        self.key = key


class Mismatch(StoreError):
    """A compare failed: the key is at ``actual`` (0: it does not exist)."""

    def __init__(self, key: str, actual: int) -> None:
        super().__init__(f"key {key} is at revision {actual}")
        self.key = key
        self.actual = actual


class LeaseGone(StoreError):
    """The lease ended or never was."""


class Compacted(StoreError):
    """The history asked for is gone; ``oldest`` is the first revision a watch may start after."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history before revision {oldest} is compacted")
        self.oldest = oldest


class Lagged(Exception):
    """A reader of changes was too slow for its bounded buffer and lost its place: list again."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or refuses to write; nothing was written."""


class StoreRefuses(StoreUnavailable):
    """It answers, and will not have us: waiting does not help."""


class OutcomeUnknown(StoreError):
    """The answer was lost: the write may or may not have happened."""


class StoreCorrupt(StoreError):
    """The data on disk cannot be trusted; the message says how to restore."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Create:
    """Put a key that must not exist."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Replace a key that must be at ``revision``."""

    key: str
    value: bytes
    revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """Put a key whatever is there (for data that has one writer by construction)."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key that must be at ``revision`` (None: that must exist)."""

    key: str
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Write nothing; require that ``key`` is at ``revision`` (0: absent)."""

    key: str
    revision: int


Op = Create | Update | Put | Delete | Check


@dataclass(frozen=True, slots=True)
class StoreEvent:
    """One key changed at ``revision``. ``value`` is None for a deletion; ``previous`` is what was
    there before (None for a creation), so that a reader can tell what it lost."""

    key: str
    revision: int
    value: bytes | None
    create_revision: int
    previous: bytes | None = None

    @property
    def deleted(self) -> bool:
        return self.value is None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys under a prefix, in key order, as of ``revision``."""

    revision: int
    items: Sequence[KeyValue]


@dataclass(frozen=True, slots=True)
class StoreStats:
    revision: int
    compacted: int
    keys: int
    bytes: int


class Store(Protocol):
    """One implementation of the contract. Use as an async context manager: entering opens and
    checks the data (StoreCorrupt, StoreUnavailable), leaving flushes and closes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def revision(self) -> int:
        """The newest revision, linearizable: at least that of every acknowledged write."""
        ...

    async def get(self, key: str) -> KeyValue | None: ...

    async def scan(self, prefix: str) -> Snapshot:
        """Everything under ``prefix`` now, linearizable."""
        ...

    async def commit(self, ops: Sequence[Op]) -> int:
        """Apply all of ``ops`` at one new revision, which is returned, or none.

        Raises KeyExists, Mismatch, LeaseGone (nothing was written), StoreUnavailable (nothing was
        written) or OutcomeUnknown. When it returns, watchers in this process have been sent the
        events already.
        """
        ...

    def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        """Every event under ``prefix`` with a revision above ``after``, in order, a list never
        splitting a transaction. Raises Compacted. Survives loss of contact with the store by
        itself. Closing the iterator (``aclose``) ends the watch."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``; current values stay."""
        ...

    async def grant(self, ttl: float) -> int:
        """A new lease of ``ttl`` seconds; its id."""
        ...

    async def keep_alive(self, lease: int) -> None:
        """Start the lease's ttl anew. Raises LeaseGone. Costs no disk write."""
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys. An unknown lease is no error."""
        ...

    async def stats(self) -> StoreStats: ...
