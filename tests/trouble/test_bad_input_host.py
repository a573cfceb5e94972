"""A real host in trouble: ports, second agents, damaged and full disks, images, strangers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.lab.docker_host import DockerHost
from tests.lab.network import Namespace, Switch
from tests.lab.site import ADDRESS, K8SLITE, Site, build_images

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

STRANGER = "192.168.0.66"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Namespace]]:
    """A host with Docker and no cluster, and a stranger on the same switch."""
    directory = tmp_path_factory.mktemp("trouble")
    with Switch() as switch, Namespace("host") as host, Namespace("peer") as peer:
        switch.connect(host, f"{ADDRESS}/24")
        switch.connect(peer, f"{STRANGER}/24")
        with DockerHost(host, directory / "docker") as docker:
            build_images(docker.url)
            yield Site(host, docker, directory), peer


@pytest.fixture(scope="module")
def host(lab: tuple[Site, Namespace]) -> Site:
    return lab[0]


@pytest.fixture(scope="module")
def cluster(host: Site) -> Iterator[Site]:
    host.up()
    yield host
    host.down()


def refused(host: Site, *words: str) -> str:
    """The one line with which a command ends; its exit code is 1."""
    done = subprocess.run(
        host.host.inside(K8SLITE, *words),
        env=host.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.splitlines()
    assert len(last) == 1, done.stderr
    return last[0]


@contextmanager
def listener(host: Site, port: int) -> Iterator[None]:
    script = (
        f"import socket; s = socket.create_server(('0.0.0.0', {port}), reuse_port=False); "
        "print('on', flush=True); input()"
    )
    with subprocess.Popen(
        host.host.inside(sys.executable, "-c", script),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate(b"\n")


def eventually(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("port", "flag"),
    [(8080, "--port"), (6443, "--secure-port"), (7080, "--read-only-port"), (10250, "--node-port")],
)
def test_a_port_in_use_is_named_before_anything_is_touched(
    host: Site, port: int, flag: str
) -> None:
    with listener(host, port):
        line = refused(host, "up", "--data-dir", str(host.data_dir), "--node-ip", ADDRESS)
    assert f"port {port} is in use" in line
    assert line.endswith(f"or choose another with {flag}")
    assert host.docker.docker("ps", "-aq") == ""


def test_a_damaged_store_is_not_started_from_nor_touched(host: Site) -> None:
    folder = host.data_dir.parent / "damaged"
    folder.mkdir()
    store = folder / "store.db"
    noise = b"SQLite format 3\0" + b"\x17" * 20_000
    store.write_bytes(noise)
    line = refused(host, "agent", "--data-dir", str(folder), "--node-ip", ADDRESS)
    assert f"the store {store} is damaged" in line
    assert "put back a copy of it" in line
    assert store.read_bytes() == noise


def test_a_second_agent_is_refused_and_the_first_goes_on(cluster: Site) -> None:
    same, other = str(cluster.data_dir), str(cluster.data_dir.parent / "second")
    ports = ("--port", "1080", "--secure-port", "1443", "--read-only-port", "1070")
    ports = (*ports, "--node-port", "1250")
    for command in ("agent", "up"):
        line = refused(cluster, command, "--data-dir", other, "--node-ip", ADDRESS, *ports)
        assert "is this host's node" in line
    assert "another agent" in refused(cluster, "agent", "--data-dir", same, "--node-ip", ADDRESS)
    line = refused(cluster, "up", "--data-dir", same, "--node-ip", ADDRESS, "--port", "8081")
    assert "with other flags" in line
    assert "--port 8081" in line
    # What never was up has nothing to take down, least of all the first one's containers.
    cluster.k8slite("down", "--data-dir", other)
    assert "k8slite/pause" in cluster.docker.docker("images")
    assert "agent runs already" in cluster.up()
    assert "Ready" in cluster.ctl("get", "nodes")


def test_an_image_that_cannot_be_pulled_is_said_and_backed_off(cluster: Site) -> None:
    cluster.ctl("run-container", "lost", "--image=127.0.0.1:1/no/such:1")

    def words() -> str:
        return cluster.ctl("get", "pods", "-l", "run-container=lost")

    eventually(lambda: "ImagePullBackOff" in words(), words)
    assert '"127.0.0.1:1/no/such:1"' in words()
    pod = cluster.ctl("get", "pods", "-l", "run-container=lost", "-o", "name").strip()
    name = pod.rpartition("/")[2]
    for command in (("exec", name, "--", "ls"), ("logs", name)):
        line = refused(cluster, "ctl", "-s", f"http://{ADDRESS}:8080", *command)
        assert f'in pod "{name}" is waiting to start' in line
    cluster.ctl("stop", "rc", "lost")


_ASK = """
import json, socket, ssl, sys, urllib.request, urllib.error
found = {}
tls = ssl._create_unverified_context()
for url in sys.argv[1:]:
    try:
        found[url] = urllib.request.urlopen(url, timeout=3, context=tls).status
    except urllib.error.HTTPError as error:
        found[url] = error.code
    except OSError as error:
        found[url] = "nothing"
