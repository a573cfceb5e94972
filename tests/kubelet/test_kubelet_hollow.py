"""The same kubelet on a hollow engine and virtual time: hours in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.kubelet.cluster import Cluster, cluster

from k8slite.api.errors import Unavailable
from k8slite.config import Settings
from k8slite.decide.pods import state
from k8slite.kit.clock import Clock, LoopClock
from k8slite.kit.virtual import run_virtual
from k8slite.roles.kubelet.hollow import HollowRuntime

POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: '{image}', imagePullPolicy: IfNotPresent {more}}}]
"""


def pod(name: str, image: str = "app:1", more: str = "") -> str:
    return POD.format(name=name, image=image, more=more)


@pytest.fixture
def on_hollow(tmp_path: Path) -> Callable[[Callable[[Cluster], Awaitable[None]]], None]:
    def run(promise: Callable[[Cluster], Awaitable[None]]) -> None:
        async def main() -> None:
            settings = Settings(node_name="10.9.9.9", node_ip="10.9.9.9", data_dir=tmp_path)
            clock = LoopClock()
            async with cluster(settings, lambda: HollowRuntime(clock), clock=clock) as lab:
                await promise(lab)

        run_virtual(main())

    return run


Run = Callable[[Callable[[Cluster], Awaitable[None]]], None]


