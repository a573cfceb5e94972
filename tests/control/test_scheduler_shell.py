"""The scheduler through the real API: pods get nodes, waits end when they can, nothing is bound
twice, and somebody is told why not."""

from __future__ import annotations

from pathlib import Path

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

from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.scheduling import PolicyError
from k8slite.kit.tasks import stop


def nodes_of(plane: Plane) -> dict[str, str]:
    return {p.metadata.name: p.spec.node_name for p in plane.all(POD)}


def all_bound(plane: Plane) -> bool:
    return all(nodes_of(plane).values())


def test_pods_are_spread_over_the_nodes_and_it_is_told() -> None:
    async def play(plane: Plane) -> None:
        for name in ("n1", "n2", "n3"):
            await plane.add_node(name)
        scheduler = plane.scheduler()
        plane.start(scheduler.run())
        for number in range(6):
            await plane.client.create(pod(f"p{number}", cpu="1"))
        await plane.until(lambda: all_bound(plane))
        assert sorted(nodes_of(plane).values()) == ["n1", "n1", "n2", "n2", "n3", "n3"]
        await plane.until(lambda: len(plane.events("Scheduled")) == 6)
        node = nodes_of(plane)["p0"]
        assert f"Successfully assigned default/p0 to {node}" in plane.events("Scheduled")
        assert scheduler.healthy()
        assert scheduler.idle

    simulate(play)


def test_a_pod_that_fits_nowhere_waits_and_is_told_why_once() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.scheduler().run())
        await plane.add_node("small")
        await plane.add_node("broken")
        await plane.report_node("broken", "False")
        await plane.client.create(pod("big", cpu="8"))
        await plane.until(lambda: plane.events("FailedScheduling"))
        assert plane.events("FailedScheduling") == [
            "0/2 nodes fit: 1 PodFitsResources (cpu), 1 not ready"
        ]
        assert await plane.quiet(900) == 0

    simulate(play)


def test_a_waiting_pod_is_placed_at_once_when_room_appears() -> None:
    """Not when its back-off of a minute ends."""

    async def play(plane: Plane) -> None:
        await plane.add_node("n1", cpu="1")
        plane.start(plane.scheduler().run())
        await plane.client.create(pod("first", cpu="1"))
        await plane.until(lambda: all_bound(plane))
        for number in range(3):
            await plane.client.create(pod(f"waiting-{number}", cpu="1"))
        await plane.quiet(600)
        await plane.client.delete(POD, "first", "default", grace_seconds=0)
        await plane.until(lambda: list(nodes_of(plane).values()).count("n1") == 1, 0.5)
        await plane.add_node("n2", cpu="2")  # and one after the other follows
        await plane.until(lambda: all_bound(plane), 0.5)

    simulate(play)


def test_a_node_that_becomes_ready_is_used() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.scheduler().run())
        await plane.add_node("n1")
        await plane.report_node("n1", "Unknown")
        await plane.client.create(pod("p"))
        await plane.quiet(300)
        assert not all_bound(plane)
        await plane.report_node("n1", "True")
        await plane.until(lambda: all_bound(plane), 0.5)

    simulate(play)


def test_every_scheduler_takes_its_own_pods() -> None:
    async def play(plane: Plane) -> None:
        await plane.add_node("n1")
        plane.start(plane.scheduler().run())
        await plane.client.create(pod("mine"))
        await plane.client.create(pod("theirs", scheduler_name="other"))
        await plane.until(lambda: nodes_of(plane)["mine"])
        await plane.quiet(60)
        assert not nodes_of(plane)["theirs"]
        plane.start(plane.scheduler(scheduler_name="other").run())
        await plane.until(lambda: nodes_of(plane)["theirs"])

    simulate(play)


def overfilled(plane: Plane) -> bool:
    """Is more than four cores asked of any node of four cores?"""
    taken: dict[str, int] = {}
    for found in plane.all(POD):
        name = found.spec.node_name
        taken[name] = taken.get(name, 0) + 1
    return any(count > 4 for name, count in taken.items() if name)


