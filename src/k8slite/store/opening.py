"""Which store the settings mean. etcd's client is imported only where etcd is meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from k8slite.config import Settings
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.store.base import Store, StoreRefuses, StoreUnavailable

log = structlog.get_logger()

_RETRY = Backoff(initial=0.2, maximum=2.0)

STORE_FILE = "store.db"


def store_file(data_dir: Path) -> Path:
    """Where the embedded store of a data folder is."""
    return data_dir / STORE_FILE


def open_store(settings: Settings, clock: Clock, *, compacts: bool = True) -> Store:
    """The store, still to be entered. ``compacts`` False: for who only reads from etcd.

    Raises StoreUnavailable when a file that it needs cannot be read, ValueError for no store.
    """
    if settings.store == "memory":
        from k8slite.store.memory import MemoryStore

        return MemoryStore(clock)
    if settings.store == "sqlite":
        from k8slite.store.sqlite import SqliteStore

        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return SqliteStore(store_file(settings.data_dir), clock)
    if settings.store == "etcd":
        from k8slite.store.etcd_opening import open_etcd

        return open_etcd(settings, clock, compacts=compacts)
    raise ValueError(f"--store {settings.store}: sqlite, memory or etcd")


@asynccontextmanager
async def opened(
    settings: Settings, clock: Clock, *, compacts: bool = True
) -> AsyncIterator[Store]:
    """The store, entered. An etcd that is not up yet is waited for: after a power cut everybody
    starts at once, and etcd needs its members first.

    Raises StoreCorrupt, and StoreUnavailable where waiting would not help.
    """
    failures, told = 0, ""
    while True:
        store = open_store(settings, clock, compacts=compacts)
        try:
            await store.__aenter__()
            break
        except StoreUnavailable as error:
            if settings.store != "etcd" or isinstance(error, StoreRefuses):
                raise
            failures += 1
            if str(error) != told:
                told = str(error)
                log.warning("waiting for the store", error=told)
            await clock.sleep(_RETRY.delay(failures))
    try:
        yield store
    finally:
        await store.__aexit__(None, None, None)
