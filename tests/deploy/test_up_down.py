"""`make up && make down` leaves no difference, on a host with Docker and on one without."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.docker_host import DockerHost
from tests.lab.network import Namespace, Switch
from tests.lab.site import ADDRESS, ROOT, build_images

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

#: What a host is, as the operator sees it.
VIEWS = (
    "iptables-save",
    "ip addr",
    "ip route",
    "docker ps -a",
    "docker network ls",
    "docker volume ls",
)
_NOISE = (
    re.compile(r"^# (Generated|Completed).*$", re.MULTILINE),
    re.compile(r"\[\d+:\d+\]"),  # counters
    re.compile(r"valid_lft .*$", re.MULTILINE),
    re.compile(r"(\d+ (second|minute)s?|Less than a second|About a minute)( ago)?"),
    re.compile(r"tentative"),  # an IPv6 address that is a second old
)


class Machine:
    """A host that runs `make` in a mount namespace of its own where Docker's places are empty."""

    def __init__(self, host: Namespace, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.data_dir = directory / "k8slite"

    def shell(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.host.inside("bash", "-c", line),
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def views(self, **environment: str) -> dict[str, str]:
        found = {}
        for view in VIEWS:
            done = self.shell(view, **environment)
            text = done.stdout
            for noise in _NOISE:
                text = noise.sub("", text)
            found[view] = re.sub(" +", " ", text)
        found["processes"] = "\n".join(self.processes())
        return found

    def processes(self) -> list[str]:
        """What runs in the host's network, and whatever of Docker or k8slite runs anywhere."""
        listing = subprocess.run(
            ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True
        ).stdout
        mine = {str(pid) for pid in self.host.pids()}
        ours = str(self.directory)
        return sorted(
            line.split(maxsplit=1)[1]
            for line in listing.splitlines()
            if line.split()[0] in mine or (ours in line and "pytest" not in line)
        )

    def make(self, target: str, **environment: str) -> str:
        done = self.shell(f"make {target} DATA_DIR={self.data_dir}", **environment)
        assert done.returncode == 0, f"make {target}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def machine() -> Iterator[Machine]:
    # A short path: containerd's sockets lie below it, and a socket's path is 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="k8slite-"))
    with Switch() as switch, Namespace("bare") as host:
        switch.connect(host, f"{ADDRESS}/24")
        yield Machine(host, directory)
    shutil.rmtree(directory, ignore_errors=True)


def test_where_docker_runs_already_it_is_left_alone(machine: Machine) -> None:
    with DockerHost(machine.host, machine.directory / "docker") as docker:
        build_images(docker.url)
        docker.docker("run", "-d", "--name", "neighbour", "busybox", "sleep", "3600")
        where = {"DOCKER_HOST": docker.url}
        before = machine.views(**where)
        screen = machine.make("up", **where)
        assert "Cluster validation succeeded" in screen
        server = f"-s http://{ADDRESS}:8080"
        run = machine.shell(
            f".venv/bin/k8slite ctl run-container nginx --image=nginx --replicas=3 {server} "
            f"&& .venv/bin/k8slite ctl expose rc nginx --port=80 {server}"
        )
        assert run.returncode == 0, run.stderr
        assert machine.views(**where) != before
        screen = machine.make("down", **where)
        assert "The host is as it was found." in screen
        assert machine.views(**where) == before
        assert not machine.data_dir.exists()


def test_where_docker_did_not_run_it_is_stopped_again_without_a_trace(machine: Machine) -> None:
    socket = machine.directory / "docker.sock"
    where = {
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_OPTS": f"--data-root {machine.directory}/images "
        f"--exec-root {machine.directory}/exec --pidfile {machine.directory}/docker.pid",
    }
    before = machine.views(**where)
    machine.make("up", **where)
    assert "docker0" in machine.views(**where)["ip addr"]
    machine.make("down", **where)
    assert machine.views(**where) == before


def test_down_where_nothing_is_up_says_so(machine: Machine) -> None:
    screen = machine.make("down")
    assert "nothing to stop" in screen
