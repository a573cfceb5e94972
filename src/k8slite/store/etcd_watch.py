"""Watching etcd: one feed of everything that changes, and history for a watch that asks for it.

etcd sends a transaction's events in one message (fragments are not asked for), in order. What it
cannot promise by itself: that a watch that resumes just where history was compacted has every
event. So after the first events of a resumed watch it is asked whether the revision before them
is still readable; only then were they all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from aetcd import rpc

from k8slite.kit.clock import Clock
from k8slite.store.base import StoreEvent, StoreUnavailable
from k8slite.store.etcd_connection import READ, Pool
from k8slite.store.etcd_errors import EtcdError, Verdict, is_compacted
from k8slite.store.etcd_member import Member, Stream

log = structlog.get_logger()

_DELETE = 1  # mvccpb.Event.EventType
#: History is handed on when it holds so many events.
_PAGE = 1000


class HistoryGone(Exception):
    """etcd has compacted what a watch asked for."""


class Watched(Protocol):
    """What the feed serves; revisions are etcd's own."""

    @property
    def position(self) -> int:
        """Everything up to here has been delivered."""
        ...

    def deliver(self, revision: int, events: Sequence[Any]) -> None: ...

    async def lost_history(self, member: Member) -> None:
        """Everything must be listed anew; leaves ``position`` at the present."""
        ...


class Feed:
    """The one watch of a store. ``span`` is (first key, end) of what is watched."""

    def __init__(
        self, pool: Pool, span: tuple[bytes, bytes], watched: Watched, clock: Clock
    ) -> None:
        self._pool, self._span, self._watched, self._clock = pool, span, watched, clock

    async def run(self) -> None:
        """Watch until cancelled, from where it was left, at whichever endpoint answers."""
        told = ""
        while True:
            try:
                member = await self._pool.member()
            except StoreUnavailable as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("no watch of etcd", error=told)
                await self._clock.sleep(0.5)
                continue
            told = ""
            try:
                await self._follow(member)
            except HistoryGone:
                await self._list_again(member)
            except EtcdError as error:
                await self._recover(member, error)

    async def _list_again(self, member: Member) -> None:
        try:
            await self._watched.lost_history(member)
        except EtcdError as error:
            await self._recover(member, error)

    async def _recover(self, member: Member, error: EtcdError) -> None:
        self._pool.leave(member, f"its watch ended: {error.text}")
        if error.verdict is not Verdict.LOST:
            await self._clock.sleep(0.2)

    async def _follow(self, member: Member) -> None:
        """Raises EtcdError, HistoryGone."""
        after = self._watched.position
        request = watch_request(self._span, after + 1)
        async with member.stream(member.watches.Watch, request, self._pool.metadata) as stream:
            present = await created(stream)
            while True:
                message = await answer(stream)
                if message.events:
                    if after < message.events[0].kv.mod_revision <= present:
                        await require_readable(member, self._span[0], after, self._pool.metadata)
                    present = 0  # from here on the watch goes on by itself
                    self._watched.deliver(message.events[-1].kv.mod_revision, message.events)
                elif message.header.revision > self._watched.position:
                    self._watched.deliver(message.header.revision, ())


def watch_request(span: tuple[bytes, bytes], first: int) -> Any:
    return rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=span[0], range_end=span[1], start_revision=first, prev_kv=True, progress_notify=True
        )
    )


async def created(stream: Stream) -> int:
    """Wait for a new watch to stand; etcd's revision then. Raises EtcdError, HistoryGone."""
    message = await answer(stream)
    return int(message.header.revision)


async def answer(stream: Stream) -> Any:
    message = await stream.read()
    if message.canceled:
        if message.compact_revision:
            raise HistoryGone
        verdict = Verdict.TOKEN if "token" in message.cancel_reason else Verdict.REFUSED
        raise EtcdError(verdict, message.cancel_reason or "etcd ended the watch")
    return message


async def require_readable(member: Member, key: bytes, revision: int, metadata: Any) -> None:
    """Raises HistoryGone when history after ``revision`` is not complete any more."""
    request = rpc.RangeRequest(key=key, revision=revision, count_only=True)
    try:
        await member.ask(member.kv.Range, request, READ, metadata)
    except EtcdError as error:
        if is_compacted(error):
            raise HistoryGone from None
        raise


async def past(
    member: Member, span: tuple[bytes, bytes], after: int, upto: int, metadata: Any
) -> tuple[list[Any], int]:
    """Events after ``after``, whole transactions, and the revision up to which they are all.

    Waits until there is an event at ``upto`` or later, or a page is full. Raises EtcdError,
    HistoryGone.
    """
    await require_readable(member, span[0], after, metadata)
    found: list[Any] = []
    reached = after
    request = watch_request(span, after + 1)
    async with member.stream(member.watches.Watch, request, metadata) as stream:
        await created(stream)
        while reached < upto and len(found) < _PAGE:
            message = await answer(stream)
            found += message.events
            if message.events:
                reached = message.events[-1].kv.mod_revision
            elif message.header.revision > reached:
                reached = message.header.revision
    await require_readable(member, span[0], after, metadata)
    if reached > upto:
        return [event for event in found if event.kv.mod_revision <= upto], upto
    return found, reached


def event_of(event: Any, decode: Callable[[bytes], str], base: int) -> StoreEvent:
    kv = event.kv
    previous = event.prev_kv.value if event.HasField("prev_kv") else None
    if event.type == _DELETE:
        return StoreEvent(
            decode(kv.key),
            kv.mod_revision + base,
            None,
            event.prev_kv.create_revision + base,
            previous,
        )
    return StoreEvent(
        decode(kv.key), kv.mod_revision + base, kv.value, kv.create_revision + base, previous
    )


async def oldest_readable(member: Member, key: bytes, newest: int, metadata: Any) -> int:
    """The revision up to which etcd is compacted (1: never yet), by halving. Raises EtcdError."""

    async def readable(revision: int) -> bool:
        try:
            await require_readable(member, key, revision, metadata)
        except HistoryGone:
            return False
        return True

    low, high = 1, newest
    if await readable(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        if await readable(middle):
            high = middle
        else:
            low = middle
    return high
