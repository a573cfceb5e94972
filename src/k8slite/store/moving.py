"""Moving a whole cluster between stores: read, fill, read back, and only then say that it is done.

``Shelf`` is a store as it is named on a command line: an embedded file or a place in etcd.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from k8slite.api.kinds import SCHEME
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.store import sqlite_move
from k8slite.store.base import KeyValue, Store, StoreError, StoreUnavailable
from k8slite.store.contents import Contents, census, digest, transactions
from k8slite.store.opening import STORE_FILE, store_file


class Shelf(Protocol):
    @property
    def name(self) -> str: ...

    async def contents(self) -> Contents:
        """Everything at one revision; the cluster may run meanwhile. Raises StoreError."""
        ...

    def still(self) -> AbstractAsyncContextManager[Contents]:
        """Everything, and nobody changes it in the block. Raises StoreError."""
        ...

    def filling(self, above: int) -> AbstractAsyncContextManager[Store]:
        """An empty store at revisions above ``above``; whole when the block ends well.

        Raises StoreError, also when there is something already.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileShelf:
    path: Path
    clock: Clock

    @property
    def name(self) -> str:
        return f"sqlite:{self.path}"

    async def contents(self) -> Contents:
        return sqlite_move.contents(self.path)

    def still(self) -> AbstractAsyncContextManager[Contents]:
        return sqlite_move.locked_contents(self.path)

    @asynccontextmanager
    async def filling(self, above: int) -> AsyncIterator[Store]:
        if self.path.exists():
            require_empty(self.name, sqlite_move.contents(self.path))
        async with sqlite_move.filling(self.path, self.clock, above) as store:
            yield store


@dataclass(frozen=True, slots=True)
class EtcdShelf:
    settings: Settings
    clock: Clock

    @property
    def name(self) -> str:
        return f"etcd:{','.join(self.settings.etcd)} below {self.settings.etcd_root}"

    async def contents(self) -> Contents:
        from k8slite.store import etcd_move, etcd_opening

        async with etcd_opening.open_etcd(self.settings, self.clock, compacts=False) as store:
            return await etcd_move.contents(store)

    @asynccontextmanager
    async def still(self) -> AsyncIterator[Contents]:
        from k8slite.store import etcd_move

        found = await self.contents()
        etcd_move.require_no_master(found)
        yield found

    @asynccontextmanager
    async def filling(self, above: int) -> AsyncIterator[Store]:
        from k8slite.store import etcd_move, etcd_opening

        opened = etcd_opening.open_etcd(self.settings, self.clock, compacts=False, filling=True)
        async with opened as store:

            async def empty() -> None:
                require_empty(self.name, await etcd_move.contents(store))

            async with etcd_move.filling(store, above, empty):
                yield store


def require_empty(name: str, found: Contents) -> None:
    """Raises StoreUnavailable that says what is there."""
    if found.items:
        counts = census(found.items, SCHEME)
        listed = ", ".join(f"{count.keys} {what}" for what, count in counts.items())
        raise StoreUnavailable(
            f"{name} is not empty: it holds {len(found.items)} keys ({listed}); choose another "
            "place, or remove what is there first"
        )


def shelf_of(words: str, settings: Settings, clock: Clock) -> Shelf:
    """``sqlite``, ``sqlite:PATH`` (a file or a data folder), ``etcd`` or ``etcd:URL,URL``; what is
    left out is in ``settings``. Raises ValueError."""
    kind, _, where = words.partition(":")
    if kind == "sqlite":
        path = Path(where) if where else store_file(settings.data_dir)
        return FileShelf(path / STORE_FILE if path.is_dir() else path, clock)
    if kind == "etcd":
        if where:
            settings = replace(settings, etcd=tuple(part for part in where.split(",") if part))
        if not settings.etcd:
            raise ValueError("etcd: where is it? give --etcd http(s)://HOST:2379")
        return EtcdShelf(settings, clock)
    raise ValueError(
        f"{words!r} names no store: write sqlite, sqlite:/var/lib/k8slite/store.db, etcd, or "
        "etcd:https://HOST:2379,https://HOST:2379"
    )


@dataclass(frozen=True, slots=True)
class Moved:
    """``left_out``: signs of life, which their holders make anew."""

    keys: int
    left_out: int
    source_revision: int
    revision: int
    sha256: str


class NotTheSame(StoreError):
    """What was read back is not what was written."""


async def migrate(source: Shelf, target: Shelf) -> Moved:
    """Move everything of ``source``, which stays as it is. Raises StoreError, ValueError."""
    if source.name == target.name:
        raise ValueError(f"{source.name}: a store cannot be moved onto itself")
    async with source.still() as contents:
        return await restore(contents, target)


async def restore(contents: Contents, target: Shelf) -> Moved:
    """Fill ``target``, at revisions above those of ``contents``. Raises StoreError."""
    items = contents.worth_moving()
    async with target.filling(contents.revision) as store:
        leases = {
            lease: await store.grant(contents.ttls[lease])
            for lease in sorted({item.lease for item in items if item.lease})
        }
        for ops in transactions(items, leases):
            await store.commit(ops)
        snapshot = await store.scan("")
        _require_same(items, snapshot.items, target.name)
        if snapshot.items and snapshot.revision <= contents.revision:
            raise NotTheSame(f"{target.name}: its revisions did not grow; nothing was moved")
    return Moved(
        len(items),
        len(contents.items) - len(items),
        contents.revision,
        snapshot.revision,
        digest(snapshot.items),
    )


def _require_same(wanted: Sequence[KeyValue], found: Sequence[KeyValue], name: str) -> None:
    """What is on a lease may have ended meanwhile; everything else must be there as it was."""
    known = {item.key for item in found}
    expected = [item for item in wanted if not item.lease or item.key in known]
    if len(expected) != len(found) or digest(expected) != digest(found):
        raise NotTheSame(
            f"{name}: {len(found)} keys were read back, {len(expected)} were written, and they "
            "are not the same; nothing was moved"
        )
