"""One master leads, the next follows when it dies, and a deposed one can write nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from control_plane import Plane, pod, simulate

from k8slite.api.errors import Unavailable
from k8slite.api.kinds import POD
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.election import TTL, Election, Fence
from k8slite.store.base import OutcomeUnknown, StoreUnavailable


class Cut:
    """A master's way to the store, which can be cut, or lose the answer of the next commit."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.cut = False
        self.lose_answer = False

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(*words: Any) -> Any:
            if self.cut:
                raise StoreUnavailable("the link is cut")
            return await getattr(self._store, verb)(*words)

        return call

    async def commit(self, ops: Sequence[Any]) -> int:
        if self.cut:
            raise StoreUnavailable("the link is cut")
        revision: int = await self._store.commit(ops)
        if self.lose_answer:
            self.lose_answer = False
            raise OutcomeUnknown("the answer was lost")
        return revision


class Master:
    """A candidate that notes when it led."""

    def __init__(self, plane: Plane, identity: str) -> None:
        self.identity = identity
        self.store = Cut(plane.store)
        self.election = Election(self.store, plane.cache, plane.clock, identity)  # type: ignore[arg-type]
        self.leading = False
        self.terms = 0
        self.fences: list[Fence] = []

    async def lead(self) -> None:
        self.leading = True
        self.terms += 1
        assert self.election.fence is not None
        self.fences.append(self.election.fence)
        try:
            await asyncio.Event().wait()
        finally:
            self.leading = False

    async def run(self) -> None:
        await self.election.run(self.lead)


def test_one_of_three_leads_and_an_idle_election_writes_nothing() -> None:
    async def play(plane: Plane) -> None:
        masters = [Master(plane, name) for name in "abc"]
        for master in masters:
            plane.start(master.run())
        await plane.until(lambda: any(master.leading for master in masters))
        await plane.quiet(TTL)
        for _ in range(50):
            assert await plane.quiet(TTL) == 0
            assert sum(master.leading for master in masters) == 1
        (leader,) = (master for master in masters if master.leading)
        assert {master.election.leader for master in masters} == {leader.identity}
        assert leader.terms == 1

    simulate(play)


def test_a_leader_that_dies_is_followed_within_its_ttl() -> None:
    async def play(plane: Plane) -> None:
        first, second = Master(plane, "first"), Master(plane, "second")
        plane.start(first.run())
        await plane.until(lambda: first.leading)
        plane.start(second.run())
        await plane.quiet(20)
        first.store.cut = True
        cut = plane.clock.monotonic()
        await plane.until(lambda: second.leading)
        assert plane.clock.monotonic() - cut <= TTL + 0.1
        assert not first.leading
        # It comes back as a follower.
        first.store.cut = False
        await plane.quiet(60)
        assert second.leading
        assert not first.leading

    simulate(play)


def test_a_leader_gives_up_before_the_next_one_may_begin() -> None:
    async def play(plane: Plane) -> None:
        first, second = Master(plane, "first"), Master(plane, "second")
        plane.start(first.run())
        await plane.until(lambda: first.leading)
        plane.start(second.run())
        first.store.cut = True
        while not second.leading:
            assert not (first.leading and second.leading)
            await plane.clock.sleep(0.01)
        assert not first.leading

    simulate(play)


def test_a_leader_told_to_stop_is_followed_at_once() -> None:
    async def play(plane: Plane) -> None:
        first, second = Master(plane, "first"), Master(plane, "second")
        task = plane.start(first.run())
        await plane.until(lambda: first.leading)
        plane.start(second.run())
        await plane.quiet(5)
        began = plane.clock.monotonic()
        await stop(task)
        await plane.until(lambda: second.leading)
        assert plane.clock.monotonic() - began < 0.5

    simulate(play)


def test_a_process_that_was_killed_leads_again_as_soon_as_it_is_back() -> None:
    async def play(plane: Plane) -> None:
        killed = Master(plane, "same")
        task = plane.start(killed.run())
        await plane.until(lambda: killed.leading)
        killed.store.cut = True  # nothing can be given back
        await stop(task)
        again = Master(plane, "same")
        began = plane.clock.monotonic()
        plane.start(again.run())
        await plane.until(lambda: again.leading)
        assert plane.clock.monotonic() - began < 0.5
        await plane.quiet(100)
        assert again.terms == 1

    simulate(play)


def test_a_claim_whose_answer_was_lost_is_no_deadlock() -> None:
    async def play(plane: Plane) -> None:
        master = Master(plane, "only")
        master.store.lose_answer = True
        plane.start(master.run())
        await plane.until(lambda: master.leading, 5)

    simulate(play)


def test_what_a_deposed_leader_still_sends_is_refused_by_the_store() -> None:
    async def play(plane: Plane) -> None:
        first, second = Master(plane, "first"), Master(plane, "second")
        task = plane.start(first.run())
        await plane.until(lambda: first.leading)
        stale = Fence(first.fences[0].key, first.fences[0].revision)  # it knows of no loss yet
        client = LocalClient(plane.registry.fenced(stale), plane.leases)
        await client.create(pod("while-it-leads"))
        await stop(task)
        plane.start(second.run())
        await plane.until(lambda: second.leading)
        with pytest.raises(Unavailable, match="another master leads"):
            await client.create(pod("too-late"))
        assert [found.metadata.name for found in plane.all(POD)] == ["while-it-leads"]
        with pytest.raises(Unavailable, match="does not lead any more"):
            first.fences[0].op()

    simulate(play)


def test_the_fault_of_a_leader_is_raised() -> None:
    async def play(plane: Plane) -> None:
        election = Election(plane.store, plane.cache, plane.clock, "one")

        async def broken() -> None:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:
            await election.run(broken)
        assert caught.value.subgroup(ZeroDivisionError)
        assert election.fence is None

    simulate(play)
