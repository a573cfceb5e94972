"""etcd behind the store contract: ``etcd_place`` says where what lies, ``etcd_reading`` reads.

Each process holds one watch of all keys (``etcd_watch``); its watches are served from it by the
hub, and a commit is answered when that watch has delivered it.
"""

from __future__ import annotations

import asyncio
import heapq
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
    StoreRefuses,
    StoreStats,
    StoreUnavailable,
)
from k8slite.store.etcd_compaction import Compaction
from k8slite.store.etcd_connection import PATIENCE, READ, Pool
from k8slite.store.etcd_errors import (
    EtcdError,
    Verdict,
    is_compacted,
    is_future,
    is_no_lease,
    is_no_space,
    lease_gone,
    refused,
)
from k8slite.store.etcd_member import EtcdTls, Member
from k8slite.store.etcd_place import Place, base_of
from k8slite.store.etcd_reading import Reading
from k8slite.store.etcd_transaction import applies_once, leases_of, refusal, request_of
from k8slite.store.etcd_watch import Feed, HistoryGone, past, require_readable
from k8slite.store.transaction import require_well_formed
from k8slite.store.watching import WatchHub

log = structlog.get_logger()

#: Seconds until a watch that does not deliver what is known to be there counts as stuck, and
#: until those who wait for it are answered all the same.
_STUCK, _ANSWERED = 3.0, 6.0

_txn_of, _compact_of = map(attrgetter, ("kv.Txn", "kv.Compact"))


