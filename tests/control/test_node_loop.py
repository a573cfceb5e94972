"""Nodes that fall silent: marked, their pods out of the endpoints, then evicted, with care."""

from __future__ import annotations

import pytest
from control_plane import Plane, controller, pod, simulate

from k8slite.api.kinds import NODE, POD
from k8slite.decide import nodehealth
from k8slite.kit.tasks import stop


def status_of(plane: Plane, name: str) -> str:
    node = plane.cache.table(NODE).get(name)
    assert node is not None
    ready = nodehealth.condition(node.object, "Ready")
    return ready.status if ready else "none"


def standing(plane: Plane, node: str) -> int:
    return sum(p.spec.node_name == node for p in plane.pods())


def test_a_silent_node_is_marked_and_its_pods_are_not_ready() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        for name in ("n1", "n2"):
            await plane.add_node(name)
        beats = plane.start(plane.beat("n1"))
        plane.start(plane.beat("n2"))
        await plane.run_pod(await plane.client.create(pod("p")), "10.0.0.1", "n1")
        await plane.quiet(300)
        assert status_of(plane, "n1") == "True"
        silent_since = plane.clock.monotonic()
        await stop(beats)
        await plane.until(lambda: status_of(plane, "n1") == "Unknown")
        waited = plane.clock.monotonic() - silent_since
        assert 30 < waited <= 41  # the grace, less the age of the last sign of life
        await plane.until(lambda: plane.pods()[0].status.conditions[0].status == "False")
        assert status_of(plane, "n2") == "True"
        await plane.until(lambda: plane.events("NodeNotReady"))

    simulate(play)


def test_a_new_master_gives_every_node_the_whole_grace() -> None:
    async def play(plane: Plane) -> None:
        await plane.add_node("n1")
        plane.start(plane.controllers().run())
        await plane.quiet(39)
        assert status_of(plane, "n1") == "True"
        await plane.quiet(2)
        assert status_of(plane, "n1") == "Unknown"
        assert await plane.quiet(1000) == 0

    simulate(play)


def test_pods_move_away_after_the_eviction_time_out() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        plane.start(plane.scheduler().run())
        for name in ("n1", "n2", "n3"):
            await plane.add_node(name)
        beats = plane.start(plane.beat("n1"))
        plane.start(plane.beat("n2", "n3"))
        await plane.client.create(controller(6))
        await plane.until(lambda: standing(plane, "n1") == 2)
        await stop(beats)
        await plane.until(lambda: status_of(plane, "n1") == "Unknown")
        await plane.quiet(290)
        assert standing(plane, "n1") == 2
        await plane.until(lambda: standing(plane, "n2") + standing(plane, "n3") == 6, 20)
        assert standing(plane, "n1") == 0
        await plane.until(lambda: len(plane.events("NodeControllerEviction")) == 2)

    simulate(play)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_no_jump_of_the_clock_moves_an_eviction(jump: float) -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        for name in ("n1", "n2"):
            await plane.add_node(name)
        plane.start(plane.beat("n2"))
        await plane.run_pod(await plane.client.create(pod("p")), "10.0.0.1", "n1")
        await plane.until(lambda: status_of(plane, "n1") == "Unknown")
        plane.clock.epoch += jump
        await plane.quiet(295)
        assert standing(plane, "n1") == 1
        await plane.until(lambda: standing(plane, "n1") == 0, 20)

    simulate(play)


def test_a_node_that_comes_back_in_time_keeps_its_pods() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        for name in ("n1", "n2"):
            await plane.add_node(name)
        plane.start(plane.beat("n2"))
        await plane.run_pod(await plane.client.create(pod("p")), "10.0.0.1", "n1")
        await plane.until(lambda: status_of(plane, "n1") == "Unknown")
        await plane.quiet(200)
        plane.start(plane.beat("n1"))
        await plane.report_node("n1", "True")
        await plane.quiet(1000)
        assert standing(plane, "n1") == 1
        assert status_of(plane, "n1") == "True"

    simulate(play)


def test_when_all_nodes_vanish_nobody_is_evicted() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        for number in range(3):
            await plane.add_node(f"n{number}")
            created = await plane.client.create(pod(f"p{number}"))
            await plane.run_pod(created, f"10.0.0.{number}", f"n{number}")
        await plane.quiet(3600)
        assert len(plane.pods()) == 3
        assert await plane.quiet(600) == 0  # and it writes nothing while it holds back

    simulate(play, event_ttl=86400.0)


def test_pods_of_a_node_that_was_deleted_are_removed() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        await plane.run_pod(await plane.client.create(pod("p")), "10.0.0.1", "n1")
        await plane.client.delete(NODE, "n1")
        await plane.quiet(30)
        assert len(plane.all(POD)) == 1
        await plane.until(lambda: not plane.all(POD), 60)

    simulate(play)
