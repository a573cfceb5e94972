"""A cluster moves from the embedded store to three members of etcd and back: to whoever uses it,
it is the same cluster, only that its revisions have grown."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.docker_host import inside
from tests.lab.etcd import EtcdCluster
from tests.lab.network import Namespace, Switch

from k8slite.api.errors import Expired, Unavailable
from k8slite.api.kinds import CONFIG_MAP, SCHEME
from k8slite.client import kubeconfig
from k8slite.client.http import HttpClient, path_of
from k8slite.client.kubeconfig import Wanted
from k8slite.kit.clock import Clock

ADDRESS = "192.168.0.10"
SERVER = "http://127.0.0.1:8080"
K8SLITE = str(Path(sys.executable).parent / "k8slite")

OBJECTS = """
{kind: Namespace, apiVersion: v1, metadata: {name: shop}}
---
{kind: ConfigMap, apiVersion: v1, metadata: {name: settings, namespace: shop}, data: {a: "1"}}
---
{kind: Secret, apiVersion: v1, metadata: {name: key, namespace: shop}, data: {k: AAEC/w==}}
---
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop},
 spec: {selector: {app: web}, ports: [{port: 80}], sessionAffinity: ClientIP}}
---
kind: ReplicationController
apiVersion: v1
metadata: {name: web, namespace: shop}
spec:
  replicas: 5
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
"""

Objects = dict[tuple[str, str], dict[str, Any]]


class Master:
    """An ``agent --roles a`` of its own data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        where = ("--data-dir", str(data_dir), "--node-ip", ADDRESS)
        self._words = [K8SLITE, "agent", "--roles", "a", *where]

    @asynccontextmanager
    async def running(self, *flags: str) -> AsyncIterator[HttpClient]:
        """Serves, scheduler and controllers at work; then told to stop."""
        self.data_dir.mkdir(exist_ok=True)
        log = self.data_dir.with_suffix(".log")
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self._words, *flags, stdout=output, stderr=output
            )
        try:
            async with HttpClient(SERVER) as client:
                await until(lambda: _all_well(client, process, log))
                yield client
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0, log.read_text()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await Clock().sleep(0.05)


async def _all_well(client: HttpClient, process: asyncio.subprocess.Process, log: Path) -> bool:
    assert process.returncode is None, log
    try:
        answer = (await client.request("GET", "/api/v1/componentstatuses")).json()
    except Unavailable:
        return False
    return all(item["conditions"][0]["status"] == "True" for item in answer["items"])


def k8slite(*words: str) -> str:
    done = subprocess.run([K8SLITE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def everything(client: HttpClient) -> Objects:
    """Kind and key → the object as it is served, without events, which come and go."""
    found: Objects = {}
    for kind in SCHEME:
        if kind.virtual or kind.kind in ("Event", "Endpoints"):
            continue
        for item in (await client.request("GET", path_of(kind))).json()["items"]:
            meta = item["metadata"]
            found[kind.kind, f"{meta.get('namespace', '')}/{meta['name']}"] = item
    return found


def plain(objects: Objects) -> dict[tuple[str, str], str]:
    """Everything but the revision."""
    stripped = {}
    for key, item in objects.items():
        copy = json.loads(json.dumps(item))
        del copy["metadata"]["resourceVersion"]
        stripped[key] = json.dumps(copy, sort_keys=True)
    return stripped


def newest(objects: Objects) -> int:
    return max(int(item["metadata"]["resourceVersion"]) for item in objects.values())


def oldest(objects: Objects) -> int:
    return min(int(item["metadata"]["resourceVersion"]) for item in objects.values())


async def require_same(client: HttpClient, before: Objects) -> Objects:
    """The same objects, all of them at revisions above those before; whoever held on to an old
    revision is told so and never shown too little. Then one more write."""
    now = await everything(client)
    assert plain(now) == plain(before)
    assert oldest(now) > newest(before)
    with pytest.raises(Expired):
        await anext(aiter(client.watch(CONFIG_MAP, resource_version=str(newest(before)))))
    settings = await client.get(CONFIG_MAP, "settings", "shop")
    change = {"data": {"a": str(int((settings.data or {})["a"]) + 1)}}
    await client.patch(CONFIG_MAP, "settings", "shop", change)
    return await everything(client)


async def five_pods(client: HttpClient) -> bool:
    return sum(kind == "Pod" for kind, _ in await everything(client)) == 5


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members; they and this test are on a host of their own."""
    with Switch() as switch, Namespace("moved") as host, inside(host):
        switch.connect(host, f"{ADDRESS}/24")
        with EtcdCluster(tmp_path / "etcd", 3) as cluster:
            yield cluster


async def test_to_etcd_and_back(etcd: EtcdCluster, tmp_path: Path) -> None:
    young, grown, back = (Master(tmp_path / name) for name in ("young", "grown", "back"))
    async with young.running() as client:
        manifest = tmp_path / "objects.yaml"
        manifest.write_text(OBJECTS)
        k8slite("ctl", "-s", SERVER, "create", "-f", str(manifest))
        await until(lambda: five_pods(client))
        before = await everything(client)

    place = ",".join(etcd.endpoints)
    told = k8slite("store", "migrate", "--data-dir", str(young.data_dir), "--to", f"etcd:{place}")
    assert "keys" in told

    async with grown.running("--etcd", place) as client:
        after = await require_same(client, before)
        # The authority moved along: a credential of the first day still opens the new master.
        old = kubeconfig.load([young.data_dir / "admin.kubeconfig"])
        access, _ = old.access(Wanted(server=f"https://{ADDRESS}:6443"))
        async with HttpClient(access) as admin:
            assert (await admin.get(CONFIG_MAP, "settings", "shop")).data == {"a": "2"}

    k8slite("store", "migrate", "--data-dir", str(back.data_dir), "--etcd", place, "--to", "sqlite")
    async with back.running() as client:
        assert newest(await require_same(client, after)) > newest(after)