@pytest.mark.parametrize("seed", range(10))
def test_a_lagging_view_and_a_slow_network_overfill_no_node(seed: int) -> None:
    async def play(plane: Plane) -> None:
        for number in range(5):
            await plane.add_node(f"n{number}")
        lag = plane.clock.rng.random() * 5
        scheduler = plane.scheduler(
            client=Slow(plane.client, plane.clock, 0.5),
            informers=LaggingInformers(plane.informers, lambda kind: lag),
        )
        plane.start(scheduler.run())
        for number in range(22):
            await plane.client.create(pod(f"p{number}", cpu="1"))
            await plane.clock.sleep(plane.clock.rng.random() * 0.3)
        await plane.until(lambda: sum(map(bool, nodes_of(plane).values())) == 20)
        await plane.quiet(120)
        assert not overfilled(plane)
        assert sum(map(bool, nodes_of(plane).values())) == 20

    simulate(play, seed=seed)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_lost_answers_leave_no_pod_behind(every: int) -> None:
    async def play(plane: Plane) -> None:
        for number in range(2):
            await plane.add_node(f"n{number}")
        plane.start(plane.scheduler(client=LosingAnswers(plane.client, every)).run())
        for number in range(8):
            await plane.client.create(pod(f"p{number}", cpu="1"))
        await plane.until(lambda: all_bound(plane))
        assert not overfilled(plane)

    simulate(play)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_binding_the_next_one_finishes(after: bool) -> None:
    async def play(plane: Plane) -> None:
        for number in range(2):
            await plane.add_node(f"n{number}")
        for at in range(4):
            for number in range(8):
                await plane.client.create(pod(f"p{at}-{number}", cpu="1"))
            mortal = Killed(plane.client, at, after=after)
            task = plane.start(plane.scheduler(client=mortal).run())
            await plane.until(lambda dying=mortal: dying.dead)
            await stop(task)
            task = plane.start(plane.scheduler().run())
            await plane.until(lambda: all_bound(plane))
            assert not overfilled(plane)
            await stop(task)
            for found in plane.all(POD):
                await plane.client.delete(POD, found.metadata.name, "default", grace_seconds=0)

    simulate(play)


def test_two_schedulers_of_one_name_bind_every_pod_once() -> None:
    """Two masters by mistake: the second binding is a conflict, and both go on."""

    async def play(plane: Plane) -> None:
        await plane.add_node("n1", pods="50")
        bound: list[str] = []

        def on_pod(old: Pod | None, new: Pod | None) -> None:
            if new is not None and new.spec.node_name and not (old and old.spec.node_name):
                bound.append(new.key)

        plane.informers.of(POD).subscribe(on_pod)
        for _ in range(2):
            slow = Slow(plane.client, plane.clock, 0.1)
            lagging = LaggingInformers(plane.informers, lambda kind: 0.2)
            plane.start(plane.scheduler(client=slow, informers=lagging).run())
        for number in range(30):
            await plane.client.create(pod(f"p{number}"))
        await plane.until(lambda: all_bound(plane))
        await plane.quiet(120)
        assert sorted(bound) == sorted(set(bound))

    simulate(play)


def test_finished_pods_make_room_and_a_cordon_is_minded() -> None:
    async def play(plane: Plane) -> None:
        await plane.add_node("n1", cpu="1")
        plane.start(plane.scheduler().run())
        await plane.client.create(pod("job", cpu="1"))
        await plane.until(lambda: all_bound(plane))
        await plane.client.create(pod("next", cpu="1"))
        await plane.quiet(10)
        job = await plane.client.get(POD, "job", "default")
        status = msgspec.structs.replace(job.status, phase="Succeeded")
        await plane.client.update(msgspec.structs.replace(job, status=status), subresource="status")
        await plane.until(lambda: all_bound(plane), 0.5)
        node = await plane.client.get(NODE, "n1")
        spec = msgspec.structs.replace(node.spec, unschedulable=True)
        await plane.client.update(msgspec.structs.replace(node, spec=spec))
        await plane.client.create(pod("late"))
        why = "0/1 nodes fit: 1 unschedulable"
        await plane.until(lambda: why in plane.events("FailedScheduling"))

    simulate(play)


def test_replicas_without_a_service_spread_too() -> None:
    async def play(plane: Plane) -> None:
        for number in range(4):
            await plane.add_node(f"n{number}")
        plane.start(plane.controllers().run())
        plane.start(plane.scheduler().run())
        await plane.client.create(controller(8))
        await plane.until(lambda: len(plane.pods()) == 8 and all_bound(plane))
        assert sorted(nodes_of(plane).values()) == sorted([f"n{n}" for n in range(4)] * 2)

    simulate(play)


def test_a_policy_file_is_obeyed_and_a_wrong_one_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "policy.yaml"
    good.write_text(
        "kind: Policy\npredicates:\n- name: SSD\n  argument:\n"
        "    labelsPresence: {labels: [ssd], presence: true}\n"
    )
    bad = tmp_path / "bad.json"
    bad.write_text('{"predicates": [{"name": "Nope"}]}')

    async def play(plane: Plane) -> None:
        await plane.add_node("n1")
        plane.start(plane.scheduler(scheduler_policy=good).run())
        await plane.client.create(pod("p", labels=WEB))
        await plane.until(lambda: plane.events("FailedScheduling"))
        assert plane.events("FailedScheduling") == ["0/1 nodes fit: 1 SSD"]
        for path, complaint in ((bad, "unknown 'Nope'"), (tmp_path / "absent", "No such file")):
            with pytest.raises(PolicyError, match=complaint):
                plane.scheduler(scheduler_policy=path)

    simulate(play)
