"""Many askers share few questions, and nobody gets an answer older than his asking."""

from __future__ import annotations

import asyncio

import pytest

from k8slite.kit.flight import Shared
from k8slite.kit.virtual import run_virtual


class Oracle:
    """Answers with the time at which it was asked, a second later."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.wrong = False

    async def __call__(self) -> float:
        now = asyncio.get_running_loop().time()
        self.asked.append(now)
        await asyncio.sleep(1)
        if self.wrong:
            raise LookupError("no answer today")
        return now


def test_no_answer_is_older_than_its_asking_and_few_questions_serve_many() -> None:
    async def play() -> None:
        oracle = Oracle()
        shared = Shared(oracle, "oracle")

        async def asker(delay: float) -> None:
            await asyncio.sleep(delay)
            began = asyncio.get_running_loop().time()
            assert await shared.ask() >= began

        await asyncio.gather(*(asker(n * 0.01) for n in range(500)))
        assert len(oracle.asked) <= 7  # five seconds of askers, a second a question

    run_virtual(play())


def test_a_failure_is_told_to_those_who_asked_and_forgotten() -> None:
    async def play() -> None:
        oracle = Oracle()
        shared = Shared(oracle, "oracle")
        oracle.wrong = True
        found = await asyncio.gather(*(shared.ask() for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in found] == [LookupError] * 3
        oracle.wrong = False
        assert await shared.ask() == 1.0

    run_virtual(play())


def test_a_cancelled_asker_takes_nobody_along() -> None:
    async def play() -> None:
        shared = Shared(Oracle(), "oracle")
        impatient = asyncio.create_task(shared.ask())
        patient = asyncio.create_task(shared.ask())
        await asyncio.sleep(0.5)
        impatient.cancel()
        assert await patient == 0.0
        with pytest.raises(asyncio.CancelledError):
            await impatient

    run_virtual(play())


def test_closing_leaves_no_question_behind() -> None:
    async def play() -> None:
        shared = Shared(Oracle(), "oracle")
        askers = [asyncio.create_task(shared.ask())]
        await asyncio.sleep(0.5)
        askers.append(asyncio.create_task(shared.ask()))  # waits for the next question
        await asyncio.sleep(0)
        await shared.close()
        found = await asyncio.gather(*askers, return_exceptions=True)
        assert [type(answer) for answer in found] == [asyncio.CancelledError] * 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(play())
