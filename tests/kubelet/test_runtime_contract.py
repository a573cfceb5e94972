"""What the kubelet may rely on, whatever runs the containers: Docker and hollow alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kubelet.waiting import until
from tests.lab.docker_host import DockerHost

from k8slite.config import Settings
from k8slite.decide.pods.network import first_free
from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import ObservedPod, PodRef, Run
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import DockerRuntime
from k8slite.roles.kubelet.hollow import HollowRuntime
from k8slite.roles.kubelet.runtime import (
    LogOptions,
    PullFailure,
    Runtime,
    RuntimeFailure,
)

IMAGE = "busybox:1"


def pod_ref() -> PodRef:
    return PodRef("default", "web", Clock().uid())


@pytest.fixture(params=["docker", "docker-warm", "hollow"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    clock = Clock()
    made: Runtime
    if request.param == "hollow":
        made = HollowRuntime(clock)
    else:
        host: DockerHost = request.getfixturevalue("on_host")
        settings = Settings(
            node_name="n1",
            docker_host=host.url,
            data_dir=tmp_path,
            warm_sandboxes=1 if request.param == "docker-warm" else 0,
        )
        made = DockerRuntime(settings, clock)
    async with running(made):
        if request.param == "hollow":
            await made.pull(IMAGE, [])
        if request.param == "docker-warm":
            await until(lambda: bool(host.docker("ps", "-q", "-f", "label=io.k8slite.kind=warm")))
        yield made
        await made.uninstall()


class Alone:
    """The cluster of a node that has nobody to share the pod network with."""

    async def claim(self, have: str, taken: Iterable[str]) -> str:
        return have or first_free("172.16.0.0/16", taken)


class running:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._runtime.run(Alone()))
        async with asyncio.timeout(30):
            await self._runtime.wait_ready()

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


def sandbox(pod: PodRef, **fields: object) -> SandboxSpec:
    return replace(SandboxSpec(pod=pod, hash="0" * 8, hostname=pod.name), **fields)  # type: ignore[arg-type]


def container(pod: PodRef, sandbox: str, *command: str, **fields: object) -> ContainerSpec:
    spec = ContainerSpec(
        pod=pod,
        name="main",
        hash="1" * 8,
        image=IMAGE,
        sandbox=sandbox,
        hostname=pod.name,
        command=command or ("sleep", "1000"),
        grace=0,
    )
    return replace(spec, **fields)  # type: ignore[arg-type]


async def test_a_started_pod_is_seen_running_with_an_address(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    main = await runtime.start_container(container(ref, box.id))
    seen = runtime.pod(ref.uid)
    assert seen.ref == ref
    assert seen.sandbox is not None
    assert seen.sandbox.run is Run.RUNNING
    assert seen.sandbox.ip == box.ip != ""
    latest = seen.latest("main")
    assert latest is not None
    assert (latest.id, latest.run, latest.hash) == (main.id, Run.RUNNING, "1" * 8)
    assert latest.image == IMAGE
    assert latest.image_id
    assert latest.started_at > 0
    assert ref in list(runtime.pods())


async def test_every_change_is_told_with_the_pods_uid(runtime: Runtime) -> None:
    told: list[str] = []
    runtime.subscribe(told.append)
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    await runtime.start_container(container(ref, box.id))
    assert set(told) == {ref.uid}


async def test_a_stopped_container_is_seen_exited_and_kept(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    main = await runtime.start_container(container(ref, box.id, attempt=3, crashes=2))
    await runtime.stop(main.id, 0)

    def exited() -> bool:
        latest = runtime.pod(ref.uid).latest("main")
        return latest is not None and latest.run is Run.EXITED

    await until(exited)
    latest = runtime.pod(ref.uid).latest("main")
    assert latest is not None
    # Killed, it says 137; 2, when it had not even become the program that it was to run.
    assert latest.exit_code in (137, 2)
    assert latest.finished_at >= latest.started_at > 0
    assert (latest.attempt, latest.crashes) == (3, 2)


async def test_removing_leaves_nothing_and_may_be_repeated(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    main = await runtime.start_container(container(ref, box.id))
    for _ in range(2):
        await runtime.remove(main.id)
        await runtime.remove(box.id)
    assert runtime.pod(ref.uid).empty
    assert ref not in list(runtime.pods())
    await runtime.stop(main.id, 0)


async def test_the_newest_attempt_comes_first(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    first = await runtime.start_container(container(ref, box.id))
    await runtime.stop(first.id, 0)
    second = await runtime.start_container(container(ref, box.id, attempt=1))
    pod: ObservedPod = runtime.pod(ref.uid)
    latest, previous = pod.latest("main"), pod.previous("main")
    assert latest is not None
    assert previous is not None
    assert (latest.id, previous.id) == (second.id, first.id)


async def test_joining_a_sandbox_that_is_gone_fails(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    await runtime.remove(box.id)
    with pytest.raises(RuntimeFailure):
        await runtime.start_container(container(ref, box.id))


async def test_images_are_known_by_name(runtime: Runtime) -> None:
    image = await runtime.image(IMAGE)
    assert image is not None
    assert image.id in {each.id for each in await runtime.images()}
    assert await runtime.image("nowhere/none:9") is None


async def test_commands_run_in_the_container(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    main = await runtime.start_container(container(ref, box.id))
    assert (await runtime.exec(main.id, ["true"], 10)).code == 0


async def test_a_silent_container_has_no_logs(runtime: Runtime) -> None:
    ref = pod_ref()
    box = await runtime.start_sandbox(sandbox(ref))
    main = await runtime.start_container(container(ref, box.id))
    assert [piece async for piece in runtime.logs(main.id, LogOptions())] == []


async def test_uninstall_removes_all_of_ours(runtime: Runtime) -> None:
    ref = pod_ref()
    await runtime.start_sandbox(sandbox(ref))
    await runtime.uninstall()
    await until(lambda: runtime.pod(ref.uid).empty)


async def test_an_image_that_cannot_be_had_says_so(runtime: Runtime) -> None:
    name = "127.0.0.1:1/none:9"
    if isinstance(runtime, HollowRuntime):
        runtime.missing.add(name)
    with pytest.raises(PullFailure):
        await runtime.pull(name, [])
