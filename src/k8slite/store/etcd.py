"""etcd behind the store contract.

Below ``root`` in etcd: ``data<key>`` holds what callers see as ``<key>``, ``meta/base`` what must
be added to etcd's revisions to get the contract's. Base is 0 until a cluster was moved in from
elsewhere, or etcd came back with older data than it had: then it is raised, so that revisions only
grow, and every reader lists again.

Each process holds one watch of all keys (``etcd_watch``); its watches are served from it by the
hub, and a commit is answered when that watch has delivered it.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from itertools import count
from operator import attrgetter
from types import TracebackType
from typing import Any, Self

import structlog
from aetcd import rpc

from k8slite.kit.clock import Clock
from k8slite.kit.flight import Shared
from k8slite.kit.tasks import stop
from k8slite.store import etcd_leases
from k8slite.store.base import (
    Check,
    Compacted,
    KeyValue,
    Op,
    OutcomeUnknown,
    Snapshot,
    StoreEvent,
    StoreStats,
    StoreUnavailable,
)
from k8slite.store.etcd_compaction import Compaction
from k8slite.store.etcd_connection import PATIENCE, READ, EtcdTls, Member, Pool
from k8slite.store.etcd_errors import (
    EtcdError,
    Verdict,
    is_compacted,
    is_future,
    is_no_lease,
    lease_gone,
    refused,
)
from k8slite.store.etcd_transaction import applies_once, leases_of, refusal, request_of
from k8slite.store.etcd_watch import (
    Feed,
    HistoryGone,
    event_of,
    oldest_readable,
    past,
    require_readable,
)
from k8slite.store.transaction import require_well_formed
from k8slite.store.watching import WatchHub

log = structlog.get_logger()

#: Keys a page of a listing; fewer when they are large (bytes).
_PAGE, _PAGE_BYTES = 1000, 8 << 20
#: Seconds until a watch that does not deliver what is known to be there counts as stuck, and
#: until those who wait for it are answered all the same.
_STUCK, _ANSWERED = 1.0, 5.0


class EtcdStore:
    """A ``Store`` in the etcd cluster at ``endpoints`` (``https://host:2379``), below ``root``.

    At least ``keep_revisions`` revisions of history are kept; who has ``compacts`` off leaves
    older history to others.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        *,
        root: str = "",
        tls: EtcdTls | None = None,
        user: str = "",
        password: str = "",
        keep_revisions: int = 10_000,
        compacts: bool = True,
        compact_every: float = 20.0,
    ) -> None:
        self._clock = clock
        self.root = root
        self._prefix = f"{root}/data".encode()
        self.base_key = f"{root}/meta/base".encode()
        self._span = (self._prefix, _after_prefix(f"{root}/meta/".encode()))
        self.pool = Pool(endpoints, clock, self._admit, tls=tls, user=user, password=password)
        self._hub = WatchHub(0)
        self._base = 0
        self._base_at: int | None = None  # etcd's revision of base_key; 0: no such key
        self._seen = 0  # the newest revision that anybody was told
        self._turns = etcd_leases.LeaseTurns()
        self._waiting: list[tuple[int, int, asyncio.Future[None], float]] = []  # by revision
        self._order = count()
        self._compaction = Compaction(keep_revisions) if compacts else None
        self._compact_every = compact_every
        self._present = Shared(self._ask_revision, "etcd-revision")
        self._resources: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Raises StoreUnavailable."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.pool.close)
            stack.push_async_callback(self._present.close)
            await self.pool.ready(self._clock.monotonic() + PATIENCE)
            reply, base = await self._range(self.base_key)
            self._hub = WatchHub(reply.header.revision + base)
            stack.callback(self._hub.close)
            feed = Feed(self.pool, self._span, self, self._clock)
            self._start(stack, "etcd-watch", feed.run())
            self._start(stack, "etcd-health", self.pool.watch_health(self._is_stuck))
            if self._compaction is not None:
                self._start(stack, "etcd-compaction", self._compact_by_itself(self._compaction))
            self._resources = stack.pop_all()
        return self

    def _start(self, stack: AsyncExitStack, name: str, run: Any) -> None:
        stack.push_async_callback(stop, asyncio.create_task(run, name=name))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        resources, self._resources = self._resources, None
        if resources is not None:
            await resources.aclose()
            self._release(self._hub.revision, all_of_them=True)

    def _require_open(self) -> None:
        if self._resources is None:
            raise StoreUnavailable("the store is closed")

    def _encode(self, key: str) -> bytes:
        return self._prefix + key.encode(errors="surrogateescape")

    def _decode(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode(errors="surrogateescape")

    # -- base -----------------------------------------------------------------------------------

    async def _admit(self, member: Member) -> None:
        """Before a member is used: does it show at least what was there before?"""
        seen = self._seen
        while True:
            request = rpc.RangeRequest(key=self.base_key)
            reply = await member.ask(member.kv.Range, request, READ, self.pool.metadata)
            base, at = _base_of(reply.kvs)
            revision = reply.header.revision + base
            if revision >= seen:
                break
            log.error(
                "etcd has lost data: it is older than it was; everything is listed again",
                endpoint=member.endpoint, revision=revision, seen=seen,
            )  # fmt: skip
            await self._raise_base(member, seen, at)
        self._take_base(base, at)
        self._seen = max(self._seen, revision)

    async def _raise_base(self, member: Member, base: int, at: int) -> None:
        """Unless somebody else does: the revisions of this etcd begin above ``base``."""
        request = rpc.TxnRequest(
            compare=[rpc.Compare(key=self.base_key, target=2, mod_revision=at)],
            success=[
                rpc.RequestOp(
                    request_put=rpc.PutRequest(
                        key=self.base_key, value=json.dumps({"base": base}).encode()
                    )
                )
            ],
        )
        await member.ask(member.kv.Txn, request, READ, self.pool.metadata)

    def _take_base(self, base: int, at: int) -> None:
        if self._base_at is not None and (base, at) != (self._base, self._base_at):
            self.pool.epoch += 1
            self._base, self._base_at = base, at
            self._seen = max(self._seen, base + at)
            self._hub.restart(base + at)
            self._release(base + at, all_of_them=True)
        self._base, self._base_at = base, at

    @property
    def _floor(self) -> int:
        """No history before this revision is of this etcd."""
        return self._base + self._base_at if self._base_at else 0

    # -- reads ----------------------------------------------------------------------------------

    async def _range(self, key: bytes, **options: Any) -> tuple[Any, int]:
        """A linearizable RangeRequest → its answer, and the base that its revisions need.

        Raises StoreUnavailable; EtcdError for compacted and future revisions.
        """
        request = rpc.RangeRequest(key=key, **options)
        while True:
            await self.pool.ready(self._clock.monotonic() + PATIENCE)
            epoch, base = self.pool.epoch, self._base
            try:
                reply = await self.pool.read(_range_of, request)
            except EtcdError as error:
                if is_compacted(error) or is_future(error):
                    raise
                raise refused(error, self.root) from None
            if epoch == self.pool.epoch:
                self._seen = max(self._seen, reply.header.revision + base)
                return reply, base

    async def revision(self) -> int:
        self._require_open()
        return await self._present.ask()

    async def _ask_revision(self) -> int:
        reply, base = await self._range(self.base_key, count_only=True)
        return await self._newest(reply.header.revision + base)

    async def _newest(self, revision: int) -> int:
        """The newest revision of our keys, when etcd as a whole is at ``revision``.

        Who waits until a watch shows it must not wait for what others write in the same etcd.
        """
        for _ in range(5):
            if revision <= self._hub.revision:
                return self._hub.revision
            try:
                async with asyncio.timeout(0.05):
                    await self._dispatched(revision)
                return self._hub.revision
            except TimeoutError:
                if await self._nothing_of_ours(shown := self._hub.revision, revision):
                    return shown
        return revision

    async def _nothing_of_ours(self, after: int, upto: int) -> bool:
        """Whether our keys are the same at both revisions."""
        first, end = self._prefix, _after_prefix(self._prefix)
        try:
            new, base = await self._range(
                first, range_end=end, revision=upto - self._base,
                min_mod_revision=after - self._base + 1, limit=1, keys_only=True,
            )  # fmt: skip
            now, _ = await self._range(first, range_end=end, revision=upto - base, count_only=True)
            then, _ = await self._range(
                first, range_end=end, revision=after - base, count_only=True
            )
        except EtcdError:
            return False  # compacted meanwhile
        return not new.kvs and bool(now.count == then.count)

    async def get(self, key: str) -> KeyValue | None:
        self._require_open()
        reply, base = await self._range(self._encode(key))
        return self._key_value(reply.kvs[0], base) if reply.kvs else None

    def _key_value(self, kv: Any, base: int) -> KeyValue:
        return KeyValue(
            self._decode(kv.key),
            kv.value,
            kv.create_revision + base,
            kv.mod_revision + base,
            kv.lease,
        )

    async def scan(self, prefix: str) -> Snapshot:
        self._require_open()
        while True:
            epoch = self.pool.epoch
            try:
                snapshot = await self._scan(self._encode(prefix))
            except EtcdError:
                continue  # compacted between two pages
            if epoch == self.pool.epoch:
                return snapshot

    async def _scan(self, prefix: bytes) -> Snapshot:
        start, end, limit = prefix, _after_prefix(prefix), _PAGE
        items: list[KeyValue] = []
        revision = 0
        while True:
            reply, base = await self._range(start, range_end=end, limit=limit, revision=revision)
            revision = revision or reply.header.revision
            items += [self._key_value(kv, base) for kv in reply.kvs]
            if not reply.more:
                return Snapshot(revision + base, items)
            start = reply.kvs[-1].key + b"\0"
            size = reply.ByteSize() // len(reply.kvs)
            limit = max(1, min(_PAGE, _PAGE_BYTES // max(1, size)))

    async def stats(self) -> StoreStats:
        self._require_open()
        keys, base = await self._range(
            self._prefix, range_end=_after_prefix(self._prefix), count_only=True
        )
        newest = keys.header.revision
        try:
            member = await self.pool.ready(self._clock.monotonic() + PATIENCE)
            status = await member.ask(
                member.maintenance.Status, rpc.StatusRequest(), READ, self.pool.metadata
            )
            oldest = await oldest_readable(member, self.base_key, newest, self.pool.metadata)
        except EtcdError as error:
            raise StoreUnavailable(f"etcd: {error.text}") from None
        compacted = max(self._floor, oldest + base if oldest > 1 else 0)
        return StoreStats(newest + base, compacted, keys.count, status.dbSizeInUse)

    # -- watches --------------------------------------------------------------------------------

    def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        return self._hub.watch(prefix, after, self._past)

    async def _past(self, prefix: str, after: int, upto: int) -> tuple[list[StoreEvent], int]:
        wanted = self._encode(prefix)
        while True:
            self._require_open()
            if after < self._floor:
                raise Compacted(self._floor)
            try:
                member = await self.pool.member()
                base = self._base
                events, reached = await past(
                    member, self._span, after - base, upto - base, self.pool.metadata
                )
            except StoreUnavailable:
                await self._clock.sleep(0.2)
            except HistoryGone:
                raise Compacted(await self._oldest()) from None
            except EtcdError as error:
                self.pool.leave(member, error.text)
                await self._clock.sleep(0.1)
            else:
                return [
                    event_of(event, self._decode, base)
                    for event in events
                    if event.kv.key.startswith(wanted)
                ], reached + base

    async def _oldest(self) -> int:
        return (await self.stats()).compacted

    # what the feed serves: etcd_watch.Watched

    @property
    def position(self) -> int:
        return self._hub.revision - self._base

    def deliver(self, revision: int, events: Sequence[Any]) -> None:
        prefix, base = self._prefix, self._base
        found = [
            event_of(event, self._decode, base)
            for event in events
            if event.kv.key.startswith(prefix)
        ]
        self._seen = max(self._seen, revision + base)
        self._hub.dispatch(revision + base, found)
        self._release(revision + base)
        for event in events:
            if event.kv.key == self.base_key:
                self._take_base(*_base_of([event.kv] if event.kv.value else []))

    async def lost_history(self, member: Member) -> None:
        request = rpc.RangeRequest(key=self.base_key)
        reply = await member.ask(member.kv.Range, request, READ, self.pool.metadata)
        log.warning("etcd was compacted while it was out of reach; everything is listed again")
        revision = reply.header.revision + self._base
        self._hub.restart(revision)
        self._release(revision)

    async def _dispatched(self, revision: int) -> None:
        """Wait until the feed has delivered ``revision``; not for ever."""
        waiter = asyncio.get_running_loop().create_future()
        since = self._clock.monotonic()
        heapq.heappush(self._waiting, (revision, next(self._order), waiter, since))
        await waiter

    def _release(self, revision: int, *, all_of_them: bool = False) -> None:
        while self._waiting and (all_of_them or self._waiting[0][0] <= revision):
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _is_stuck(self) -> bool:
        """Whether something acknowledged does not come; those who waited too long are let go."""
        now = self._clock.monotonic()
        waits = [now - since for _, _, waiter, since in self._waiting if not waiter.done()]
        if not waits:
            return False
        if max(waits) > _ANSWERED:
            self._release(0, all_of_them=True)
        return max(waits) > _STUCK

    # -- writes ---------------------------------------------------------------------------------

    async def commit(self, ops: Sequence[Op]) -> int:
        require_well_formed(ops)
        self._require_open()
        if not ops:
            return await self.revision()
        if leases := leases_of(ops):
            async with self._turns.writing(leases):
                return await self._commit(ops)
        return await self._commit(ops)

    async def _commit(self, ops: Sequence[Op]) -> int:
        if self.pool.in_use is None:
            await self.pool.ready(self._clock.monotonic() + PATIENCE)
        base = self._base
        reply = await self._transact(ops, request_of(ops, self._encode, base))
        if not reply.succeeded:
            raise refusal(ops, reply.responses, base)
        revision: int = reply.header.revision + base
        self._seen = max(self._seen, revision)
        if all(isinstance(op, Check) for op in ops):
            return await self._newest(revision)
        if revision > self._hub.revision:
            await self._dispatched(revision)
        return revision

    async def _transact(self, ops: Sequence[Op], request: Any) -> Any:
        try:
            return await self.pool.write(_txn_of, request)
        except EtcdError as error:
            if error.verdict is Verdict.LOST:
                return await self._once_more(ops, request, error.text)
            if is_no_lease(error):
                leases = leases_of(ops)
                raise lease_gone(await etcd_leases.gone_of(self.pool, leases)) from None
            raise refused(error, self.root) from None

    async def _once_more(self, ops: Sequence[Op], request: Any, why: str) -> Any:
        """The answer was lost. What cannot happen twice may be sent again: done then, it was
        certainly not done before. Anything else than done tells nothing about the first time."""
        unknown = OutcomeUnknown(f"etcd did not answer ({why}): the write may have happened")
        if not applies_once(ops):
            raise unknown
        try:
            reply = await self.pool.write(_txn_of, request)
        except (EtcdError, StoreUnavailable):
            raise unknown from None
        if not reply.succeeded:
            raise unknown
        return reply

    async def compact(self, revision: int) -> None:
        self._require_open()
        await self.pool.ready(self._clock.monotonic() + PATIENCE)
        at = revision - self._base
        if at <= 0:
            return
        try:
            await self.pool.read(_compact_of, rpc.CompactionRequest(revision=at))
        except EtcdError as error:
            if is_future(error):
                raise ValueError(
                    f"cannot compact at {revision}: the store is at {self._hub.revision}"
                ) from None
            if not is_compacted(error):
                raise refused(error, self.root) from None

    async def _compact_by_itself(self, compaction: Compaction) -> None:
        while True:
            # Not all masters at once.
            await self._clock.sleep(self._compact_every * (0.8 + 0.4 * self._clock.rng.random()))
            compaction.note(self._clock.monotonic(), self.position)
            target = compaction.due()
            if not target:
                continue
            try:
                member = await self.pool.member()
                done = max(1, target - compaction.slack)
                await require_readable(member, self.base_key, done, self.pool.metadata)
                await self.compact(target + self._base)
                compaction.done = target
            except HistoryGone:
                compaction.done = done  # somebody else has
            except (EtcdError, StoreUnavailable) as error:
                log.warning("etcd was not compacted", error=str(error))

    # -- leases ---------------------------------------------------------------------------------

    async def grant(self, ttl: float) -> int:
        self._require_open()
        return await etcd_leases.grant(self.pool, ttl)

    async def keep_alive(self, lease: int) -> None:
        self._require_open()
        await etcd_leases.keep_alive(self.pool, lease, self._clock.monotonic() + PATIENCE)

    async def revoke(self, lease: int) -> None:
        self._require_open()
        async with self._turns.ending(lease):
            await etcd_leases.revoke(self.pool, lease)


_range_of, _txn_of, _compact_of = map(attrgetter, ("kv.Range", "kv.Txn", "kv.Compact"))


def _after_prefix(prefix: bytes) -> bytes:
    """The first key that does not begin with ``prefix``."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])


def _base_of(kvs: Sequence[Any]) -> tuple[int, int]:
    """The base key's value and etcd's revision of it; zeros when there is none."""
    if not kvs:
        return 0, 0
    return int(json.loads(kvs[0].value)["base"]), int(kvs[0].mod_revision)
