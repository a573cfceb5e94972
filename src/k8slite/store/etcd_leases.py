"""Leases of etcd, and the order of what is done to one.

etcd serves the requests of one connection in any order. Within one process the end of a lease
waits for the writes under it that were begun before, and later writes wait for that end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aetcd import rpc

from k8slite.store.base import LeaseGone
from k8slite.store.etcd_connection import READ, Pool
from k8slite.store.etcd_errors import EtcdError, Verdict, is_no_lease, lease_gone, refused


class LeaseTurns:
    def __init__(self) -> None:
        self._writes: dict[int, set[asyncio.Future[None]]] = {}
        self._ends: dict[int, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def writing(self, leases: Collection[int]) -> AsyncIterator[None]:
        while ends := [self._ends[lease] for lease in leases if lease in self._ends]:
            await asyncio.wait(ends)
        done = asyncio.get_running_loop().create_future()
        for lease in leases:
            self._writes.setdefault(lease, set()).add(done)
        try:
            yield
        finally:
            done.set_result(None)
            for lease in leases:
                self._writes[lease].discard(done)
                if not self._writes[lease]:
                    del self._writes[lease]

    @asynccontextmanager
    async def ending(self, lease: int) -> AsyncIterator[None]:
        while lease in self._ends:
            await asyncio.wait([self._ends[lease]])
        done = self._ends[lease] = asyncio.get_running_loop().create_future()
        try:
            if writes := self._writes.get(lease):
                await asyncio.wait(set(writes))
            yield
        finally:
            del self._ends[lease]
            done.set_result(None)


async def grant(pool: Pool, ttl: float) -> int:
    """A new lease; if the answer is lost, the one that may be there ends by itself."""
    request = rpc.LeaseGrantRequest(TTL=max(1, math.ceil(ttl)))
    try:
        reply = await pool.read(lambda member: member.leases.LeaseGrant, request)
    except EtcdError as error:
        raise refused(error) from None
    return int(reply.ID)


async def keep_alive(pool: Pool, lease: int, end: float) -> None:
    """Raises LeaseGone, StoreUnavailable. ``end`` is how long to try, on the pool's clock."""
    request = rpc.LeaseKeepAliveRequest(ID=lease)
    while True:
        member = await pool.ready(end)
        try:
            async with asyncio.timeout(READ):
                method = member.leases.LeaseKeepAlive
                async with member.stream(method, request, pool.metadata) as stream:
                    reply = await stream.read()
        except TimeoutError:
            await pool.mend(member, EtcdError(Verdict.LOST, "no answer in time"), end)
        except EtcdError as error:
            if is_no_lease(error):
                raise lease_gone(lease) from None
            if error.verdict is Verdict.REFUSED:
                raise refused(error) from None
            await pool.mend(member, error, end)
        else:
            if reply.TTL <= 0:
                raise lease_gone(lease)
            return


async def revoke(pool: Pool, lease: int) -> None:
    try:
        await pool.read(lambda member: member.leases.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
    except EtcdError as error:
        if not is_no_lease(error):
            raise refused(error) from None


async def granted_ttl(pool: Pool, lease: int) -> float:
    """The whole ttl of a lease in seconds. Raises LeaseGone, StoreUnavailable."""
    request = rpc.LeaseTimeToLiveRequest(ID=lease)
    try:
        reply = await pool.read(lambda member: member.leases.LeaseTimeToLive, request)
    except EtcdError as error:
        if is_no_lease(error):
            raise lease_gone(lease) from None
        raise refused(error) from None
    if reply.TTL <= 0:
        raise lease_gone(lease)
    return float(reply.grantedTTL)


async def gone_of(pool: Pool, leases: Collection[int]) -> int:
    """The first of ``leases`` that is not there."""
    for lease in sorted(leases):
        try:
            await granted_ttl(pool, lease)
        except LeaseGone:
            return lease
    return min(leases)
