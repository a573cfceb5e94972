"""A Docker engine in a network namespace of its own, once for the whole suite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.docker_host import DockerHost, inside
from tests.lab.network import Namespace

ADDRESS = "192.168.7.10"


@pytest.fixture(scope="session")
def docker_host() -> Iterator[DockerHost]:
    """dockerd with ``busybox:1``; its default route leads nowhere."""
    with Namespace("kubelet") as namespace:
        namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        namespace.ip("link", "set", "up1", "up")
        namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "up0")
        namespace.ip("link", "set", "up0", "up")
        namespace.ip("route", "add", "default", "dev", "up0")
        with tempfile.TemporaryDirectory(prefix="k8slite-docker-") as directory:
            with DockerHost(namespace, Path(directory) / "d") as host:
                host.import_busybox()
                yield host


@pytest.fixture
def on_host(docker_host: DockerHost) -> Iterator[DockerHost]:
    """The test runs in the engine's network, where pods can be reached."""
    with inside(docker_host.namespace):
        yield docker_host
