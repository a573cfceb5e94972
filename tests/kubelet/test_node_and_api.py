"""The node's account of itself, the engine's absence, and the node API."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.kubelet.cluster import Cluster, cluster
from tests.kubelet.conftest import ADDRESS
from tests.lab.docker_host import DockerHost

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.pki.files import Pki
from k8slite.roles.kubelet.docker import DockerRuntime

pytestmark = pytest.mark.docker

SLEEPER = """
kind: Pod
apiVersion: v1
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'echo one; echo two >&2; echo three; sleep 1000']
"""


@pytest.fixture
async def lab(on_host: DockerHost, tmp_path: Path) -> AsyncIterator[Cluster]:
    settings = Settings(
        node_name=ADDRESS,
        node_ip=ADDRESS,
        docker_host=on_host.url,
        data_dir=tmp_path,
        warm_sandboxes=1,
    )
    made = cluster(settings, lambda: DockerRuntime(settings, Clock()), with_api=True)
    async with made as lab:
        yield lab


async def test_the_node_tells_what_it_is(lab: Cluster, on_host: DockerHost) -> None:
    await lab.until(lambda: lab.node().spec.pod_cidr == "172.16.0.0/24")  # type: ignore[union-attr]
    node = lab.node()
    assert node is not None
    assert node.status.capacity is not None
    assert set(node.status.capacity) == {"cpu", "memory", "pods"}
    assert [(a.type, a.address) for a in node.status.addresses] == [
        ("InternalIP", ADDRESS), ("Hostname", ADDRESS),
    ]  # fmt: skip
    assert node.status.node_info is not None
    assert node.status.node_info.container_runtime_version.startswith("docker://")
    assert lab.node_condition("MemoryPressure") == "False"
    bridge = json.loads(on_host.docker("network", "inspect", "k8slite"))[0]
    assert bridge["Options"]["com.docker.network.bridge.name"] == "k8slite0"


async def test_an_unchanged_node_is_not_written_again(lab: Cluster) -> None:
    await lab.until(lambda: lab.node().spec.pod_cidr)  # type: ignore[union-attr]
    reporter = lab.kubelet._node
    await reporter._report()
    before = lab.cache.revision
    await reporter._report()
    assert lab.cache.revision == before


async def test_a_stopped_engine_makes_the_node_not_ready_and_comes_back(
    lab: Cluster, on_host: DockerHost
) -> None:
    await lab.create(SLEEPER)
    before = await lab.running("web")
    on_host.stop()
    try:
        await lab.until(lambda: lab.node_condition("Ready") == "False")
        node = lab.node()
        assert node is not None
        ready = next(c for c in node.status.conditions if c.type == "Ready")
        assert "container runtime is down" in ready.message
        assert lab.phase("web") == "Running"
        assert lab.pod("web").status == before.status  # type: ignore[union-attr]
    finally:
        await asyncio.to_thread(on_host.start)
    await lab.until(lambda: lab.node_condition("Ready") == "True")
    # This engine ends its containers when it stops; the kubelet starts them again.
    await lab.until(lambda: lab.container("web").restart_count == 1)
    await lab.running("web")


async def test_a_frozen_engine_is_noticed(lab: Cluster, on_host: DockerHost) -> None:
    on_host.freeze()
    try:
        await lab.until(lambda: lab.node_condition("Ready") == "False")
    finally:
        on_host.thaw()
    await lab.until(lambda: lab.node_condition("Ready") == "True")


class Caller:
    """A client of the node API with the API server's certificate."""

    def __init__(self, lab: Cluster) -> None:
        self._base = f"https://{ADDRESS}:{lab.settings.node_port}"
        self._tls = Pki(lab.settings.data_dir, lab.clock).client_context()

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            async with session.get(self._base + path, ssl=self._tls) as answer:
                return answer.status, await answer.text()

    async def exec(self, path: str, *sent: bytes) -> dict[int, bytes]:
        """Everything that came, by channel."""
        got: dict[int, bytes] = {}
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(
                self._base + path, ssl=self._tls, protocols=["v5.channel.k8s.io"]
            ) as socket:
                assert socket.protocol == "v5.channel.k8s.io"
                for message in sent:
                    await socket.send_bytes(message)
                async for message in socket:
                    channel = message.data[0]
                    got[channel] = got.get(channel, b"") + message.data[1:]
        return got


async def test_strangers_do_not_get_past_the_handshake(lab: Cluster) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://{ADDRESS}:{lab.settings.node_port}/healthz", ssl=context)


async def test_health_pods_and_stats(lab: Cluster) -> None:
    await lab.create(SLEEPER)
    await lab.running("web")
    caller = Caller(lab)
    assert await caller.get("/healthz") == (200, "ok")
    status, text = await caller.get("/pods")
    assert status == 200
    assert [pod["metadata"]["name"] for pod in json.loads(text)["items"]] == ["web"]
    status, text = await caller.get("/stats")
    assert json.loads(text)["pods"][0]["containers"][0]["memory"]["workingSetBytes"] > 0


async def test_logs_as_asked_for(lab: Cluster) -> None:
    await lab.create(SLEEPER)
    await lab.running("web")
    caller = Caller(lab)
    place = "/containerLogs/default/web/main"
    async with asyncio.timeout(40):  # the container runs before it has said all of it
        while len((await caller.get(place))[1].split()) < 3:  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.05)
    assert sorted((await caller.get(place))[1].split()) == ["one", "three", "two"]
    assert len((await caller.get(f"{place}?tailLines=1"))[1].split()) == 1
    assert len((await caller.get(f"{place}?limitBytes=5"))[1]) == 5
    stamped = (await caller.get(f"{place}?timestamps=true&tailLines=1"))[1]
    assert stamped[:2] == "20"
    status, text = await caller.get(f"{place}?previous=true")
    assert status == 400
    assert "previous terminated container" in json.loads(text)["message"]
    assert (await caller.get("/containerLogs/default/web/none"))[0] == 404
    assert (await caller.get("/containerLogs/default/none/main"))[0] == 404
    assert (await caller.get(f"{place}?tailLines=x"))[0] == 400


async def test_commands_through_the_channels(lab: Cluster) -> None:
    await lab.create(SLEEPER)
    await lab.running("web")
    caller = Caller(lab)
    place = "/exec/default/web/main?stdout=1&stderr=1"
    got = await caller.exec(f"{place}&command=sh&command=-c&command=echo+out;echo+err+>%262;exit+3")
    assert got[1] == b"out\n"
    assert got[2] == b"err\n"
    verdict = json.loads(got[3])
    assert verdict["status"] == "Failure"
    assert verdict["reason"] == "NonZeroExitCode"
    assert verdict["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    got = await caller.exec(f"{place}&stdin=1&command=cat", b"\x00hello", b"\xff\x00")
    assert got[1] == b"hello"
    assert json.loads(got[3])["status"] == "Success"
    got = await caller.exec(f"{place}&tty=1&stdin=1&command=tty", b'\x04{"Width":80,"Height":24}')
    assert json.loads(got[3])["status"] in ("Success", "Failure")
