"""A store that runs out of room, in a process of its own: ``full_disk.py SCENARIO DIRECTORY``."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from k8slite.kit.clock import Clock
from k8slite.store.base import Create, OutcomeUnknown, StoreUnavailable
from k8slite.store.sqlite import SqliteStore

VALUE = b"x" * 50_000


async def fill(store: SqliteStore, name: str) -> tuple[set[str], set[str], list[Exception]]:
    """Create pairs of keys, several at a time, until none goes through.

    Returns the pairs acknowledged, the pairs nobody knows about, and the refusals.
    """
    done: set[str] = set()
    doubtful: set[str] = set()
    refusals: list[Exception] = []

    async def create(pair: str) -> bool:
        try:
            await store.commit([Create(f"/a/{pair}", VALUE), Create(f"/b/{pair}", VALUE)])
        except StoreUnavailable as error:
            refusals.append(error)
            return False
        except OutcomeUnknown as error:
            doubtful.add(pair)
            refusals.append(error)
            return False
        done.add(pair)
        return True

    turn = 0
    while any(await asyncio.gather(*(create(f"{name}{turn}.{n}") for n in range(8)))):
        turn += 1
        assert turn < 1000, "the disk never filled"
    return done, doubtful, refusals


async def pairs(store: SqliteStore) -> set[str]:
    """The pairs there are, each of which must be whole."""
    items = {item.key: item.value for item in (await store.scan("/")).items}
    count = Counter(key[3:] for key in items)
    assert set(count.values()) <= {2}, "a transaction was torn"
    assert set(items.values()) <= {VALUE}
    return set(count)


async def run_out_of_room(directory: Path, make_room: Callable[[], None], message: str) -> None:
    path = directory / "store.db"
    async with SqliteStore(path, Clock()) as store:
        start = await store.revision()
        done, doubtful, refusals = await fill(store, "first")
        assert done
        assert any(message in str(error) for error in refusals), refusals
        assert all("\n" not in str(error) for error in refusals)
        assert done <= await pairs(store) <= done | doubtful
        if not doubtful:
            assert await store.revision() == start + len(done)
        async with aclosing(store.watch("/", start)) as watch:
            seen = len(await anext(watch))
            assert seen >= 2

        make_room()
        last = await store.commit([Create("/a/after", VALUE), Create("/b/after", VALUE)])
        assert last > start + len(done)
        more, unknown, _ = await fill(store, "second")
        expected = done | more | {"after"}
        assert expected <= await pairs(store) <= expected | doubtful | unknown
    async with SqliteStore(path, Clock()) as store:
        assert expected <= await pairs(store) <= expected | doubtful | unknown


def disk(directory: Path) -> None:
    """The whole disk is small; ``ballast`` takes a part of it."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(3_000_000))
    asyncio.run(run_out_of_room(directory, ballast.unlink, "no space left"))


def file_size(directory: Path) -> None:
    """Files may not grow beyond a limit: writes fail half-way with another error."""
    soft, hard = 2_000_000, 6_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    asyncio.run(run_out_of_room(directory, make_room, "store.db"))


if __name__ == "__main__":
    {"disk": disk, "file_size": file_size}[sys.argv[1]](Path(sys.argv[2]))
    print("held")
