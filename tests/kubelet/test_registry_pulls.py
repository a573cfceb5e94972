"""Pulls from a real local registry: Debian's docker-registry, with a password."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.kubelet.cluster import Cluster, cluster
from tests.kubelet.conftest import ADDRESS
from tests.lab.docker_host import DockerHost

from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import DockerRuntime

pytestmark = pytest.mark.docker

REGISTRY = "127.0.0.1:5000"  # Docker takes a loopback registry without TLS
IMAGE = f"{REGISTRY}/private/box:7"
USER, PASSWORD = "core", "s3cret"

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: '{registry}'}}
auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}
"""

POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  {secrets}
  containers: [{{name: main, image: '{image}', command: [sleep, '1000'], imagePullPolicy: Always}}]
"""


@pytest.fixture
def registry(on_host: DockerHost, tmp_path: Path) -> Iterator[str]:
    """The registry in the engine's network; it holds one private image, the engine none of it."""
    entry = subprocess.run(
        ["htpasswd", "-Bbn", USER, PASSWORD], capture_output=True, text=True, check=True
    )
    (tmp_path / "htpasswd").write_text(entry.stdout)
    (tmp_path / "config.yml").write_text(CONFIG.format(folder=tmp_path, registry=REGISTRY))
    words = ("docker-registry", "serve", str(tmp_path / "config.yml"))
    daemon = on_host.namespace.start(*words, log=tmp_path / "registry.log")
    try:
        login(on_host, tmp_path)
        on_host.docker("tag", "busybox:1", IMAGE)
        docker_as_user(on_host, tmp_path, "push", IMAGE)
        on_host.docker("rmi", IMAGE)
        yield IMAGE
    finally:
        daemon.terminate()
        daemon.wait(20)


def docker_as_user(host: DockerHost, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "--config", str(home / "docker"), "-H", host.url, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def login(host: DockerHost, home: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        done = docker_as_user(host, home, "login", "-u", USER, "-p", PASSWORD, REGISTRY)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


@pytest.fixture
async def lab(on_host: DockerHost, tmp_path: Path) -> AsyncIterator[Cluster]:
    settings = Settings(
        node_name=ADDRESS,
        node_ip=ADDRESS,
        docker_host=on_host.url,
        data_dir=tmp_path / "agent",
        warm_sandboxes=0,
    )
    async with cluster(settings, lambda: DockerRuntime(settings, Clock())) as made:
        yield made


def pull_secret() -> str:
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    keys = base64.b64encode(json.dumps({"auths": {REGISTRY: {"auth": token}}}).encode()).decode()
    return f"""
kind: Secret
apiVersion: v1
metadata: {{name: keys}}
type: kubernetes.io/dockerconfigjson
data: {{.dockerconfigjson: {keys}}}
"""


async def test_a_pull_secret_opens_a_private_registry(lab: Cluster, registry: str) -> None:
    await lab.create(pull_secret())
    await lab.create(
        POD.format(name="web", image=registry, secrets="imagePullSecrets: [{name: keys}]")
    )
    await lab.running("web")
    assert lab.container("web").image == registry


async def test_without_the_secret_the_pod_says_why_and_runs_once_it_may(
    lab: Cluster, registry: str
) -> None:
    await lab.create(
        POD.format(name="web", image=registry, secrets="imagePullSecrets: [{name: keys}]")
    )

    def waiting() -> tuple[str, str]:
        pod = lab.pod("web")
        states = [c.state.waiting for c in pod.status.container_statuses] if pod else []
        return (states[0].reason, states[0].message) if states and states[0] else ("", "")

    await lab.until(lambda: waiting()[0] in ("ErrImagePull", "ImagePullBackOff"))
    assert registry in waiting()[1] or "auth" in waiting()[1]
    await lab.create(pull_secret())
    await lab.until(lambda: lab.phase("web") == "Running", seconds=60)
