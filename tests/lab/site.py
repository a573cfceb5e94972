"""A host with Docker, busybox and nginx, ready for `k8slite up`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.docker_host import DockerHost
from tests.lab.network import Namespace, Switch

ROOT = Path(__file__).resolve().parents[2]
K8SLITE = str(Path(sys.executable).parent / "k8slite")
ADDRESS = "192.168.0.10"
SERVER = f"http://{ADDRESS}:8080"


def build_images(docker_host: str) -> None:
    """busybox and nginx from Debian's packages; packed once a checkout."""
    environment = {
        **os.environ,
        "DOCKER_HOST": docker_host,
        "IMAGE_CACHE": str(ROOT / ".k8slite" / "images"),
    }
    script = str(ROOT / "examples" / "images" / "build.sh")
    done = subprocess.run(
        [script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


class Site:
    """One host at the article's first address, with a cluster of its own when it is up."""

    def __init__(self, host: Namespace, docker: DockerHost, directory: Path) -> None:
        self.host = host
        self.docker = docker
        self.data_dir = directory / "data"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(K8SLITE).parent}:{os.environ['PATH']}"
        home = self.data_dir.parent / "home"
        home.mkdir(exist_ok=True)
        return {**os.environ, "PATH": path, "DOCKER_HOST": self.docker.url, "HOME": str(home)}

    def k8slite(self, *words: str, check: bool = True, **options: Any) -> str:
        return self.host.run(K8SLITE, *words, check=check, env=self.environment, **options)

    def ctl(self, *words: str, check: bool = True, **options: Any) -> str:
        return self.k8slite("ctl", "-s", SERVER, *words, check=check, **options)

    def up(self, *flags: str) -> str:
        where = ("--data-dir", str(self.data_dir), "--node-ip", ADDRESS)
        return self.k8slite("up", *where, *flags)

    def down(self) -> str:
        return self.k8slite("down", "--data-dir", str(self.data_dir))

    @property
    def agent_log(self) -> str:
        path = self.data_dir / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A host on a switch of its own, Docker running, images there; no cluster yet."""
    with Switch() as switch, Namespace("host") as host:
        switch.connect(host, f"{ADDRESS}/24")
        with DockerHost(host, directory / "docker") as docker:
            build_images(docker.url)
            yield Site(host, docker, directory)
