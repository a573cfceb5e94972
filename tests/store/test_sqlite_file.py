"""The SQLite file: what survives a restart, how large it gets, and when it is refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from k8slite.kit.virtual import HandClock
from k8slite.store.base import (
    Compacted,
    Create,
    Delete,
    LeaseGone,
    Put,
    StoreCorrupt,
    StoreUnavailable,
)
from k8slite.store.sqlite import SqliteStore
from k8slite.store.sqlite_file import FileLock


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


# -- restart ------------------------------------------------------------------------------------


async def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on demand" / "store.db"
    async with SqliteStore(path, HandClock()) as store:
        await store.commit([Create("/a", b"1"), Create("/b", b"2")])
        await store.commit([Delete("/a")])
        before = await store.scan("")
    async with SqliteStore(path, HandClock()) as store:
        assert await store.scan("") == before
        assert await store.commit([Create("/c", b"3")]) > before.revision


async def test_a_close_waits_for_the_writes_before_it(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        writes = [asyncio.create_task(store.commit([Create(f"/{n}", b"")])) for n in range(100)]
        await asyncio.sleep(0)
    revisions = await asyncio.gather(*writes)
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        assert [item.mod_revision for item in (await store.scan("/")).items] == [
            revision for _, revision in sorted(zip(map(str, range(100)), revisions, strict=True))
        ]


async def test_revisions_grow_across_restarts_even_when_all_is_deleted_and_compacted(
    tmp_path: Path,
) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        await store.commit([Create("/a", b"1")])
        last = await store.commit([Delete("/a")])
        await store.compact(last)
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        assert await store.revision() == last
        assert await store.commit([Create("/a", b"1")]) == last + 1


async def test_a_watch_resumes_across_a_restart(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        first = await store.commit([Create("/a", b"1")])
        second = await store.commit([Put("/a", b"2")])
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        async with aclosing(store.watch("/", first)) as watch:
            (event,) = await anext(watch)
        assert (event.revision, event.value, event.previous) == (second, b"2", b"1")


async def test_a_lease_has_its_whole_ttl_again_after_a_restart(tmp_path: Path) -> None:
    clock = HandClock()
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        lease = await store.grant(10)
        created = await store.commit([Create("/a", b"", lease)])
        await clock.advance(9)
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        await clock.advance(9)
        await store.keep_alive(lease)
        await clock.advance(9)
        assert await store.get("/a") is not None
        await clock.advance(1)
        async with aclosing(store.watch("/", created)) as watch:
            (event,) = await anext(watch)
        assert event.deleted
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        with pytest.raises(LeaseGone):
            await store.keep_alive(lease)


# -- size ---------------------------------------------------------------------------------------


async def test_a_hundred_thousand_updates_of_one_key_leave_a_small_file(tmp_path: Path) -> None:
    value = b"x" * 400
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        for _ in range(200):
            await asyncio.gather(*(store.commit([Put("/a", value)]) for _ in range(500)))
        stats = await store.stats()
        assert stats.revision - stats.compacted >= 10_000
        assert stats.revision - stats.compacted <= 12_000
        # 10,000 revisions of history are kept: 4 MB of values, and as much again for the log
        # that SQLite writes ahead.
        assert size_of(tmp_path) < 30_000_000
        with pytest.raises(Compacted):
            await anext(store.watch("/", 2))
    assert size_of(tmp_path) < 10_000_000


async def test_large_values_bound_the_history_too(tmp_path: Path) -> None:
    value = b"x" * 100_000
    async with SqliteStore(tmp_path / "store.db", HandClock(), keep_bytes=4 << 20) as store:
        for _ in range(10):
            await asyncio.gather(*(store.commit([Put("/a", value)]) for _ in range(20)))
    assert size_of(tmp_path) < 16 << 20


async def test_a_file_that_was_large_shrinks(tmp_path: Path) -> None:
    value = b"x" * 20_000
    async with SqliteStore(tmp_path / "store.db", HandClock(), keep_revisions=50) as store:
        await asyncio.gather(*(store.commit([Create(f"/{n}", value)]) for n in range(1000)))
        await asyncio.gather(*(store.commit([Delete(f"/{n}")]) for n in range(1000)))
        large = (await store.stats()).bytes
        for _ in range(20):
            await asyncio.gather(*(store.commit([Put("/a", b"")]) for _ in range(20)))
    assert large > 20_000_000
    assert size_of(tmp_path) < large // 2


async def test_an_idle_store_and_keep_alives_write_nothing(tmp_path: Path) -> None:
    clock = HandClock()

    def stamps() -> dict[str, tuple[int, int]]:
        return {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in tmp_path.iterdir()}

    async with SqliteStore(tmp_path / "store.db", clock) as store:
        lease = await store.grant(40)
        await store.commit([Put("/a", b"", lease)])
        await store.scan("/")  # the first reader after a write leaves its mark in shared memory
        before = stamps()
        for _ in range(100):
            await clock.advance(10)
            await store.keep_alive(lease)
        await store.scan("/")
        assert stamps() == before


# -- refusals -----------------------------------------------------------------------------------


async def test_a_second_opening_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path, HandClock()) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await SqliteStore(path, HandClock()).__aenter__()
        message = str(caught.value)
        assert f"{path} is in use by process {os.getpid()}" in message
        assert "\n" not in message
        await store.commit([Put("/a", b"")])


def test_a_process_that_died_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from k8slite.store.sqlite_file import FileLock\n"
        "lock = FileLock(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "store.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreUnavailable, match=f"in use by process {holder.pid}:"):
            FileLock(tmp_path / "store.db")
        holder.kill()
    FileLock(tmp_path / "store.db").release()


def _zero_header(path: Path) -> None:
    _overwrite(path, 0, bytes(100))


def _break_a_page(path: Path) -> None:
    _overwrite(path, 8192, b"\x5a" * 3 * 8192)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _make_text(path: Path) -> None:
    path.write_text("kind: Pod\n" * 1000)


def _make_foreign(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE songs (title)").connection.close()


def _lose_values(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM log WHERE key = '/7'")
    connection.commit()
    connection.close()


def _lose_the_file_but_not_its_log(path: Path) -> None:
    path.unlink()
    path.with_name("store.db-wal").write_bytes(b"x" * 5000)


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    "damage",
    [
        _zero_header,
        _break_a_page,
        _truncate,
        _empty,
        _make_text,
        _make_foreign,
        _lose_values,
        _lose_the_file_but_not_its_log,
    ],
    ids=lambda damage: damage.__name__.strip("_"),
)
async def test_a_damaged_file_is_refused_and_the_message_says_how_to_restore(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path, HandClock()) as store:
        await store.commit([Create(f"/{number}", b"x" * 500) for number in range(300)])
    damage(path)
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(StoreCorrupt) as caught:
        await SqliteStore(path, HandClock()).__aenter__()
    message = str(caught.value)
    assert str(path) in message
    assert "put back a copy" in message
    assert ".recover" in message
    assert "\n" not in message
    assert (path.read_bytes() if path.exists() else None) == left


async def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path, HandClock()):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreUnavailable, match="format 9"):
        await SqliteStore(path, HandClock()).__aenter__()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be made: Not a directory"):
        await SqliteStore(tmp_path / "file" / "sub" / "store.db", HandClock()).__aenter__()


async def test_a_crash_while_the_file_is_made_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "store.db.new").write_bytes(b"half made")
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        await store.commit([Put("/a", b"")])
    assert not (tmp_path / "store.db.new").exists()


async def test_secrets_are_for_the_owner_alone(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "data" / "store.db", HandClock()) as store:
        await store.commit([Put("/a", b"")])
        modes = {f.name: f.stat().st_mode & 0o077 for f in (tmp_path / "data").iterdir()}
    assert set(modes.values()) == {0}
