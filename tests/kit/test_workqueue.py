"""The promises of the work queue, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.kit.backoff import Backoff
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import run_virtual
from k8slite.kit.workqueue import WorkQueue


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


async def worked(
    queue: WorkQueue[str], converge: Callable[[str], Awaitable[None]], seconds: float, workers: int
) -> None:
    task = asyncio.create_task(queue.work(converge, workers=workers))
    await asyncio.sleep(seconds)
    await stop(task)


@virtual
async def test_a_key_that_waits_is_kept_once() -> None:
    queue = WorkQueue[str]("q")
    for key in "abab":
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


@virtual
async def test_a_key_added_while_worked_on_comes_back_afterwards() -> None:
    queue = WorkQueue[str]("q")
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(1)
    assert not waiting.done()
    queue.done(key)
    assert await waiting == "a"
    queue.done("a")
    assert queue.idle


@virtual
async def test_failures_come_back_later_and_later_until_one_goes_well() -> None:
    queue = WorkQueue[str]("q", Backoff(initial=1, maximum=8))
    times: list[float] = []

    async def converge(key: str) -> None:
        times.append(now())
        if len(times) < 7:
            raise ValueError("not yet")

    queue.add("a")
    await worked(queue, converge, 100, workers=1)
    assert times == pytest.approx([0, 1, 3, 7, 15, 23, 31])
    assert queue.failures("a") == 0


@virtual
async def test_the_earliest_wish_wins() -> None:
    queue = WorkQueue[str]("q")
    times: list[float] = []

    async def converge(key: str) -> None:
        times.append(now())

    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    await worked(queue, converge, 100, workers=1)
    assert times == pytest.approx([5])


@virtual
async def test_work_that_never_waits_lets_others_have_their_turn() -> None:
    queue = WorkQueue[int]("q")
    for key in range(1000):
        queue.add(key)
    done: list[int] = []

    async def converge(key: int) -> None:
        done.append(key)

    working = asyncio.create_task(queue.work(converge))
    for _ in range(5):
        await asyncio.sleep(0)
    assert 0 < len(done) < 100
    await stop(working)


@virtual
async def test_a_queue_that_ends_leaves_no_timer() -> None:
    queue = WorkQueue[str]("q")

    async def converge(key: str) -> None:
        queue.add_after(key, 1000)

    queue.add("a")
    await worked(queue, converge, 1, workers=2)
    assert not queue._timers


@settings(max_examples=100, deadline=None)
@given(
    adds=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans())),
    workers=st.integers(1, 4),
)
def test_no_key_is_worked_on_twice_at_once_and_none_is_forgotten(
    adds: list[tuple[int, str, bool]], workers: int
) -> None:
    async def main() -> None:
        queue = WorkQueue[str]("q", Backoff(initial=0.5, maximum=2))
        level: dict[str, int] = {}
        seen: dict[str, int] = {}
        working: set[str] = set()
        failing = {key for _, key, fails in adds if fails}

        async def converge(key: str) -> None:
            assert key not in working
            working.add(key)
            read = level[key]
            await asyncio.sleep(1)
            working.discard(key)
            if key in failing:
                failing.discard(key)
                raise ValueError("once")
            seen[key] = read

        task = asyncio.create_task(queue.work(converge, workers=workers))
        for delay, key, _ in adds:
            await asyncio.sleep(delay / 2)
            level[key] = level.get(key, 0) + 1
            queue.add(key)
        await asyncio.sleep(100 + len(adds))
        assert seen == level
        assert queue.idle
        await stop(task)

    run_virtual(main())
