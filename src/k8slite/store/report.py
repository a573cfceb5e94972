"""A store described in lines, and made smaller: ``k8slite store stats`` and ``compact``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8slite.api.kinds import SCHEME
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.store import sqlite_move
from k8slite.store.base import StoreStats
from k8slite.store.contents import Contents, census
from k8slite.store.moving import shelf_of
from k8slite.store.opening import open_store, store_file

if TYPE_CHECKING:
    from k8slite.store.etcd_move import MemberHealth


async def stats_of(settings: Settings, clock: Clock) -> list[str]:
    """Raises StoreError, ValueError."""
    shelf = shelf_of(settings.store, settings, clock)
    if settings.store != "etcd":
        path = store_file(settings.data_dir)
        stats, contents = sqlite_move.stats(path), await shelf.contents()
        return [*_about(shelf.name, stats), *_kinds(contents)]
    from k8slite.store import etcd_move
    from k8slite.store.etcd_opening import open_etcd

    async with open_etcd(settings, clock, compacts=False, filling=True) as store:
        lines = _about(shelf.name, await store.stats())
        for member in await etcd_move.health(store):
            part = "leader" if member.leader else "follower"
            how = (
                member.trouble or f"healthy, {part}, etcd {member.version}, {member.bytes:,} bytes"
            )
            lines.append(f"member      {member.name} {member.endpoint}: {how}")
        if await store.unfinished():
            lines.append("unfinished  a move into this place broke off; run the same again")
        return [*lines, *_kinds(await etcd_move.contents(store))]


def _about(name: str, stats: StoreStats) -> list[str]:
    return [
        f"store       {name}",
        f"revision    {stats.revision}",
        f"compacted   {stats.compacted}",
        f"keys        {stats.keys}",
        f"bytes       {stats.bytes:,}",
    ]


def _how(member: MemberHealth) -> str:
    if member.trouble:
        return member.trouble
    part = "leader" if member.leader else "follower"
    return f"healthy, {part}, etcd {member.version}, {member.bytes:,} bytes"


def _kinds(contents: Contents) -> list[str]:
    counts = census(contents.items, SCHEME)
    if not counts:
        return []
    width = max(len("KIND"), *map(len, counts))
    lines = [f"{'KIND':{width}}  {'KEYS':>8}  {'BYTES':>12}"]
    for name, count in counts.items():
        lines.append(f"{name:{width}}  {count.keys:>8}  {count.bytes:>12,}")
    return lines


async def compacted(settings: Settings, clock: Clock, keep: int) -> list[str]:
    """Forget all but the newest ``keep`` revisions; what was done. Raises StoreError."""
    if settings.store != "etcd":
        path = store_file(settings.data_dir)
        sqlite_move.require_file(path)
        async with open_store(settings, clock) as store:
            before = (await store.stats()).bytes
            revision = max(0, await store.revision() - keep)
            await store.compact(revision)
        sqlite_move.vacuum(path)
        after = sqlite_move.stats(path).bytes
        return [f"compacted at revision {revision}", f"{path}: {before:,} bytes, now {after:,}"]
    from k8slite.store import etcd_move
    from k8slite.store.etcd_opening import open_etcd

    async with open_etcd(settings, clock, compacts=False, filling=True) as etcd:
        revision = max(0, await etcd.revision() - keep)
        await etcd.compact(revision, seconds=etcd_move.THOROUGH)
        return [f"compacted at revision {revision}", *await etcd_move.defragment(etcd)]
