"""The meaning of a transaction, for every store that decides transactions itself.

Pure: it reads the keys concerned through ``lookup`` and says what would be written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from k8slite.store.base import (
    Check,
    Create,
    Delete,
    KeyExists,
    KeyValue,
    LeaseGone,
    Mismatch,
    Op,
    Put,
    StoreEvent,
    Update,
)

#: More operations than this in one transaction are refused (ValueError), as etcd does at 128.
MAX_OPS = 10_000


class Write(NamedTuple):
    """One key before and after a transaction (``new`` None: deleted)."""

    new: KeyValue | None
    old: KeyValue | None

    def event(self, revision: int) -> StoreEvent:
        new, old = self
        previous = None if old is None else old.value
        if new is not None:
            return StoreEvent(new.key, revision, new.value, new.create_revision, previous)
        assert old is not None
        return StoreEvent(old.key, revision, None, old.create_revision, previous)


def require_well_formed(ops: Sequence[Op]) -> None:
    """Raise ValueError when a key is written twice in one transaction, or there are too many."""
    if len(ops) > MAX_OPS:
        raise ValueError(f"{len(ops)} operations in one transaction; at most {MAX_OPS}")
    if len(ops) > 1:
        written = [op.key for op in ops if not isinstance(op, Check)]
        if len(set(written)) != len(written):
            raise ValueError("a transaction writes a key twice")


def evaluate(
    ops: Sequence[Op],
    lookup: Callable[[str], KeyValue | None],
    leases: Collection[int],
    revision: int,
) -> list[Write]:
    """What ``ops`` would write at ``revision``; every compare is made before anything is.

    Raises KeyExists, Mismatch or LeaseGone, the first in the order of ``ops``.
    """
    writes = []
    for op in ops:
        old = lookup(op.key)
        _compare(op, old)
        if isinstance(op, Check):
            continue
        if isinstance(op, Delete):
            writes.append(Write(None, old))
            continue
        if op.lease and op.lease not in leases:
            raise LeaseGone(f"lease {op.lease} ended or never was")
        created = revision if old is None else old.create_revision
        writes.append(Write(KeyValue(op.key, op.value, created, revision, op.lease), old))
    return writes


def _compare(op: Op, old: KeyValue | None) -> None:
    actual = 0 if old is None else old.mod_revision
    match op:
        case Create():
            if old is not None:
                raise KeyExists(op.key)
        case Update(revision=expected) | Check(revision=expected):
            if actual != expected or (old is None and not isinstance(op, Check)):
                raise Mismatch(op.key, actual)
        case Delete(revision=expected):
            if old is None or (expected is not None and actual != expected):
                raise Mismatch(op.key, actual)
        case Put():
            pass
