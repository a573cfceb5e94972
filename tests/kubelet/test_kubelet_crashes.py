"""A crash is an ordinary start: the kubelet may die between any two steps on the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.kubelet.cluster import Cluster, cluster

from k8slite.config import Settings
from k8slite.decide.pods.state import ObservedContainer, Run
from k8slite.kit.clock import LoopClock
from k8slite.kit.virtual import run_virtual
from k8slite.roles.kubelet.hollow import HollowRuntime

POD = """
kind: Pod
apiVersion: v1
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 5
  initContainers: [{name: first, image: 'app:1'}]
  containers: [{name: main, image: 'app:2'}, {name: side, image: 'app:2'}]
"""


class Engine(HollowRuntime):
    """Outlives kubelets; the one that passes gap ``fatal`` gets no further. Init containers end."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__(clock)
        self.gap = self._count
        self.passed, self.fatal = 0, -1
        self.reached = asyncio.Event()
        self.subscribe(self._finish_first)

    async def _count(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            self.reached.set()
            await asyncio.Event().wait()

    def _finish_first(self, uid: str) -> None:
        seen = self.pod(uid).latest("first") if uid else None
        if seen is not None and seen.run is Run.RUNNING:
            asyncio.get_running_loop().call_soon(self.end, seen.id)

    def alive(self) -> Iterator[ObservedContainer]:
        return (c for c in self._sight.all() if c.run is Run.RUNNING)


Story = Callable[[Cluster, Engine], Awaitable[None]]


def with_a_kubelet_that_dies(directory: Path, fatal: int, story: Story, after: Story) -> bool:
    """``story`` is told; the kubelet dies at gap ``fatal`` and a new one comes; ``after`` checks.

    False: the story has fewer gaps.
    """

    async def main() -> bool:
        settings = Settings(node_name="10.9.9.9", node_ip="10.9.9.9", data_dir=directory)
        clock = LoopClock()
        engine = Engine(clock)
        async with cluster(settings, lambda: engine, clock=clock) as lab:
            engine.fatal = fatal
            telling = asyncio.create_task(story(lab, engine))
            death = asyncio.create_task(engine.reached.wait())
            await asyncio.wait({telling, death}, return_when=asyncio.FIRST_COMPLETED)
            died = death.done()
            if died:
                await lab.stop_kubelet()
                await lab.start_kubelet()
            death.cancel()
            await telling
            await after(lab, engine)
            return died

    return run_virtual(main())


async def until_it_runs(lab: Cluster, engine: Engine) -> None:
    await lab.create(POD)
    await lab.until(lambda: lab.condition("web") == "True", 600)


async def runs_once(lab: Cluster, engine: Engine) -> None:
    assert sorted(c.name for c in engine.alive()) == ["POD", "main", "side"]
    boxes = {c.id for c in engine.alive() if c.name == "POD"}
    assert {c.sandbox for c in engine.alive() if c.name != "POD"} == boxes
    pod = lab.pod("web")
    assert pod is not None
    # What had been started was not started again.
    assert [s.restart_count for s in pod.status.container_statuses] == [0, 0]
    engine.fatal = -1
    await lab.delete("web", grace=None)
    await lab.until(lambda: not list(engine._sight.all()), 600)


def test_a_start_that_is_cut_off_anywhere_is_finished(tmp_path: Path) -> None:
    gaps = 1
    while with_a_kubelet_that_dies(tmp_path / str(gaps), gaps, until_it_runs, runs_once):
        gaps += 1
    assert gaps > 12  # sandbox, two images, three containers: each made and started


async def until_it_is_gone(lab: Cluster, engine: Engine) -> None:
    fatal, engine.fatal = engine.fatal, -1
    await until_it_runs(lab, engine)
    engine.fatal = engine.passed + fatal
    await lab.delete("web", grace=None)
    await lab.until(lambda: lab.pod("web") is None, 600)


async def nothing_is_left(lab: Cluster, engine: Engine) -> None:
    await lab.until(lambda: not list(engine._sight.all()), 600)


def test_an_end_that_is_cut_off_anywhere_is_finished(tmp_path: Path) -> None:
    gaps = 1
    while with_a_kubelet_that_dies(tmp_path / str(gaps), gaps, until_it_is_gone, nothing_is_left):
        gaps += 1
    assert gaps > 8  # two stopped, four removed


async def until_the_sandbox_is_back(lab: Cluster, engine: Engine) -> None:
    fatal, engine.fatal = engine.fatal, -1
    await until_it_runs(lab, engine)
    engine.fatal = engine.passed + fatal
    dead = next(c for c in engine.alive() if c.name == "POD")
    engine.end(dead.id, 137)
    await lab.until(
        lambda: (
            lab.condition("web") == "True"
            and {c.sandbox for c in engine.alive() if c.name != "POD"}
            == {c.id for c in engine.alive() if c.name == "POD"}
            != {dead.id}
            and sorted(c.name for c in engine.alive()) == ["POD", "main", "side"]
        ),
        600,
    )


async def nothing_more(lab: Cluster, engine: Engine) -> None:
    return None


def test_a_lost_sandbox_that_is_being_replaced_anywhere_comes_back(tmp_path: Path) -> None:
    gaps = 1
    while with_a_kubelet_that_dies(
        tmp_path / str(gaps), gaps, until_the_sandbox_is_back, nothing_more
    ):
        gaps += 1
    assert gaps > 8
