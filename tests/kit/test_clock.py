"""Clocks: the machine's, the loop's and the one that is turned by hand."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.kit.clock import SUFFIX_ALPHABET, Clock, LoopClock, parse_rfc3339, rfc3339
from k8slite.kit.virtual import HandClock, run_virtual


@given(st.integers(0, 4_102_444_800))
def test_times_survive_the_wire(seconds: int) -> None:
    text = rfc3339(seconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert parse_rfc3339(text) == seconds


def test_times_of_others_are_read() -> None:
    assert parse_rfc3339("2026-01-02T03:04:05.5Z") == parse_rfc3339("2026-01-02T03:04:05Z") + 0.5
    assert parse_rfc3339("2026-01-02T05:04:05+02:00") == parse_rfc3339("2026-01-02T03:04:05Z")
    assert parse_rfc3339("2026-01-02T03:04:05.123456789Z") == pytest.approx(
        parse_rfc3339("2026-01-02T03:04:05Z") + 0.123456, abs=1e-6
    )


@pytest.mark.parametrize("text", ["", "now", "2026-01-02", "2026-01-02T03:04:05", "2026-13-01T"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rfc3339(text)


def test_a_seed_makes_a_run_repeatable() -> None:
    one, same, other = LoopClock(seed=1), LoopClock(seed=1), LoopClock(seed=2)
    first = [one.uid(), one.suffix(), one.uid()]
    assert [same.uid(), same.suffix(), same.uid()] == first
    assert [other.uid(), other.suffix(), other.uid()] != first


def test_ids_are_of_the_right_shape() -> None:
    clock = Clock()
    assert uuid.UUID(clock.uid()).version == 4
    assert clock.uid() != clock.uid()
    assert set(clock.suffix(200)) <= set(SUFFIX_ALPHABET)
    assert len(clock.suffix()) == 5


def test_a_virtual_day_takes_no_time_and_keeps_its_order() -> None:
    async def main() -> tuple[list[int], float]:
        clock = LoopClock(epoch=0.0)
        order: list[int] = []

        async def at(hour: int) -> None:
            await clock.sleep(hour * 3600)
            order.append(hour)

        await asyncio.gather(*(at(hour) for hour in (24, 3, 12, 1)))
        return order, clock.now()

    order, now = run_virtual(main())
    assert order == [1, 3, 12, 24]
    assert now == pytest.approx(86400)


def test_virtual_time_that_could_never_end_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="no timer is set"):
        run_virtual(main())


def test_a_wait_ends_with_its_event_or_its_time() -> None:
    async def main() -> None:
        clock = LoopClock()
        event = asyncio.Event()
        assert not await clock.wait(event, 5)
        assert clock.monotonic() == pytest.approx(5)
        asyncio.get_running_loop().call_later(2, event.set)
        assert await clock.wait(event, 5)
        assert clock.monotonic() == pytest.approx(7)
        assert await clock.wait(event)

    run_virtual(main())


async def test_a_hand_clock_moves_by_hand_alone() -> None:
    clock = HandClock(epoch=100.0)
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append((name, clock.now()))

    sleepers = [
        asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("b", 20), ("a", 10))
    ]
    await clock.advance(9)
    assert seen == []
    await clock.advance(100)
    assert seen == [("a", 110.0), ("b", 120.0)]
    assert clock.now() == 209.0
    await asyncio.gather(*sleepers)


async def test_a_wait_on_a_hand_clock_ends_with_its_event_or_its_time() -> None:
    clock = HandClock()
    event = asyncio.Event()
    timed = asyncio.create_task(clock.wait(event, 10))
    patient = asyncio.create_task(clock.wait(event))
    await clock.advance(10)
    assert timed.done()
    assert not timed.result()
    assert not patient.done()
    soon = asyncio.create_task(clock.wait(event, 10))
    await asyncio.sleep(0)
    event.set()
    assert await soon
    assert await patient
