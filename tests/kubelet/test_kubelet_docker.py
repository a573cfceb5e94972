"""Pods on a real engine, from the API object to the process and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kubelet.cluster import Cluster, cluster
from tests.kubelet.conftest import ADDRESS
from tests.lab.docker_host import DockerHost

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import DockerRuntime

pytestmark = pytest.mark.docker


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
        if request.param:
            await made.until(lambda: on_host.docker("ps", "-q", "-f", "label=io.k8slite.kind=warm"))
        yield made


POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1
    command: {command}
"""


def pod(name: str = "web", command: str = "[sleep, '1000']") -> str:
    return POD.format(name=name, command=command)


async def test_a_pod_runs_and_goes(lab: Cluster, on_host: DockerHost) -> None:
    await lab.create(pod())
    seen = await lab.running("web")
    assert seen.status.pod_ip.startswith("172.16.0.")
    assert seen.status.host_ip == ADDRESS
    assert seen.status.start_time
    status = lab.container("web")
    assert status.container_id.startswith("docker://")
    assert status.image_id.startswith("docker://sha256:")
    assert status.state.running is not None
    assert status.restart_count == 0
    names = on_host.docker("ps", "--format", "{{.Names}}").split()
    uid = seen.metadata.uid
    assert any(n.startswith("k8s_POD.") and f"_web_default_{uid}_" in n for n in names)
    assert any(n.startswith("k8s_main.") and f"_web_default_{uid}_" in n for n in names)
    await lab.delete("web", grace=1)
    await lab.gone("web")
    assert uid not in on_host.docker("ps", "-a", "--format", "{{.Names}}")


async def test_the_host_name_is_the_pods_from_the_first_moment(lab: Cluster) -> None:
    probe = "{exec: {command: [test, -s, /tmp/first]}, periodSeconds: 1, timeoutSeconds: 20}"
    command = "[sh, -c, 'hostname > /tmp/first; sleep 1000']"
    await lab.create(pod("named", f"{command}\n    readinessProbe: {probe}"))
    await lab.running("named")
    assert await lab.output("named", "cat", "/tmp/first") == "named"
    assert await lab.output("named", "hostname") == "named"
    assert await lab.output("named", "cat", "/etc/hostname") == "named"
    assert await lab.output("named", "sh", "-c", "echo $HOSTNAME") == "named"
    ip = (await lab.running("named")).status.pod_ip
    assert f"{ip}\tnamed" in await lab.output("named", "cat", "/etc/hosts")


@pytest.mark.parametrize("grace", [1, 0], ids=["now", "force"])
@pytest.mark.parametrize("lab", [0], ids=["cold"], indirect=True)
async def test_a_second_delete_shortens_the_stop_that_is_under_way(
    lab: Cluster, on_host: DockerHost, grace: int
) -> None:
    patient = pod().replace("PeriodSeconds: 1", "PeriodSeconds: 3600")
    await lab.create(patient)  # sleep, being the first process, does not hear SIGTERM
    uid = (await lab.running("web")).metadata.uid
    await lab.delete("web", grace=None)
    await lab.until(lambda: lab.events("Killing"))
    await lab.delete("web", grace=grace)
    await lab.gone("web")
    await lab.until(lambda: uid not in on_host.docker("ps", "-a", "--format", "{{.Names}}"))
    assert len(lab.events("Killing")) == 1
