"""The node API of a machine that joined: masters alone get in, and a renewal drops nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from masters import LOOPBACK, Master

from k8slite.client.http import HttpClient
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.kubelet.hollow import HollowRuntime
from k8slite.roles.kubelet.identity import NodeIdentity
from k8slite.roles.kubelet.server import NodeServer


async def joined(folder: Path, master: Master, name: str, address: str) -> NodeIdentity:
    found = NodeIdentity(
        folder, [master.secure], master.pki.token(), Clock(), name=name, addresses=(address,)
    )
    await found.obtain()
    return found


@pytest.fixture
async def identity(master: Master, tmp_path: Path) -> NodeIdentity:
    return await joined(tmp_path / "n1", master, "n1", "10.0.0.1")


@pytest.fixture
async def port(identity: NodeIdentity) -> AsyncIterator[int]:
    with socket.create_server((LOOPBACK, 0)) as free:
        number = int(free.getsockname()[1])
    settings = Settings(node_name="n1", node_ip=LOOPBACK, node_port=number)
    server = NodeServer(settings, Clock(), HollowRuntime(Clock()), lambda: (), identity)
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection(LOOPBACK, number)
                    writer.close()
                    break
                except OSError:
                    await Clock().sleep(0.01)
        yield number
    finally:
        await stop(running)


def known(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False  # the node's certificate is for the address that it said
    return context


async def test_masters_alone_get_in(
    master: Master, identity: NodeIdentity, port: int, tmp_path: Path
) -> None:
    url = f"https://{LOOPBACK}:{port}/pods"
    other = await joined(tmp_path / "n2", master, "n2", "10.0.0.2")
    context = other.access().tls()
    assert context is not None
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=known(context)) as answer:
            assert answer.status == 403
            said = (await answer.json())["message"]
            assert said == "system:node:n2 is no master: the node API serves masters"
        async with session.get(url, ssl=known(master.pki.client_context("apiserver"))) as answer:
            assert answer.status == 200


async def test_a_renewal_drops_nobody_and_the_next_sees_the_new_certificate(
    master: Master, identity: NodeIdentity, port: int
) -> None:
    context = known(master.pki.client_context("apiserver"))
    kept = await asyncio.open_connection(LOOPBACK, port, ssl=context)
    async with HttpClient(identity.access()) as client:
        await identity.renew(client)
    fresh = await asyncio.open_connection(LOOPBACK, port, ssl=context)
    shown = set()
    for reader, writer in (kept, fresh):
        shown.add(writer.get_extra_info("peercert")["serialNumber"])
        writer.write(b"GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert len(shown) == 2
