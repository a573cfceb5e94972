"""A master and a node that joined it over HTTPS: both get pod networks, their pods talk."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.lab.docker_host import DockerHost, inside
from tests.lab.network import Namespace, Switch
from tests.lab.site import K8SLITE
from tests.network.hosts import echo, until

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

MASTER, NODE = "192.168.0.10", "192.168.0.11"


@dataclass
class Machine:
    host: Namespace
    docker: DockerHost
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.directory / self.host.name

    def agent(self, address: str, *flags: str) -> None:
        self.process = self.host.start(
            K8SLITE, "agent", "--node-ip", address, "--docker-host", self.docker.url,
            "--data-dir", str(self.data), *flags, log=self.directory / f"{address}.log",
        )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)


@contextmanager
def machines_on(switch: Switch) -> Iterator[list[Machine]]:
    """Two of them, each with a Docker that has an image of busybox."""
    directory = Path(tempfile.mkdtemp(prefix="k8slite-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        made = []
        for number, address in enumerate((MASTER, NODE)):
            host = stack.enter_context(Namespace(f"n{number}"))
            switch.connect(host, f"{address}/24")
            docker = stack.enter_context(DockerHost(host, directory / f"d{number}"))
            docker.import_busybox("busybox:1")
            machine = Machine(host, docker, directory)
            stack.callback(machine.stop)
            made.append(machine)
        yield made


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    with Switch() as switch, machines_on(switch) as made:
        yield made


def call(machine: Machine, path: str, body: dict[str, Any] | None = None) -> Any:
    """The API, asked on the master itself. None while it does not answer well."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", data)
    request.add_header("Content-Type", "application/json")
    try:
        with inside(machine.host), urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def pod(name: str, node: str) -> dict[str, Any]:
    container = {"name": "main", "image": "busybox:1", "command": ["sleep", "1000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{**container, "imagePullPolicy": "Never"}],
        },
    }


def test_pods_of_a_master_and_of_a_joined_node_talk(machines: list[Machine]) -> None:
    master, node = machines
    master.agent(MASTER)
    until(lambda: call(master, f"/api/v1/nodes/{MASTER}"), 30)
    until(lambda: call(master, "/join/token"), 30)
    token = call(master, "/join/token")["token"]
    node.agent(NODE, "--roles", "i", "--server", f"https://{MASTER}:6443", "--token", token)

    def cidrs() -> dict[str, str]:
        nodes = (call(master, "/api/v1/nodes") or {}).get("items", ())
        return {n["metadata"]["name"]: n["spec"].get("podCIDR", "") for n in nodes}

    until(lambda: cidrs() == {MASTER: "172.16.0.0/24", NODE: "172.16.1.0/24"}, 30)
    for where in (MASTER, NODE):
        until(lambda where=where: call(
            master, "/api/v1/namespaces/default/pods", pod(f"on-{where}", where)
        ), 20)  # fmt: skip

    def address(name: str) -> str:
        found = call(master, f"/api/v1/namespaces/default/pods/{name}") or {}
        return str(found.get("status", {}).get("podIP", ""))

    until(lambda: address(f"on-{MASTER}") and address(f"on-{NODE}"), 30)
    theirs, ours = address(f"on-{NODE}"), address(f"on-{MASTER}")
    assert theirs.startswith("172.16.1.")
    assert ours.startswith("172.16.0.")

    def reaches(machine: Machine, target: str) -> bool:
        ids = machine.docker.docker("ps", "-q", "-f", "label=io.k8slite.kind=container").split()
        try:
            machine.docker.docker("exec", ids[0], "ping", "-c", "1", "-W", "1", target)
        except (AssertionError, IndexError):
            return False
        return True

    until(lambda: reaches(master, theirs), 30)
    until(lambda: reaches(node, ours), 30)
    until(lambda: echo(master.host, theirs))  # and the hosts reach them, as the proxy must
    until(lambda: echo(node.host, ours))
