"""kill -9 of a writing process, two hundred times: acknowledged means durable."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from contextlib import aclosing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from k8slite.kit.clock import Clock
from k8slite.store.base import StoreEvent
from k8slite.store.sqlite import SqliteStore

KILLS = 200


class Report:
    """What a killed process had said: by writer, the last acknowledged value and what it tried."""

    def __init__(self, lines: list[str]) -> None:
        self.acknowledged: dict[int, tuple[str, int]] = {}
        self.tried: dict[int, str] = {}
        self.opened = 0
        for line in lines:
            word, *rest = line.split()
            if word == "open":
                self.opened = int(rest[0])
            elif word == "try":
                self.tried[int(rest[0])] = rest[1]
            else:
                self.acknowledged[int(rest[0])] = (rest[1], int(rest[2]))
                del self.tried[int(rest[0])]

    @property
    def newest(self) -> int:
        return max((revision for _, revision in self.acknowledged.values()), default=self.opened)


def write_and_kill(path: Path, seed: int) -> Report:
    """Start a writer, kill it at a random moment, return its report."""
    context = multiprocessing.get_context("forkserver")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(path, writing, seed))
    process.start()
    writing.close()
    with reading, os.fdopen(os.dup(reading.fileno()), "rb") as pipe:
        first = pipe.readline()
        assert first.startswith(b"open "), first
        # Some die at once, some in the middle of a few thousand writes.
        time.sleep(random.Random(seed).random() ** 2 * 0.15)
        process.kill()
        lines = first + pipe.read()
        process.join()
    whole = lines[: lines.rfind(b"\n")]
    return Report(whole.decode().splitlines())


def _write(path: Path, report: Connection, seed: int) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import killed_writer

    killed_writer.run(path, report.fileno(), seed)


@pytest.mark.slow
async def test_two_hundred_kills_lose_no_acknowledged_write(tmp_path: Path) -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(["k8slite.store.sqlite"])
    path = tmp_path / "store.db"
    before: dict[str, bytes] = {}
    acknowledged, revision = 0, 1
    for seed in range(KILLS):
        report = write_and_kill(path, seed)
        assert report.opened == revision
        async with SqliteStore(path, Clock()) as store:
            snapshot = await store.scan("")
            state = {item.key: item.value for item in snapshot.items}
            require_whole(state, before, report)
            assert snapshot.revision >= report.newest
            await require_history(store, snapshot.revision, state)
            assert all(item.mod_revision <= snapshot.revision for item in snapshot.items)
        before, revision = state, snapshot.revision
        acknowledged += len(report.acknowledged)
    assert acknowledged > KILLS


def require_whole(state: dict[str, bytes], before: dict[str, bytes], report: Report) -> None:
    """Every pair is equal, and is what was acknowledged last or was under way."""
    for number in range(12):
        one, other = (state.get(f"/{half}/{number}") for half in "ab")
        assert one == other, f"a transaction was torn: writer {number}"
        found = shown(one)
        if number in report.acknowledged:
            allowed = {report.acknowledged[number][0]}
        else:
            allowed = {shown(before.get(f"/a/{number}"))}
        if number in report.tried:
            allowed.add(report.tried[number])
        assert found in allowed, f"writer {number}"


def shown(value: bytes | None) -> str:
    return "-" if value is None else value.decode()[:20]


async def require_history(store: SqliteStore, revision: int, state: dict[str, bytes]) -> None:
    """What history there is leads to the present, two keys a revision, without a gap."""
    after = max((await store.stats()).compacted, 1)
    events: list[StoreEvent] = []
    async with aclosing(store.watch("", after)) as watch:
        while after + len(events) // 2 < revision:
            events += await anext(watch)
    assert [event.revision for event in events] == sorted([*range(after + 1, revision + 1)] * 2)
    newest = {event.key: event.value for event in events}
    assert {key: state.get(key) for key in newest} == newest
