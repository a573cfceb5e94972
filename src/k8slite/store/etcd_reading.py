"""Reading etcd: linearizable answers, long ones page by page at one revision."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from aetcd import rpc

from k8slite.kit.clock import Clock
from k8slite.store.base import KeyValue, Snapshot, StoreStats, StoreUnavailable
from k8slite.store.etcd_connection import PATIENCE, READ, Pool
from k8slite.store.etcd_errors import EtcdError, is_compacted, is_future, refused
from k8slite.store.etcd_place import Place, after_prefix
from k8slite.store.etcd_watch import oldest_readable

#: Keys a page of a listing; fewer when they are large (bytes).
_PAGE, _PAGE_BYTES = 1000, 8 << 20

_range_of = attrgetter("kv.Range")


class Reading:
    def __init__(self, pool: Pool, place: Place, clock: Clock) -> None:
        self._pool, self._place, self._clock = pool, place, clock

    async def range(self, key: bytes, **options: Any) -> Any:
        """A RangeRequest → its answer, whose revisions are of the present base.

        Raises StoreUnavailable; EtcdError for compacted and future revisions.
        """
        request = rpc.RangeRequest(key=key, **options)
        while True:
            await self._pool.ready(self._clock.monotonic() + PATIENCE)
            epoch = self._pool.epoch
            try:
                reply = await self._pool.read(_range_of, request)
            except EtcdError as error:
                if is_compacted(error) or is_future(error):
                    raise
                raise refused(error, self._place.root) from None
            if epoch == self._pool.epoch:
                self._place.saw(reply.header.revision + self._place.base)
                return reply

    async def newest(self) -> int:
        """The revision of etcd as a whole, in the contract's words."""
        reply = await self.range(self._place.base_key, count_only=True)
        return int(reply.header.revision + self._place.base)

    async def get(self, key: str) -> KeyValue | None:
        reply = await self.range(self._place.encode(key))
        return self._place.key_value(reply.kvs[0]) if reply.kvs else None

    async def scan(self, prefix: str) -> Snapshot:
        while True:
            epoch = self._pool.epoch
            try:
                snapshot = await self._scan(self._place.encode(prefix))
            except EtcdError:
                continue  # compacted between two pages
            if epoch == self._pool.epoch:
                return snapshot

    async def _scan(self, prefix: bytes) -> Snapshot:
        start, end, limit = prefix, after_prefix(prefix), _PAGE
        items: list[KeyValue] = []
        revision = 0
        while True:
            reply = await self.range(start, range_end=end, limit=limit, revision=revision)
            revision = revision or reply.header.revision
            items += map(self._place.key_value, reply.kvs)
            if not reply.more:
                return Snapshot(revision + self._place.base, items)
            start = reply.kvs[-1].key + b"\0"
            size = reply.ByteSize() // len(reply.kvs)
            limit = max(1, min(_PAGE, _PAGE_BYTES // max(1, size)))

    async def same_at(self, one: int, other: int) -> bool:
        """Whether our keys are the same at both revisions of the contract, the later one last."""
        first, end = self._place.data
        base = self._place.base
        try:
            new = await self.range(
                first, range_end=end, revision=other - base,
                min_mod_revision=one - base + 1, limit=1, keys_only=True,
            )  # fmt: skip
            now = await self.range(first, range_end=end, revision=other - base, count_only=True)
            then = await self.range(first, range_end=end, revision=one - base, count_only=True)
        except EtcdError:
            return False  # compacted meanwhile
        return not new.kvs and bool(now.count == then.count)

    async def stats(self) -> StoreStats:
        first, end = self._place.data
        keys = await self.range(first, range_end=end, count_only=True)
        newest, metadata = keys.header.revision, self._pool.metadata
        try:
            member = await self._pool.ready(self._clock.monotonic() + PATIENCE)
            status = await member.ask(
                member.maintenance.Status, rpc.StatusRequest(), READ, metadata
            )
            oldest = await oldest_readable(member, self._place.base_key, newest, metadata)
        except EtcdError as error:
            raise StoreUnavailable(f"etcd: {error.text}") from None
        base = self._place.base
        compacted = max(self._place.floor, oldest + base if oldest > 1 else 0)
        return StoreStats(newest + base, compacted, keys.count, status.dbSizeInUse)