print(json.dumps(found))
"""


def test_no_listener_off_loopback_serves_anybody_unauthenticated(
    cluster: Site, lab: tuple[Site, Namespace]
) -> None:
    """Every port the host listens on, dialled by a neighbour on the same wire."""
    peer = lab[1]
    cluster.ctl("run-container", "web", "--image=nginx", "--port=80", "--replicas=1", "--wait")
    cluster.ctl("expose", "rc", "web", "--port=80")
    listening = set()
    for line in cluster.host.run("ss", "-Hltn").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not address.startswith(("127.", "[::1]")):
            listening.add(int(port))
    assert {8080, 6443, 7080, 10250} < listening
    urls = []
    for port in sorted(listening):
        urls += [f"{scheme}://{ADDRESS}:{port}/api/v1/secrets" for scheme in ("http", "https")]
    urls += [f"https://{ADDRESS}:10250/pods", f"http://{ADDRESS}:7080/api/v1/pods"]
    answers = json.loads(peer.run(sys.executable, "-c", _ASK, *urls))
    assert {url: code for url, code in answers.items() if code not in (401, 403, "nothing")} == {}
    assert answers[f"https://{ADDRESS}:6443/api/v1/secrets"] == 401
    assert answers[f"http://{ADDRESS}:8080/api/v1/secrets"] in (403, "nothing")
    assert answers[f"http://{ADDRESS}:7080/api/v1/pods"] in (403, "nothing")
    assert answers[f"https://{ADDRESS}:10250/pods"] in (401, 403, "nothing")


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_nothing_starts_on_a_full_disk(host: Site, tmp_path: Path, store: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    fill = ["dd", "if=/dev/zero", f"of={disk}/ballast"]
    subprocess.run(fill, capture_output=True, check=False)
    try:
        ports = ("--port", "1080", "--secure-port", "1443", "--read-only-port", "1070")
        where = ("--data-dir", str(disk), "--node-ip", ADDRESS, *ports, "--log-level", "error")
        line = refused(host, "agent", "--roles", "a", "--store", store, *where)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert str(disk) in line
    assert "make room on its disk" in line


def test_a_full_disk_refuses_writes_serves_reads_and_recovers(host: Site, tmp_path: Path) -> None:
    """A control plane whose data folder is a tmpfs of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    server = f"http://{ADDRESS}:1080"
    agent = host.host.start(
        *(K8SLITE, "agent", "--roles", "a", "--data-dir", str(disk), "--node-ip", ADDRESS),
        *("--port", "1080", "--secure-port", "1443", "--read-only-port", "1070"),
        log=tmp_path / "agent.log",
    )

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            host.host.inside(K8SLITE, "ctl", "-s", server, *words),
            env=host.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def log() -> str:
        return (tmp_path / "agent.log").read_text()

    try:
        eventually(lambda: ctl("get", "services").returncode == 0, log)
        ballast = disk / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}"], capture_output=True, check=False)
        big = tmp_path / "big.yaml"
        big.write_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: big-}\n"
            f"data: {{a: {'x' * 400_000}}}\n"
        )
        for _ in range(20):
            full = ctl("create", "-f", str(big))
            if full.returncode:
                break
        assert full.returncode == 1
        assert full.stderr.count("\n") == 1
        assert "no space left for the store" in full.stderr
        assert ctl("get", "services").returncode == 0
        assert agent.poll() is None
        ballast.unlink()
        eventually(lambda: ctl("create", "-f", str(big)).returncode == 0, log)
        assert "Traceback" not in log()
    finally:
        agent.terminate()
        agent.wait(30)
        subprocess.run(["umount", disk], check=True)
