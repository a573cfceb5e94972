"""A whole agent: what goes through its portals is seen by ``ctl top`` and by Prometheus."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tests.proxy.world import NODE, Net

K8SLITE = str(Path(sys.executable).with_name("k8slite"))
API = "http://127.0.0.1:8080"
COUNTED = 'k8slite_proxy_service_connections_total{namespace="default",service="kubernetes-ro",'


@asynccontextmanager
async def agent(folder: Path) -> AsyncIterator[Process]:
    """Master and node on the host of this loop; the container engine is down."""
    process = await asyncio.create_subprocess_exec(
        K8SLITE, "agent", "--node-ip", NODE, "--data-dir", str(folder), "--store", "memory",
        "--docker-host", f"unix://{folder}/none.sock", stderr=PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    log = asyncio.create_task(process.stderr.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await log


async def ctl(*words: str) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        K8SLITE, "ctl", *words, "-s", API, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    return out.decode(), err.decode()


async def top() -> dict[str, Any]:
    """The services that are shown, by name."""
    out, _ = await ctl("top", "services", "--once", "--endpoints", "-o", "json")
    return {row["service"]: row for row in json.loads(out)["items"]} if out else {}


async def opened(address: str) -> None:
    """Until the portal at ``address`` is open."""
    while True:
        try:
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(address, 80)
        except (OSError, TimeoutError):
            continue
        writer.close()
        await writer.wait_closed()
        return


async def text_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


def test_top_and_metrics_show_what_went_through_the_portal(net: Net, tmp_path: Path) -> None:
    async def story() -> None:
        async with agent(tmp_path) as process, asyncio.timeout(60):
            while not (seen := (await top()).get("kubernetes-ro")) or not seen["endpointsInUse"]:
                assert process.returncode is None
            spec = json.loads((await ctl("get", "svc", "kubernetes-ro", "-o", "json"))[0])["spec"]
            async with aiohttp.ClientSession() as session:
                await opened(spec["clusterIP"])
                # One, or more: on a busy machine not every attempt is waited for.
                before = (await top())["kubernetes-ro"]
                for _ in range(3):
                    await text_of(session, f"http://{spec['clusterIP']}/version")
                seen = (await top())["kubernetes-ro"]
                count = seen["total"]["connections"]
                assert count == before["total"]["connections"] + 1  # kept, and used three times
                assert count >= 2
                [end], [was] = seen["endpoints"], before["endpoints"]
                assert end["address"] == f"{NODE}:7080"
                assert end["total"]["connections"] == was["total"]["connections"] + 1
                assert end["total"]["sent"] > end["total"]["received"] > 0
                told = await text_of(session, "http://127.0.0.1:10249/metrics")
                same = await text_of(session, f"{API}/api/v1/nodes/{NODE}/proxy/metrics")
            for text in (told, same):
                [line] = [row for row in text.splitlines() if row.startswith(COUNTED)]
                assert line.endswith(f" {count}")

    net.node.do(story(), timeout=90)
