"""The node half of an agent, composed as the process composes it: it joins, it sees its own pods,
and it reads through the API or straight from etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from masters import Master, master_on
from tests.lab.etcd import EtcdCluster

from k8slite.agent.node import joined
from k8slite.agent.surroundings import Around
from k8slite.api.errors import Forbidden
from k8slite.api.kinds import NODE, POD, SECRET
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.pod.types import Container, Pod, PodSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.http import HttpClient
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.preflight import BadSettings, _joinable
from k8slite.store.etcd import EtcdStore


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await Clock().sleep(0.01)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), 1) as cluster:
        yield cluster


@pytest.fixture
async def on_etcd(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Master]:
    """A master whose store is a real etcd."""
    store = EtcdStore(etcd.endpoints, Clock(), root=f"/{tmp_path.name}")
    async with store, master_on(store, tmp_path / "master") as master:
        yield master


def settings_of(folder: Path, master: Master, name: str = "10.0.0.1", **more: Any) -> Settings:
    folder.mkdir(exist_ok=True)
    token = folder / "token"
    token.write_text(master.pki.token() + "\n")
    return Settings(
        roles="i", node_name=name, node_ip=name, data_dir=folder, server=(master.secure,),
        token_file=token, **more,
    )  # fmt: skip


@asynccontextmanager
async def node(settings: Settings) -> AsyncIterator[Around]:
    """What the roles of that node are handed, until the test is over."""
    handed: asyncio.Future[Around] = asyncio.get_running_loop().create_future()

    async def process() -> None:
        async with joined(settings, Clock()) as around:
            handed.set_result(around)

    running = asyncio.create_task(process(), name="node")
    try:
        await asyncio.wait({running, handed}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield handed.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


def pod(name: str, node: str) -> Pod:
    container = Container(name="main", image="nginx")
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=PodSpec(containers=(container,), node_name=node),
    )


async def two_pods(master: Master) -> None:
    """One for the node under test, one for another."""
    async with HttpClient(master.admin()) as admin:
        await admin.create(Node(metadata=ObjectMeta(name="10.0.0.2")))
        for name, node in (("mine", "10.0.0.1"), ("others", "10.0.0.2")):
            await admin.create(pod(name, node))


async def test_through_the_api_a_node_holds_its_own_pods_alone(
    master: Master, tmp_path: Path
) -> None:
    await two_pods(master)
    async with node(settings_of(tmp_path / "node", master)) as around:
        pods = around.informers.of(POD)
        await pods.wait_synced()
        assert [found.metadata.name for found in pods.items()] == ["mine"]
        await around.client.delete(POD, "mine", "default", grace_seconds=0)
        await until(lambda: not list(pods.items()))


async def test_straight_from_etcd_it_reads_and_through_the_api_it_writes(
    on_etcd: Master, etcd: EtcdCluster, tmp_path: Path
) -> None:
    await two_pods(on_etcd)
    settings = settings_of(
        tmp_path / "node", on_etcd, store="etcd", etcd=tuple(etcd.endpoints),
        etcd_root=f"/{tmp_path.name}",
    )  # fmt: skip
    async with node(settings) as around:
        pods, nodes = around.informers.of(POD), around.informers.of(NODE)
        await pods.wait_synced()
        assert {found.metadata.name for found in pods.items()} == {"mine", "others"}
        assert await around.client.heartbeat("10.0.0.1") > 0
        await around.client.delete(POD, "mine", "default", grace_seconds=0)
        await until(lambda: pods.get("default/mine") is None)
        assert nodes.get("10.0.0.1") is not None
        with pytest.raises(Forbidden):  # a node's writes are judged, wherever it reads
            await around.client.delete(NODE, "10.0.0.2")
        # What makes a master is not read along.
        assert around.informers.of(SECRET).synced
        cache = pods._cache  # type: ignore[attr-defined]
        assert [key for key in cache._others if not key.startswith("/registry/")] == []


async def test_a_token_file_may_go_once_the_node_has_joined(master: Master, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "node", master)
    async with node(settings):
        pass
    assert settings.token_file is not None
    settings.token_file.unlink()
    _joinable(settings)
    async with node(settings) as around:
        assert await around.client.heartbeat("10.0.0.1") > 0


async def test_a_node_does_not_go_on_without_its_informers(master: Master, tmp_path: Path) -> None:
    class Fault(Exception):
        pass

    def broken(old: Node | None, new: Node | None) -> None:
        raise Fault

    async def process() -> None:
        async with joined(settings_of(tmp_path / "node", master), Clock()) as around:
            around.informers.of(NODE).subscribe(broken)
            await asyncio.Event().wait()

    running = asyncio.create_task(process())
    done, _ = await asyncio.wait({running}, timeout=10)
    assert done
    with pytest.raises(ExceptionGroup) as caught:
        running.result()
    assert caught.group_contains(Fault)


async def test_a_token_file_that_went_away_is_named(master: Master, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "node", master)
    assert settings.token_file is not None
    settings.token_file.unlink()
    with pytest.raises(BadSettings, match=r"--token-file .* cannot be read"):
        async with node(settings):
            pass
