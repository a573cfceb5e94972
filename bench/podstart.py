"""Pod start, from the API object to Running, beside ``docker run -d`` in the same run.

The kubelet runs on a registry in memory without HTTP, against an engine of its own in a network
namespace; ``docker run`` talks to the same engine. A pod is two containers (sandbox and program),
so the burst is held against the same two containers made by bare calls, and against ``docker run``.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiodocker import Docker
from tests.kubelet.cluster import Cluster, cluster
from tests.lab.docker_host import DockerHost, inside
from tests.lab.network import Namespace

from bench.table import Row
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import PARALLEL_STARTS, DockerRuntime, names
from k8slite.roles.kubelet.docker.pause import IMAGE

SINGLE, BURST = 12, 40
ADDRESS = "192.168.7.10"
POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: 'busybox:1', command: [sleep, '1000']}}]
"""


@contextlib.contextmanager
def engine() -> Iterator[DockerHost]:
    with Namespace("podstart") as namespace, tempfile.TemporaryDirectory() as folder:
        namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "up0")
        for end in ("up0", "up1"):
            namespace.ip("link", "set", end, "up")
        namespace.ip("route", "add", "default", "dev", "up0")
        with DockerHost(namespace, Path(folder) / "d") as host, inside(namespace):
            host.import_busybox()
            yield host


def docker_run(host: DockerHost) -> float:
    began = time.monotonic()
    subprocess.run(
        [
            "docker",
            "-H",
            host.url,
            "run",
            "-d",
            "--stop-timeout",
            "0",
            "busybox:1",
            "sleep",
            "1000",
        ],
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def clear(host: DockerHost) -> None:
    ids = host.docker("ps", "-aq").split()
    if ids:
        host.docker("rm", "-f", *ids)


async def pod_start(lab: Cluster, name: str) -> float:
    began = time.monotonic()
    await lab.create(POD.format(name=name))
    while lab.phase(name) != "Running":  # noqa: ASYNC110 - a bench polls
        await asyncio.sleep(0.001)
    return time.monotonic() - began


async def singles(host: DockerHost, folder: Path, warm: int) -> tuple[list[float], list[float]]:
    """Starts of pods and of ``docker run -d``, one after the other, turn by turn."""
    settings = Settings(
        node_name=ADDRESS, node_ip=ADDRESS, docker_host=host.url, data_dir=folder,
        warm_sandboxes=warm,
    )  # fmt: skip
    pods, runs = [], []
    async with cluster(settings, lambda: DockerRuntime(settings, Clock())) as lab:
        for number in range(SINGLE):
            await stocked(host, warm)
            pods.append(await pod_start(lab, f"p{number}"))
            await stocked(host, warm)
            runs.append(await asyncio.to_thread(docker_run, host))
    clear(host)
    return pods, runs


async def stocked(host: DockerHost, warm: int) -> None:
    """Wait until the warm sandboxes are there and nothing else is going on."""
    filter_ = ("-f", "name=k8s_POD.warm_")
    while len(host.docker("ps", "-q", *filter_).split()) < warm:  # noqa: ASYNC110 - a bench polls
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)


async def burst_of_pods(host: DockerHost, folder: Path) -> float:
    settings = Settings(
        node_name=ADDRESS, node_ip=ADDRESS, docker_host=host.url, data_dir=folder,
        warm_sandboxes=2,
    )  # fmt: skip
    async with cluster(settings, lambda: DockerRuntime(settings, Clock())) as lab:
        await stocked(host, 2)
        began = time.monotonic()
        await asyncio.gather(*(pod_start(lab, f"b{number}") for number in range(BURST)))
        return BURST / (time.monotonic() - began)


async def burst_of_docker(host: DockerHost, network: str) -> float:
    """The same containers as the pods', by bare calls, as many at once as the kubelet makes."""
    connector = aiohttp.UnixConnector(str(host.socket), limit=0)
    docker = Docker("http://docker", connector=connector)
    slots = asyncio.Semaphore(PARALLEL_STARTS)

    async def pair() -> None:
        async with slots:
            host_config = {"NetworkMode": network, "IpcMode": "shareable"}
            box = await docker.containers.create(
                {"Image": IMAGE, "HostConfig": host_config, "Labels": {names.KIND: "bench"}}
            )
            await box.start()
        async with slots:
            joined = f"container:{box.id}"
            main = await docker.containers.create(
                {
                    "Image": "busybox:1",
                    "Cmd": ["sleep", "1000"],
                    "HostConfig": {"NetworkMode": joined, "IpcMode": joined},
                }
            )
            await main.start()

    try:
        began = time.monotonic()
        await asyncio.gather(*(pair() for _ in range(BURST)))
        return BURST / (time.monotonic() - began)
    finally:
        await docker.close()
        await connector.close()


def rows() -> Iterator[Row]:
    with engine() as host, tempfile.TemporaryDirectory() as folder:
        warm, runs = asyncio.run(singles(host, Path(folder), 2))
        yield _single("warm", warm, runs, 0.7)
        cold, runs = asyncio.run(singles(host, Path(folder), 0))
        yield _single("cold", cold, runs, 1.5)
        pods = asyncio.run(burst_of_pods(host, Path(folder)))
        clear(host)
        host.docker("network", "create", "alone")
        asyncio.run(_pause_image(host))
        alone = asyncio.run(burst_of_docker(host, "alone"))
        clear(host)
        yield Row(
            f"burst of {BURST} pods",
            f"{pods:.2f} pods/s ({pods / alone:.2f} ×)",
            f"Docker alone, same containers: {alone:.2f} pods/s",
            "≥ 95 % of Docker alone",
            pods >= 0.95 * alone,
        )


async def _pause_image(host: DockerHost) -> None:
    from k8slite.roles.kubelet.docker import pause

    docker = Docker("http://docker", connector=aiohttp.UnixConnector(str(host.socket)))
    await docker.images.import_image(pause.image_archive("amd64"))
    await docker.close()
    await docker.connector.close()


def _single(what: str, pods: list[float], runs: list[float], goal: float) -> Row:
    ours, peer = statistics.median(pods), statistics.median(runs)
    return Row(
        f"pod start, sandbox {what}: object → Running, p50",
        f"{ours * 1000:.0f} ms ({ours / peer:.2f} ×)",
        f"docker run -d {peer * 1000:.0f} ms",
        f"≤ {goal} × docker run -d",
        ours <= goal * peer,
    )
