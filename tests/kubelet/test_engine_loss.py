"""An engine that goes away, and what it cannot remove afterwards, on real Docker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.kubelet.cluster import Cluster, cluster
from tests.kubelet.conftest import ADDRESS
from tests.lab.docker_host import DockerHost

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import DockerRuntime
from k8slite.roles.kubelet.docker.pause import IMAGE

pytestmark = pytest.mark.docker

POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: 'busybox:1', command: [sleep, '1000']}}]
"""


@pytest.fixture(params=[0, 1], ids=["cold", "warm"])
async def lab(
    request: pytest.FixtureRequest, on_host: DockerHost, tmp_path: Path
) -> AsyncIterator[Cluster]:
    settings = Settings(
        node_name=ADDRESS,
        node_ip=ADDRESS,
        docker_host=on_host.url,
        data_dir=tmp_path,
        warm_sandboxes=request.param,
    )
    async with cluster(settings, lambda: DockerRuntime(settings, Clock())) as made:
        yield made


def every_id(host: DockerHost) -> set[str]:
    return set(host.docker("ps", "-aq", "--no-trunc", "--filter", "name=k8s_").split())


@contextlib.contextmanager
def unremovable(host: DockerHost, id: str) -> Iterator[None]:
    """Docker cannot delete the container's files while this holds."""
    layer = json.loads(host.docker("inspect", id))[0]["GraphDriver"]["Data"]["UpperDir"]
    subprocess.run(["chattr", "+i", layer], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", layer], check=True)


async def test_nothing_is_started_on_an_engine_that_shuts_down(
    lab: Cluster, on_host: DockerHost
) -> None:
    names = [f"p{number}" for number in range(4)]
    for name in names:
        await lab.create(POD.format(name=name))
    before = {name: (await lab.running(name)).status.container_statuses for name in names}
    # The stock of warm sandboxes is filled again: nothing is under way.
    await lab.until(lambda: not lab.runtime._warm._missing.is_set())
    ids = every_id(on_host)
    await asyncio.to_thread(on_host.stop)
    await lab.until(lambda: lab.node_condition("Ready") == "False")
    assert {n: lab.container(n).container_id for n in names} == {
        n: before[n][0].container_id for n in names
    }
    await asyncio.to_thread(on_host.start)
    for name in names:
        await lab.until(
            lambda name=name: (
                lab.container(name).restart_count == 1 and lab.condition(name) == "True"
            )
        )
    rows = json.loads(on_host.docker("inspect", *every_id(on_host)))
    # What is neither from before nor runs was created while the engine went down.
    assert [r["Name"] for r in rows if r["Id"] not in ids and not r["State"]["Running"]] == []


@pytest.mark.parametrize("lab", [0], ids=["cold"], indirect=True)
async def test_a_dead_sandbox_that_cannot_be_removed_keeps_no_pod_waiting(
    lab: Cluster, on_host: DockerHost
) -> None:
    await lab.create(POD.format(name="web"))
    uid = (await lab.running("web")).metadata.uid
    dead = lab.runtime.pod(uid).sandbox.id
    with unremovable(on_host, dead):
        on_host.docker("kill", dead)
        await lab.until(lambda: lab.container("web").restart_count == 1)
        await lab.running("web")
        assert lab.runtime.pod(uid).sandbox.id != dead
        collector = lab.kubelet._garbage
        await collector.containers()
        assert dead not in {box.id for box in lab.runtime.pod(uid).sandboxes}
        assert dead in await lab.runtime.sweep()
        # An agent that starts now leaves it alone, and the pod goes when it is told to.
        await lab.stop_kubelet()
        await lab.start_kubelet()
        await lab.running("web")
        await lab.delete("web")
        await lab.gone("web")
        await lab.until(lambda: every_id(on_host) == {dead})
    await lab.kubelet._garbage.containers()
    assert every_id(on_host) == set()


@pytest.mark.parametrize("lab", [0], ids=["cold"], indirect=True)
async def test_a_pause_image_that_somebody_removed_is_made_anew(
    lab: Cluster, on_host: DockerHost
) -> None:
    on_host.docker("rmi", "-f", IMAGE)
    await lab.create(POD.format(name="web"))
    await lab.running("web")
    assert on_host.docker("images", "-q", IMAGE).strip()
