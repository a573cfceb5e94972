"""A cluster's place in etcd as a whole: read at one revision, filled from elsewhere, looked after.

While a place is being filled, ``meta/filling`` says so: no agent starts on half a cluster, and who
fills it again begins anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aetcd import rpc

from k8slite.store import etcd_leases
from k8slite.store.base import LeaseGone, StoreUnavailable
from k8slite.store.contents import SIGNS, Contents
from k8slite.store.etcd import EtcdStore
from k8slite.store.etcd_connection import CONNECT
from k8slite.store.etcd_errors import EtcdError
from k8slite.store.etcd_member import Member

#: Seconds: a large member drops its history bit by bit, and rewrites its file while it is
#: defragmented.
THOROUGH = 300.0
_GET, _DEACTIVATE = 0, 2  # AlarmRequest.AlarmAction


async def contents(store: EtcdStore) -> Contents:
    """Everything at one revision. Raises StoreError."""
    snapshot = await store.scan("")
    ttls: dict[int, float] = {}
    for lease in {item.lease for item in snapshot.items if item.lease}:
        try:
            ttls[lease] = await etcd_leases.granted_ttl(store.pool, lease)
        except LeaseGone:
            pass
    return Contents(snapshot.revision, snapshot.items, ttls)


def require_no_master(found: Contents) -> None:
    """Raises StoreUnavailable while a master gives signs of life: it would go on writing."""
    prefix = f"{SIGNS}masters/"
    names = [item.key.removeprefix(prefix) for item in found.items if item.key.startswith(prefix)]
    if names:
        raise StoreUnavailable(
            f"{', '.join(names)} runs on this etcd and would go on writing to it: stop the masters "
            "and wait until their leases have ended"
        )


@asynccontextmanager
async def filling(store: EtcdStore, above: int, empty: Callable[[], Any]) -> AsyncIterator[None]:
    """In the block ``store`` may be filled at revisions above ``above``; ended well, it is whole.

    ``empty`` is called unless an earlier filling broke off; it raises when there is something.
    """
    if await store.unfinished():
        first, end = store.place.data
        await store.pool.read(
            lambda member: member.kv.DeleteRange, rpc.DeleteRangeRequest(key=first, range_end=end)
        )
    else:
        await empty()
    await store.begin_above(above)
    yield
    await store.pool.read(
        lambda member: member.kv.DeleteRange, rpc.DeleteRangeRequest(key=store.place.filling_key)
    )


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """``trouble`` is "" for a member that is well."""

    name: str
    endpoint: str
    version: str = ""
    leader: bool = False
    bytes: int = 0
    trouble: str = ""


async def health(store: EtcdStore) -> list[MemberHealth]:
    """Every member of the cluster, asked one by one. Raises StoreUnavailable."""
    found = []
    for name, endpoint in await _members(store):
        async with store.pool.beside(endpoint) as member:
            found.append(await _health(store, name, member))
    return found


async def _members(store: EtcdStore) -> Sequence[tuple[str, str]]:
    try:
        reply = await store.pool.read(
            lambda member: member.cluster.MemberList, rpc.MemberListRequest()
        )
    except EtcdError as error:
        raise StoreUnavailable(f"etcd does not tell its members: {error.text}") from None
    return [(one.name, one.clientURLs[0]) for one in reply.members if one.clientURLs]


async def _health(store: EtcdStore, name: str, member: Member) -> MemberHealth:
    try:
        status = await member.ask(
            member.maintenance.Status, rpc.StatusRequest(), CONNECT, store.pool.metadata[1:]
        )
    except EtcdError as error:
        return MemberHealth(name, member.endpoint, trouble=error.text)
    trouble = "; ".join(status.errors) or ("" if status.leader else "has no leader")
    return MemberHealth(
        name, member.endpoint, status.version,
        status.leader == status.header.member_id, status.dbSize, trouble,
    )  # fmt: skip


async def defragment(store: EtcdStore) -> list[str]:
    """Give back what compaction freed, one member after the other, then lift the alarm about it.

    Returns lines that say what was done. Raises StoreUnavailable.
    """
    lines = []
    for name, endpoint in await _members(store):
        async with store.pool.beside(endpoint) as member:
            before = (await _health(store, name, member)).bytes
            try:
                await member.ask(
                    member.maintenance.Defragment, rpc.DefragmentRequest(), THOROUGH,
                    store.pool.metadata,
                )  # fmt: skip
            except EtcdError as error:
                lines.append(f"{name or endpoint}: not defragmented: {error.text}")
                continue
            after = (await _health(store, name, member)).bytes
            lines.append(f"{name or endpoint}: {before:,} bytes, now {after:,}")
    return lines + await _disarm(store)


async def _disarm(store: EtcdStore) -> list[str]:
    lines = []
    reply = await store.pool.read(_alarm_of, rpc.AlarmRequest(action=_GET))
    for alarm in reply.alarms:
        if alarm.alarm == rpc.NOSPACE:
            await store.pool.read(
                _alarm_of,
                rpc.AlarmRequest(action=_DEACTIVATE, memberID=alarm.memberID, alarm=rpc.NOSPACE),
            )
            lines.append(f"alarm NOSPACE of member {alarm.memberID:x} lifted")
    return lines


def _alarm_of(member: Member) -> Any:
    return member.maintenance.Alarm
