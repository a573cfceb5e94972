"""Handlers of descriptors beside everything else in the loop."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time

import pytest
from tests.proxy.world import until

from k8slite.kit.loop import run_shared
from k8slite.roles.proxy.reactor import READS, Reactor


async def word(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 100)


def test_a_handler_takes_its_events_and_asyncio_the_others() -> None:
    async def main() -> None:
        ours, far = socket.socketpair()
        theirs, away = socket.socketpair()
        with ours, far, theirs, away:
            for sock in (ours, theirs):
                sock.setblocking(False)
            events: list[int] = []
            reactor = Reactor()
            reactor.add(ours.fileno(), events.append, READS)
            heard = asyncio.create_task(word(theirs))
            await asyncio.sleep(0)
            far.send(b"for us")
            away.send(b"for them")
            assert await heard == b"for them"
            assert events == [select.EPOLLIN]  # once, although nobody read
            reactor.shut()
            far.send(b"for nobody")
            away.send(b"more")
            assert await word(theirs) == b"more"
            assert events == [select.EPOLLIN]

    run_shared(main())


def test_long_work_takes_turns_with_everything_else() -> None:
    async def main() -> None:
        reactor = Reactor()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            reactor.again(turn)

        reactor.again(turn)
        for _ in range(10):
            await asyncio.sleep(0)
        assert turns >= 5
        reactor.shut()
        before = turns
        await asyncio.sleep(0)
        assert turns == before

    run_shared(main())


def test_a_number_that_is_used_anew_hears_nothing_of_the_connection_before() -> None:
    async def main() -> None:
        reactor = Reactor()
        heard: list[int] = []
        near, far = socket.socketpair()
        number = near.fileno()
        reactor.add(number, heard.append, READS)
        copy = os.dup(number)  # as a process that is being started holds one
        reactor.remove(number)
        near.close()
        fresh, other = socket.socketpair()
        assert number in (fresh.fileno(), other.fileno())
        reactor.add(number, heard.append, READS)
        far.close()  # the end of the old connection
        for _ in range(3):
            await asyncio.sleep(0)
        (other if number == fresh.fileno() else fresh).send(b"x")
        await until(lambda: heard)
        assert heard == [select.EPOLLIN]
        reactor.remove(number)
        os.close(copy)
        fresh.close()
        other.close()
        reactor.shut()

    run_shared(main())


def test_what_a_handler_closes_stays_open_until_the_batch_is_over() -> None:
    async def main() -> None:
        reactor = Reactor()
        pairs = [socket.socketpair() for _ in range(2)]
        open_then: list[int] = []

        def close_both(event: int) -> None:
            for near, _ in pairs:
                reactor.remove(near.fileno())
                reactor.close(near)
                open_then.append(near.fileno())

        for near, far in pairs:
            reactor.add(near.fileno(), close_both, READS)
            far.send(b"x")
        await until(lambda: open_then)
        assert len(open_then) == 2  # the second handler was not called any more
        assert -1 not in open_then
        assert [near.fileno() for near, _ in pairs] == [-1, -1]
        for _, far in pairs:
            far.close()
        reactor.shut()

    run_shared(main())


def test_trouble_of_one_handler_is_reported_and_the_others_go_on() -> None:
    async def main() -> None:
        reactor = Reactor()
        trouble: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: trouble.append(said))
        pairs = [socket.socketpair() for _ in range(3)]

        def fail(event: int) -> None:
            raise ValueError("no")

        for near, far in pairs:
            reactor.add(near.fileno(), fail, READS)
            far.send(b"x")
        await until(lambda: len(trouble) == 3)
        for near, far in pairs:
            reactor.remove(near.fileno())
            near.close()
            far.close()
        reactor.shut()
        assert [str(said["exception"]) for said in trouble] == ["no"] * 3

    run_shared(main())


def test_a_loop_that_cannot_be_shared_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="run_shared"):
            Reactor()

    asyncio.run(main())


def test_expensive_events_come_in_small_batches_between_everything_else() -> None:
    async def main() -> None:
        reactor = Reactor()
        pairs = [socket.socketpair() for _ in range(200)]
        since = 0  # events since everything else last had its turn
        most = handled = 0

        def think(event: int) -> None:
            nonlocal since, most, handled
            end = time.perf_counter() + 0.0005
            while time.perf_counter() < end:
                pass
            since += 1
            handled += 1
            most = max(most, since)

        for near, far in pairs:
            reactor.add(near.fileno(), think, READS)
            far.send(b"x")
        while handled < len(pairs):
            since = 0
            await asyncio.sleep(0)
        assert most < 20
        reactor.shut()
        for pair in pairs:
            for sock in pair:
                sock.close()

    run_shared(main())


def test_long_turns_are_few_between_everything_else() -> None:
    async def main() -> None:
        reactor = Reactor()
        since = most = 0

        def think() -> None:
            nonlocal since, most
            end = time.perf_counter() + 0.003
            while time.perf_counter() < end:
                pass
            since += 1
            most = max(most, since)
            reactor.again(think)

        for _ in range(50):
            reactor.again(think)
        for _ in range(20):
            since = 0
            await asyncio.sleep(0)
        assert most == 1
        reactor.shut()

    run_shared(main())


def test_two_reactors_may_end_in_any_order() -> None:
    async def main() -> None:
        first, second = Reactor(), Reactor()
        near, far = socket.socketpair()
        with near, far:
            events: list[int] = []
            second.add(near.fileno(), events.append, READS)
            first.shut()
            far.send(b"x")
            await until(lambda: events)
            second.shut()

    run_shared(main())
