"""The SQLite store in trouble: no room, a disk that fails, callers that go away."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from k8slite.kit.virtual import HandClock
from k8slite.store import sqlite_batch
from k8slite.store.base import (
    Create,
    LeaseGone,
    OutcomeUnknown,
    Put,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from k8slite.store.sqlite import SqliteStore

SCENARIOS = Path(__file__).with_name("full_disk.py")


@pytest.mark.lab
def test_a_full_disk_refuses_whole_writes_and_recovers_by_itself(tmp_path: Path) -> None:
    # A mount namespace of its own, so that the small disk goes away with the process.
    small_disk = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" "$3" disk "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", small_disk, "sh", tmp_path, sys.executable, SCENARIOS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr


def test_a_file_that_may_not_grow_refuses_whole_writes_and_recovers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCENARIOS, "file_size", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr


class FailingConnection(sqlite3.Connection):
    """A connection whose next COMMITs fail as a failing disk makes them fail."""

    failures: list[int] = []

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:  # type: ignore[override]
        if sql == "COMMIT" and self.failures:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.failures.pop(0)
            raise error
        return super().execute(sql, *parameters)  # type: ignore[arg-type]


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error codes that the writer's next COMMITs will fail with."""
    codes: list[int] = []

    def connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, factory=FailingConnection
        )
        connection.failures = codes
        return connection

    monkeypatch.setattr(sqlite_batch, "connect", connect)
    return codes


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        ([sqlite3.SQLITE_FULL], StoreUnavailable),
        ([sqlite3.SQLITE_IOERR_FSYNC], StoreUnavailable),  # the next commit made it certain
        ([sqlite3.SQLITE_IOERR_FSYNC] * 2, OutcomeUnknown),
        ([sqlite3.SQLITE_CORRUPT], StoreCorrupt),
    ],
)
async def test_an_outcome_is_unknown_only_when_nobody_can_know(
    tmp_path: Path, failures: list[int], codes: list[int], error: type[StoreError]
) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        before = await store.commit([Create("/a", b"1")])
        failures += codes
        outcomes = await asyncio.gather(
            *(store.commit([Create(f"/{number}", b"")]) for number in range(5)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [error] * 5
        assert len(set(map(id, outcomes))) == 5
        assert await store.revision() == before
        assert [item.key for item in (await store.scan("/")).items] == ["/a"]
        assert await store.commit([Create("/0", b"")]) == before + 1


async def test_a_lease_is_not_granted_or_revoked_by_halves(
    tmp_path: Path, failures: list[int]
) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        failures.append(sqlite3.SQLITE_FULL)
        with pytest.raises(StoreUnavailable):
            await store.grant(10)
        lease = await store.grant(10)
        failures.append(sqlite3.SQLITE_FULL)
        with pytest.raises(StoreUnavailable):
            await store.revoke(lease)
        await store.keep_alive(lease)
        await store.commit([Create("/a", b"", lease)])


async def test_a_lease_that_could_not_be_ended_is_ended_later(
    tmp_path: Path, failures: list[int]
) -> None:
    clock = HandClock()
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        lease = await store.grant(10)
        created = await store.commit([Create("/a", b"", lease)])
        failures += [sqlite3.SQLITE_FULL] * 3
        watch = store.watch("/", created)
        waiting = asyncio.create_task(anext(watch))
        async with asyncio.timeout(60):
            while not waiting.done():
                await clock.advance(10)
                await asyncio.sleep(0.001)  # the writer is a thread of real time
        (event,) = waiting.result()
        assert event.deleted
        assert not failures
        await watch.aclose()


async def test_a_cancelled_grant_or_revoke_leaves_a_lease_that_ends(tmp_path: Path) -> None:
    clock = HandClock()
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        lease = await store.grant(1000)
        created = await store.commit([Create("/a", b"", lease)])
        watch = store.watch("/", created)
        waiting = asyncio.create_task(anext(watch))
        for request in (store.grant(10), store.revoke(lease)):
            asking = asyncio.create_task(request)
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
        (event,) = await waiting
        assert event.deleted
        with pytest.raises(LeaseGone):
            await store.commit([Put("/a", b"", lease)])
        await clock.advance(10)
        await store.commit([Put("/last", b"")])
        await watch.aclose()
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        assert not store._writer.tip.leases


async def test_a_fault_of_the_writer_is_no_end_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteStore(tmp_path / "store.db", HandClock()) as store:
        with monkeypatch.context() as broken:
            broken.setattr(sqlite_batch, "evaluate", None)
            with pytest.raises(OutcomeUnknown, match="TypeError"):
                await store.commit([Put("/a", b"")])
        await store.commit([Create("/a", b"")])
