"""Tasks and back-off."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.kit.backoff import Backoff
from k8slite.kit.tasks import TaskEnded, forever, stop


async def test_an_eternal_task_that_ends_says_so() -> None:
    async def short() -> None:
        return

    with pytest.raises(TaskEnded, match="task watcher ended by itself"):
        await forever("watcher", short())


async def test_stop_waits_for_the_end_of_a_task() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await stop(task)
    assert steps == ["cleaned up"]
    await stop(task)  # once more is no error


async def test_stop_raises_what_the_task_raised() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await stop(task)


async def test_who_stops_a_task_may_be_cancelled_himself() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(stop(task))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    release.set()
    await asyncio.wait({task})


@given(st.integers(0, 10_000))
def test_delays_grow_to_their_bound(failures: int) -> None:
    backoff = Backoff(initial=0.5, maximum=60)
    assert 0 <= backoff.delay(failures) <= backoff.delay(failures + 1) <= 60


def test_delays_begin_small() -> None:
    backoff = Backoff(initial=1, maximum=10, factor=3)
    assert [backoff.delay(failures) for failures in range(6)] == [0, 1, 3, 9, 10, 10]
