"""The replication controller through the real API: whatever happens to it, there are as many
replicas as were asked for in the end, and then silence."""

from __future__ import annotations

import msgspec
import pytest
from control_plane import (
    WEB,
    Killed,
    LaggingInformers,
    LosingAnswers,
    Plane,
    Slow,
    controller,
    pod,
    simulate,
)

from k8slite.api.kinds import POD, REPLICATION_CONTROLLER
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.meta import ObjectMeta
from k8slite.kit.tasks import stop


async def scale(plane: Plane, replicas: int) -> None:
    rc = await plane.client.get(REPLICATION_CONTROLLER, "web", "default")
    spec = msgspec.structs.replace(rc.spec, replicas=replicas)
    await plane.client.update(msgspec.structs.replace(rc, spec=spec))


def rc_of(plane: Plane) -> ReplicationController:
    found: ReplicationController = plane.all(REPLICATION_CONTROLLER)[0]
    return found


def test_replicas_come_go_and_are_counted() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(controller(3))
        await plane.until(lambda: len(plane.pods()) == 3 and rc_of(plane).status.replicas == 3)
        await scale(plane, 5)
        await plane.until(lambda: len(plane.pods()) == 5)
        await scale(plane, 1)
        await plane.until(lambda: len(plane.pods()) == 1 and rc_of(plane).status.replicas == 1)
        await plane.run_pod(plane.pods()[0], "10.0.0.1")
        await plane.until(lambda: rc_of(plane).status.ready_replicas == 1)
        assert rc_of(plane).status.observed_generation == rc_of(plane).metadata.generation
        await plane.quiet()
        assert await plane.quiet(600) == 0

    simulate(play)


def test_a_deleted_replica_and_a_failed_one_are_replaced() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(controller(2))
        await plane.until(lambda: len(plane.pods()) == 2)
        gone, failed = (p.metadata.name for p in plane.pods())
        await plane.client.delete(POD, gone, "default")
        there = await plane.client.get(POD, failed, "default")
        status = msgspec.structs.replace(there.status, phase="Failed")
        await plane.client.update(
            msgspec.structs.replace(there, status=status), subresource="status"
        )
        await plane.until(lambda: len(plane.pods()) == 2)
        assert not {gone, failed} & {p.metadata.name for p in plane.pods()}

    simulate(play)


def test_orphans_are_adopted_and_the_controllers_end_takes_the_pods_along() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(pod("orphan", labels=WEB))
        await plane.client.create(controller(2))
        await plane.until(lambda: len(plane.pods()) == 2)
        await plane.quiet()
        orphan = next(p for p in plane.pods() if p.metadata.name == "orphan")
        assert orphan.metadata.owner_references[0].uid == rc_of(plane).metadata.uid
        await plane.client.delete(
            REPLICATION_CONTROLLER, "web", "default", propagation="Background"
        )
        await plane.until(lambda: not plane.all(POD))

    simulate(play)


def test_a_quota_that_refuses_is_reported_not_hammered() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(
            ResourceQuota(
                metadata=ObjectMeta(name="q", namespace="default"),
                spec=ResourceQuotaSpec(hard={"pods": "2"}),
            )
        )
        await plane.quiet(1)
        await plane.client.create(controller(100))
        await plane.until(lambda: len(plane.pods()) == 2 and plane.events("FailedCreate"))
        await plane.quiet(5)
        assert await plane.quiet(600) < 60

    simulate(play)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_next_one_finishes(after: bool) -> None:
    """Up to seven from three: killed at each write there is, once before and once after it."""

    async def play(plane: Plane) -> None:
        await plane.client.create(controller(3))
        first = plane.start(plane.controllers().run())
        await plane.until(lambda: len(plane.pods()) == 3)
        await plane.quiet()
        await stop(first)
        killed_at = 0
        for replicas in (7, 2, 6, 0, 5):
            at, finished = 0, False
            while not finished:
                await scale(plane, replicas)
                mortal = Killed(plane.client, at, after=after)
                task = plane.start(plane.controllers(client=mortal).run())
                await plane.quiet(5)
                finished = not mortal.dead
                await stop(task)
                killed_at += mortal.dead
                healer = plane.start(plane.controllers().run())
                await plane.until(lambda wanted=replicas: len(plane.pods()) == wanted)
                await plane.quiet(5)
                assert len(plane.pods()) == replicas
                assert rc_of(plane).status.replicas == replicas
                assert await plane.quiet() == 0
                if not finished:  # back to where this scaling began
                    await scale(plane, 3)
                    await plane.until(lambda: len(plane.pods()) == 3)
                    await plane.quiet(5)
                await stop(healer)
                at += 1
        assert killed_at > 15

    simulate(play)


@pytest.mark.parametrize("seed", range(20))
def test_a_lagging_informer_makes_nobody_create_or_delete_too_many(seed: int) -> None:
    async def play(plane: Plane) -> None:
        made: set[str] = set()

        def on_pod(old: Pod | None, new: Pod | None) -> None:
            if old is None and new is not None:
                made.add(new.metadata.uid)

        rng = plane.clock.rng
        lags = {"Pod": rng.random() * 5, "ReplicationController": rng.random()}
        lagging = LaggingInformers(plane.informers, lambda kind: lags.get(kind, 0.0))
        plane.informers.of(POD).subscribe(on_pod)
        slow = Slow(plane.client, plane.clock, 0.5)
        plane.start(plane.controllers(client=slow, informers=lagging).run())
        await plane.client.create(controller(20))
        await plane.until(lambda: len(plane.pods()) == 20)
        await plane.quiet(60)
        assert (len(plane.pods()), len(made)) == (20, 20)
        await scale(plane, 8)
        await plane.quiet(60)
        assert (len(plane.pods()), len(made)) == (8, 20)
        assert await plane.quiet(600) == 0

    simulate(play, seed=seed)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_lost_answers_make_no_pod_twice(every: int) -> None:
    async def play(plane: Plane) -> None:
        most = 0

        def on_pod(old: object, new: object) -> None:
            nonlocal most
            most = max(most, len(plane.pods()))

        plane.informers.of(POD).subscribe(on_pod)
        task = plane.start(plane.controllers(client=LosingAnswers(plane.client, every)).run())
        await plane.client.create(controller(10))
        await plane.until(lambda: len(plane.pods()) == 10)
        await plane.quiet(60)
        assert (len(plane.pods()), most) == (10, 10)
        await stop(task)

    simulate(play)


def test_a_pod_that_came_and_went_unseen_is_not_waited_for_for_ever() -> None:
    """The creation's event and the deletion's arrive after a long silence, as one."""

    async def play(plane: Plane) -> None:
        lagging = LaggingInformers(plane.informers, lambda kind: 60.0 if kind == "Pod" else 0.0)
        plane.start(plane.controllers(informers=lagging).run())
        await plane.client.create(controller(2))
        await plane.until(lambda: len(plane.pods()) == 2)
        await plane.client.delete(POD, plane.pods()[0].metadata.name, "default")
        await plane.until(lambda: len(plane.pods()) == 2, 400)
        await plane.quiet(400)
        assert len(plane.pods()) == 2

    simulate(play)
