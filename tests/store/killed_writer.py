"""A process that writes until it is killed, saying what it tries and what was acknowledged.

Each key pair ``/a/N`` and ``/b/N`` is written by one task, always in one transaction with equal
values, so that a torn transaction shows.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from k8slite.kit.clock import Clock
from k8slite.store.base import Delete, Op, Put
from k8slite.store.sqlite import SqliteStore

WRITERS = 12


def run(path: Path, pipe: int, seed: int) -> None:
    """The body of the process; ``pipe`` is the writing end of its report."""
    asyncio.run(_write_for_ever(path, pipe, seed))


async def _write_for_ever(path: Path, pipe: int, seed: int) -> None:
    def say(*words: object) -> None:
        # One write of less than PIPE_BUF bytes is never torn.
        os.write(pipe, (" ".join(map(str, words)) + "\n").encode())

    async def writer(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        turn = 0
        while True:
            turn += 1
            there = await store.get(f"/a/{number}") is not None
            keys = (f"/a/{number}", f"/b/{number}")
            if there and rng.random() < 0.2:
                value = "-"
                ops: list[Op] = [Delete(key) for key in keys]
            else:
                value = f"{seed}.{turn}." + "x" * rng.choice([1, 300, 20_000])
                ops = [Put(key, value.encode()) for key in keys]
            say("try", number, value[:20])
            say("done", number, value[:20], await store.commit(ops))

    async def compactor() -> None:
        rng = random.Random(seed)
        while True:
            await asyncio.sleep(rng.random() * 0.02)
            await store.compact(max(0, await store.revision() - 20))

    async with SqliteStore(path, Clock(), keep_revisions=200) as store:
        say("open", await store.revision())
        await asyncio.gather(compactor(), *(writer(number) for number in range(WRITERS)))