def test_a_hundred_pods_run_each_with_an_address_of_its_own(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        for number in range(100):
            await lab.create(pod(f"p{number}"))
        addresses = {(await lab.running(f"p{number}")).status.pod_ip for number in range(100)}
        assert len(addresses) == 100
        for number in range(100):
            await lab.delete(f"p{number}")
        for number in range(100):
            await lab.gone(f"p{number}")

    on_hollow(promise)


@pytest.mark.parametrize("grace", [1.0, 8.0, 40.0])
def test_a_node_that_lives_is_never_taken_for_dead_however_short_the_grace(
    tmp_path: Path, grace: float
) -> None:
    async def main() -> None:
        settings = Settings(
            node_name="10.9.9.9", node_ip="10.9.9.9", data_dir=tmp_path, node_grace=grace
        )
        clock = LoopClock()
        async with cluster(settings, lambda: HollowRuntime(clock), clock=clock) as lab:
            news: list[bytes | None] = []
            lab.cache.watch_prefix("/registry/leases/nodes/", lambda e: news.append(e.value))
            await asyncio.sleep(600)
            assert None not in news, "its lease ended"

    run_virtual(main())


def test_a_container_that_dies_at_once_is_started_ever_more_rarely(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("crash"))
        seen = await lab.running("crash")
        began = lab.clock.now()
        starts: list[float] = []

        def on_change(uid: str) -> None:
            latest = lab.runtime.pod(uid).latest("main") if uid else None
            if latest is not None and latest.run.value == "running":
                starts.append(latest.started_at - began)
                asyncio.get_running_loop().call_soon(lab.runtime.end, latest.id, 1)

        lab.runtime.subscribe(on_change)
        lab.runtime.end(lab.runtime.pod(seen.metadata.uid).latest("main").id, 1)
        await asyncio.sleep(1300)
        assert [round(start) for start in starts] == [0, 10, 30, 70, 150, 310, 610, 910, 1210]
        assert lab.container("crash").restart_count == 9
        assert lab.waiting("crash") == "CrashLoopBackOff"
        assert lab.phase("crash") == "Running"

    on_hollow(promise)


def test_a_pull_that_fails_is_tried_ever_more_rarely_until_it_works(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        lab.runtime.missing.add("far:1")
        await lab.create(pod("far", "far:1"))
        await lab.until(lambda: lab.waiting("far") == "ImagePullBackOff")
        await asyncio.sleep(3600)
        tries = [text for text in lab.events("Failed") if "far:1" in text]
        assert tries
        lab.runtime.missing.clear()
        await lab.until(lambda: lab.phase("far") == "Running", 310)

    on_hollow(promise)


def test_an_engine_that_is_away_is_waited_for(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("before"))
        before = await lab.running("before")
        lab.runtime.go("gone fishing")
        await lab.until(lambda: lab.node_condition("Ready") == "False")
        await lab.create(pod("meanwhile"))
        await asyncio.sleep(600)
        assert lab.phase("meanwhile") in ("", "Pending")
        lab.runtime.come_back()
        await lab.until(lambda: lab.node_condition("Ready") == "True")
        await lab.running("meanwhile")
        assert (await lab.running("before")).status == before.status

    on_hollow(promise)


def test_a_quiet_node_writes_once_in_five_minutes(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("idle"))
        await lab.running("idle")
        await asyncio.sleep(400)
        writes: list[str] = []
        from k8slite.api.kinds import NODE
        from k8slite.api.kinds import POD as PODS

        for kind in (NODE, PODS):
            lab.cache.table(kind).subscribe(lambda change: writes.append(change.entry.key))
        await asyncio.sleep(3000)
        assert 8 <= len(writes) <= 10

    on_hollow(promise)


def test_a_pod_that_lost_its_sandbox_is_not_ready_until_it_has_another(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("web"))
        uid = (await lab.running("web")).metadata.uid
        go_on = asyncio.Event()
        lab.runtime.gap = go_on.wait  # the engine is slow
        lab.runtime.end(lab.runtime.pod(uid).latest("main").id, 137)
        lab.runtime.end(lab.runtime.pod(uid).sandbox.id, 137)
        await lab.until(lambda: lab.condition("web") == "False")
        go_on.set()
        await lab.running("web")

    on_hollow(promise)


def test_containers_that_cannot_be_removed_are_gone_for_their_pod(on_hollow: Run) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("web"))
        uid = (await lab.running("web")).metadata.uid
        box, main = lab.runtime.pod(uid).sandbox, lab.runtime.pod(uid).latest("main")
        lab.runtime.unremovable |= {box.id, main.id}
        lab.runtime.end(box.id, 137)
        await lab.until(lambda: lab.container("web").restart_count == 1)
        await lab.running("web")
        await asyncio.sleep(120)  # the garbage collector has been by
        assert [each.id for each in lab.runtime.pod(uid).sandboxes] != [box.id]
        assert set(await lab.runtime.sweep()) == {box.id}
        await lab.delete("web")
        await lab.gone("web")
        lab.runtime.unremovable.clear()
        await asyncio.sleep(120)
        assert await lab.runtime.sweep() == {}

    on_hollow(promise)


@pytest.mark.parametrize("grace", [3.0, 8.0, 40.0])
def test_signs_of_life_come_as_often_as_the_masters_want_them(tmp_path: Path, grace: float) -> None:
    """However short the grace is, the node's lease never ends while the kubelet lives."""

    async def main() -> None:
        settings = Settings(
            node_name="10.9.9.9", node_ip="10.9.9.9", data_dir=tmp_path, node_grace=grace
        )
        clock = LoopClock()
        async with cluster(settings, lambda: HollowRuntime(clock), clock=clock) as lab:
            lost: list[str] = []
            lab.cache.watch_prefix(
                "/registry/leases/nodes/", lambda event: lost.append("x" * event.deleted)
            )
            await clock.sleep(600)
            assert set(lost) == {""}

    run_virtual(main())


def away(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """No master answers any more."""

    async def silence(*said: object, **more: object) -> None:
        raise Unavailable("nobody there")

    for verb in ("get", "create", "update", "patch", "delete", "heartbeat"):
        monkeypatch.setattr(lab.client, verb, silence)


def test_a_pod_gets_another_sandbox_though_no_master_answers(
    on_hollow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def promise(lab: Cluster) -> None:
        await lab.create(pod("p"))
        uid = (await lab.running("p")).metadata.uid
        with monkeypatch.context() as patched:
            away(lab, patched)
            before = lab.runtime.pod(uid).sandbox.id
            lab.runtime.end(before)
            await lab.until(lambda: lab.runtime.pod(uid).sandbox.id != before)
            await lab.until(lambda: lab.runtime.pod(uid).latest("main").run is state.Run.RUNNING)
            await asyncio.sleep(120)
        await lab.until(lambda: lab.container("p").restart_count == 1)
        await lab.running("p")

    on_hollow(promise)


async def test_a_static_pod_runs_though_no_master_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(node_name="10.9.9.9", node_ip="10.9.9.9", data_dir=tmp_path)
    async with cluster(settings, lambda: HollowRuntime(Clock())) as lab:
        with monkeypatch.context() as patched:
            away(lab, patched)
            (tmp_path / "manifests").mkdir()
            (tmp_path / "manifests" / "p.yaml").write_text(pod("fixed"))
            await lab.until(lambda: list(lab.runtime.pods()))
            (ref,) = lab.runtime.pods()
            await lab.until(lambda: lab.runtime.pod(ref.uid).latest("main") is not None)
        await lab.running("fixed-10.9.9.9")
