"""A whole cluster through its doors: its start, pods from POST to Running, its cost at rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab.docker_host import inside
from tests.lab.site import ADDRESS, K8SLITE, SERVER, Site, site

from bench.table import Row
from k8slite.api.errors import ApiError
from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.http import HttpClient
from k8slite.deploy.report import node_is_ready

STARTS, PODS, IDLE_SECONDS = 3, 12, 60.0


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="k8slite-") as folder, site(Path(folder)) as host:
        with inside(host.host):
            yield from asyncio.run(measured(host))


async def measured(host: Site) -> list[Row]:
    found = []
    starts = []
    for number in range(STARTS):
        directory = host.data_dir / str(number)
        with agent(host, directory) as process:
            starts.append(await until_ready())
            if number == STARTS - 1:
                found += await pods(host)
                found += await at_rest(process.pid)
        uninstall(host, directory)
    best = statistics.median(starts)
    found.append(Row("process start → node Ready, p50", f"{best:.2f} s", "", "≤ 1 s", best <= 1))
    return found


@contextlib.contextmanager
def agent(host: Site, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir(parents=True)
    flags = ("--data-dir", str(directory), "--node-ip", ADDRESS)
    words = (K8SLITE, "agent", *flags)
    process = host.host.start(*words, log=directory / "agent.log", env=host.environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def uninstall(host: Site, directory: Path) -> None:
    """Containers and networks of one cluster go before the next begins."""
    ids = host.docker.docker("ps", "-aq").split()
    if ids:
        host.docker.docker("rm", "-f", *ids)
    host.docker.docker("network", "prune", "-f")


async def until_ready() -> float:
    began = time.monotonic()
    async with HttpClient(SERVER) as client:
        while True:
            with contextlib.suppress(ApiError):
                if node_is_ready(await client.get(NODE, ADDRESS)):
                    return time.monotonic() - began
            await asyncio.sleep(0.005)


async def pods(host: Site) -> list[Row]:
    """POST → the watch says Running, turn by turn with ``docker run -d`` of the same image."""
    ours, theirs = [], []
    async with HttpClient(SERVER) as client:
        for number in range(PODS):
            await stocked(host)
            ours.append(await pod_start(client, f"pod{number}"))
            await stocked(host)
            theirs.append(await asyncio.to_thread(docker_run, host))
        for number in range(PODS):
            await client.delete(POD, f"pod{number}", "default", grace_seconds=0)
    own, beside = statistics.median(ours), statistics.median(theirs)
    ratio = own / beside
    return [
        Row(
            "pod start: POST → watch says Running, warm, p50",
            f"{own * 1000:.0f} ms ({ratio:.2f} ×)",
            f"`docker run -d` {beside * 1000:.0f} ms",
            "≤ 0.7 ×",
            ratio <= 0.7,
        )
    ]


async def pod_start(client: HttpClient, name: str) -> float:
    container = Container(
        name="main", image="busybox", image_pull_policy="IfNotPresent", command=("sleep", "1000")
    )
    spec = PodSpec(containers=(container,), termination_grace_period_seconds=0)
    pod = Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)
    began = time.monotonic()
    made = await client.create(pod)
    version = made.metadata.resource_version
    watch = client.watch(POD, "default", fields=f"metadata.name={name}", resource_version=version)
    async for event in watch:
        if event.object.status.phase == "Running":
            break
    return time.monotonic() - began


async def stocked(host: Site) -> None:
    """Wait until the warm sandboxes are there and nothing else is going on."""
    while len(host.docker.docker("ps", "-q", "-f", "name=k8s_POD.warm_").split()) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)


def docker_run(host: Site) -> float:
    began = time.monotonic()
    host.docker.docker("run", "-d", "--stop-timeout", "0", "busybox", "sleep", "1000")
    return time.monotonic() - began


async def at_rest(pid: int) -> list[Row]:
    """Memory, processor and disk of the idle process."""
    await asyncio.sleep(15)
    before = usage(pid)
    await asyncio.sleep(IDLE_SECONDS)
    after = usage(pid)
    cpu = (after["cpu"] - before["cpu"]) / IDLE_SECONDS * 100
    written = (after["written"] - before["written"]) / IDLE_SECONDS * 60
    memory = after["rss"] / 1e6
    return [
        Row("memory at rest, roles ai", f"{memory:.1f} MB RSS", "", "≤ 80 MB", memory <= 80),
        Row("processor at rest", f"{cpu:.2f} % of a core", "", "≤ 0.5 %", cpu <= 0.5),
        Row("disk writes at rest", f"{written:.0f} B a minute", "", "none", written == 0),
    ]


def usage(pid: int) -> dict[str, float]:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {
        "cpu": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
        "rss": int(stat[21]) * os.sysconf("SC_PAGE_SIZE"),
        "written": int(io["write_bytes"]),
    }
