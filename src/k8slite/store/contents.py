"""Everything a store holds, as of one revision: what is moved, backed up and counted. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from k8slite.api.scheme import Scheme
from k8slite.store.base import KeyValue, Op, Put

#: Signs of life and elections: who holds them makes them anew, in whatever store he finds.
SIGNS = "/registry/leases/"

#: So much goes into one transaction; etcd's defaults are 128 operations and 1.5 MB.
_CHUNK, _CHUNK_BYTES = 100, 512 << 10


@dataclass(frozen=True, slots=True)
class Contents:
    """``items`` in key order as of ``revision``; ``ttls`` of the leases they are on, seconds."""

    revision: int
    items: Sequence[KeyValue]
    ttls: Mapping[int, float]

    def worth_moving(self) -> list[KeyValue]:
        """All but signs of life, and keys whose lease has ended; the oldest change first."""
        kept = [
            item
            for item in self.items
            if not item.lease or (not item.key.startswith(SIGNS) and item.lease in self.ttls)
        ]
        return sorted(kept, key=lambda item: (item.mod_revision, item.key))


def digest(items: Iterable[KeyValue]) -> str:
    """SHA-256 over keys and values, in whatever order they come."""
    sum_ = hashlib.sha256()
    for key, value in sorted(
        (item.key.encode(errors="surrogateescape"), item.value) for item in items
    ):
        for part in (key, value):
            sum_.update(len(part).to_bytes(8, "big"))
            sum_.update(part)
    return sum_.hexdigest()


def transactions(items: Iterable[KeyValue], leases: Mapping[int, int]) -> Iterator[list[Op]]:
    """Writes of ``items`` in their order; ``leases`` says which lease becomes which."""
    ops: list[Op] = []
    size = 0
    for item in items:
        if ops and (len(ops) == _CHUNK or size + len(item.value) > _CHUNK_BYTES):
            yield ops
            ops, size = [], 0
        ops.append(Put(item.key, item.value, leases.get(item.lease, 0)))
        size += len(item.value) + len(item.key)
    if ops:
        yield ops


@dataclass(slots=True)
class Count:
    keys: int = 0
    bytes: int = 0


def census(items: Iterable[KeyValue], scheme: Scheme) -> dict[str, Count]:
    """Keys and bytes by resource; what is of no kind under the first words of its keys."""
    names = {kind.prefix: kind.plural for kind in scheme if not kind.virtual}
    counts: dict[str, Count] = {}
    for item in items:
        words = item.key.split("/")
        name = "/".join(words[:3])
        for depth in (3, 4):
            if found := names.get("/".join(words[:depth]) + "/"):
                name = found
                break
        count = counts.setdefault(name, Count())
        count.keys += 1
        count.bytes += len(item.value)
    return dict(sorted(counts.items()))