class EtcdStore:
    """A ``Store`` in the etcd cluster at ``endpoints`` (``https://host:2379``), below ``root``.

    At least ``keep_revisions`` revisions of history are kept; who has ``compacts`` off leaves
    older history to others. Only with ``filling`` is a place opened into which a cluster was
    moved by half.
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
        filling: bool = False,
    ) -> None:
        self._clock = clock
        self.place = Place(root)
        self.pool = Pool(endpoints, clock, self._admit, tls=tls, user=user, password=password)
        self._reading = Reading(self.pool, self.place, clock)
        self._hub = WatchHub(0)
        self._filling = filling
        self._turns = etcd_leases.LeaseTurns()
        self._waiting: list[tuple[int, int, asyncio.Future[None], float]] = []  # by revision
        self._order = count()
        self._last_stuck = float("-inf")
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
            if not self._filling and await self.unfinished():
                raise StoreRefuses(
                    f"etcd {self.place.root or '/'} holds a half of a cluster: `k8slite store "
                    "migrate` or `restore` broke off; run the same again"
                )
            self._hub = WatchHub(await self._reading.newest())
            stack.callback(self._hub.close)
            feed = Feed(self.pool, self.place.watched, self, self._clock)
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

    # -- the place ------------------------------------------------------------------------------

    async def _admit(self, member: Member) -> None:
        """Before a member is used: does it show at least what was there before?"""
        self._take_base(*await self.place.look(member, self.pool.metadata))

    def _take_base(self, base: int, at: int) -> None:
        place = self.place
        known = place.base_at is not None
        if (base, at) == (place.base, place.base_at):
            return
        place.base, place.base_at = base, at
        if known:
            self.pool.epoch += 1
            place.saw(base + at)
            self._hub.restart(base + at)
            self._release(base + at, all_of_them=True)

    async def unfinished(self) -> bool:
        """Whether somebody began to move a cluster in and did not end."""
        return bool((await self._reading.range(self.place.filling_key, count_only=True)).count)

    async def begin_above(self, revision: int) -> None:
        """Mark the place as being filled; its revisions begin above ``revision``.

        Raises StoreUnavailable.
        """
        newest = await self._reading.newest()
        base = max(revision, newest) - (newest - self.place.base)
        request = rpc.TxnRequest(success=[self.place.base_put(base), self.place.filling_put()])
        reply = await self.pool.read(_txn_of, request)
        self._take_base(base, reply.header.revision)

    # -- reads ----------------------------------------------------------------------------------

    async def revision(self) -> int:
        self._require_open()
        return await self._present.ask()

    async def _ask_revision(self) -> int:
        return await self._newest(await self._reading.newest())

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
                if await self._reading.same_at(shown := self._hub.revision, revision):
                    return shown
        return revision

    async def get(self, key: str) -> KeyValue | None:
        self._require_open()
        return await self._reading.get(key)

    async def scan(self, prefix: str) -> Snapshot:
        self._require_open()
        return await self._reading.scan(prefix)

    async def stats(self) -> StoreStats:
        self._require_open()
        return await self._reading.stats()

    # -- watches --------------------------------------------------------------------------------

    def watch(self, prefix: str, after: int) -> AsyncGenerator[list[StoreEvent], None]:
        return self._hub.watch(prefix, after, self._past)

    async def _past(self, prefix: str, after: int, upto: int) -> tuple[list[StoreEvent], int]:
        wanted = self.place.encode(prefix)
        while True:
            self._require_open()
            if after < self.place.floor:
                raise Compacted(self.place.floor)
            try:
                member = await self.pool.member()
                base, span = self.place.base, self.place.watched
                metadata = self.pool.metadata
                events, reached = await past(member, span, after - base, upto - base, metadata)
            except StoreUnavailable:
                await self._clock.sleep(0.2)
            except HistoryGone:
                raise Compacted(await self._oldest()) from None
            except EtcdError as error:
                self.pool.leave(member, error.text)
                await self._clock.sleep(0.1)
            else:
                if base == self.place.base:
                    return self.place.events(events, wanted), reached + base

    async def _oldest(self) -> int:
        return (await self.stats()).compacted

    # what the feed serves: etcd_watch.Watched

    @property
    def position(self) -> int:
        return self._hub.revision - self.place.base

    def deliver(self, revision: int, events: Sequence[Any]) -> None:
        place = self.place
        found = place.events(events, place.prefix)
        revision += place.base
        place.saw(revision)
        self._hub.dispatch(revision, found)
        self._release(revision)
        for event in events:
            if event.kv.key == place.base_key:
                self._take_base(*base_of([event.kv] if event.kv.value else []))

    async def lost_history(self, member: Member) -> None:
        request = rpc.RangeRequest(key=self.place.base_key)
        reply = await member.ask(member.kv.Range, request, READ, self.pool.metadata)
        log.warning("etcd was compacted while it was out of reach; everything is listed again")
        revision = reply.header.revision + self.place.base
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
        began = [since for _, _, waiter, since in self._waiting if not waiter.done()]
        if not began:
            return False
        if now - min(began) > _ANSWERED:
            self._release(0, all_of_them=True)
        stuck = now - max(min(began), self._last_stuck) > _STUCK
        if stuck:
            self._last_stuck = now  # the next watch has as long
        return stuck

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
        base, seen = self.place.base, self._hub.revision
        reply = await self._transact(ops, request_of(ops, self.place.encode, base))
        if not reply.succeeded:
            raise refusal(ops, reply.responses, base)
        revision: int = reply.header.revision + base
        if all(isinstance(op, Check) for op in ops):
            return await self._newest(revision)
        if revision <= seen:
            raise OutcomeUnknown("etcd has lost data: the write is in what it has now")
        self.place.saw(revision)
        if revision > self._hub.revision:
            await self._dispatched(revision)
        return revision

    async def _transact(self, ops: Sequence[Op], request: Any) -> Any:
        try:
            return await self.pool.write(_txn_of, request)
        except EtcdError as error:
            if error.verdict is Verdict.LOST:
                return await self._once_more(ops, request, error.text)
            if is_no_space(error):  # or it is there: etcd looks after it has applied, too
                raise OutcomeUnknown(f"{refused(error)}; the write may have happened") from None
            if is_no_lease(error):
                leases = leases_of(ops)
                raise lease_gone(await etcd_leases.gone_of(self.pool, leases)) from None
            raise refused(error, self.place.root) from None

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

    async def compact(self, revision: int, *, seconds: float = 0.0) -> None:
        """With ``seconds``, wait that long for the member that was asked to have dropped what is
        forgotten, so that defragmenting it gives the room back."""
        self._require_open()
        await self.pool.ready(self._clock.monotonic() + PATIENCE)
        at = revision - self.place.base
        if at <= 0:
            return
        try:
            request = rpc.CompactionRequest(revision=at, physical=seconds > 0)
            await self.pool.read(_compact_of, request, max(READ, seconds))
        except EtcdError as error:
            if is_future(error):
                raise ValueError(
                    f"cannot compact at {revision}: the store is at {self._hub.revision}"
                ) from None
            if not is_compacted(error):
                raise refused(error, self.place.root) from None

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
                await require_readable(member, self.place.base_key, done, self.pool.metadata)
                await self.compact(target + self.place.base)
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
