"""The lab's hosts are what an installer would meet: Debian, Docker, sshd, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.lab.lab import ADDRESSES, Lab, lab, sweep
from tests.lab.root import PASSWORD
from tests.lab.site import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.docker]


def test_from_conf_core_logs_in_with_a_key_and_is_root_by_sudo(machines: Lab) -> None:
    for node in machines.nodes:
        assert machines.ssh(node, "id -un; hostname").split() == ["core", node.name]
    assert machines.ssh(machines["node1"], "sudo -n id -un").strip() == "root"


def test_where_sudo_asks_the_password_opens_it(machines: Lab) -> None:
    node = machines["node2"]
    assert machines.ssh(node, "sudo -n id -un", check=False) == ""
    given = f"echo {PASSWORD} | sudo -S -p '' id -un"
    assert machines.ssh(node, given).strip() == "root"


def test_a_node_has_docker_and_neither_python_nor_etcd(machines: Lab) -> None:
    node = machines["node1"]
    assert node.docker("info", "--format", "{{.ServerVersion}}")
    for absent in ("python3", "python3.11", "pip3", "etcd", "etcdctl", "kubectl", "k8slite"):
        assert node.sh(f"command -v {absent}", check=False) == ""
    assert node.sh("ls /usr/lib/python3* /usr/local/bin /home", check=False).split() == [
        "/home:",
        "core",
        "/usr/local/bin:",
    ]


def test_images_are_there_and_a_container_runs_in_the_hosts_own_cgroup(machines: Lab) -> None:
    for node in machines.nodes:
        assert node.docker("run", "--rm", "nginx", "nginx", "-v") == ""
        groups = node.docker("run", "--rm", "busybox", "cat", "/proc/self/cgroup")
        assert "/docker/" in groups
        assert node.name not in groups


def test_hosts_see_each_other_and_not_each_others_files(machines: Lab) -> None:
    first, second, third = machines.nodes
    for node in (second, third, machines.conf):
        assert first.run("busybox", "ping", "-c", "1", "-W", "2", node.name)
    for folder in ("/opt", "/etc", "/usr/local/bin", "/var/lib", "/run", "/root", "/tmp"):
        first.sh(f"echo mine > {folder}/lab-mark")
        assert not second.path(f"{folder}/lab-mark").exists()
        assert not Path(f"{folder}/lab-mark").exists()
        first.sh(f"rm {folder}/lab-mark")
    assert len(first.sh("ps ax").splitlines()) < 12, "another host's processes show"


def test_conf_runs_this_checkout_and_has_no_docker(machines: Lab) -> None:
    assert "ctl" in machines.conf.run("k8slite", "--help")
    assert not machines.conf.path("/run/docker.sock").exists()
    assert set(machines.hosts) == set(ADDRESSES)


def names(made: Lab) -> list[str]:
    """By which everything that a lab makes on the machine can be told from others'."""
    spaces = [host.namespace.name for host in made.hosts.values()]
    return [made.switch.name, *spaces, str(made.directory)]


def traces(of: list[str]) -> dict[str, list[str]]:
    """What a lab may leave on the machine, were it not careful."""
    commands = {
        "namespaces": ["ip", "netns", "list"],
        "mounts": ["cat", "/proc/mounts"],
        "groups": ["find", "/sys/fs/cgroup", "-type", "d", "-name", "k8slite-*"],
        "folders": ["find", tempfile.gettempdir(), "-maxdepth", "1", "-name", "k8slab-*"],
        "disks": ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
    }
    found = {}
    for what, command in commands.items():
        # A folder may be gone while ``find`` looks at it: others' labs come and go.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[what] = [line for line in done.stdout.splitlines() if any(n in line for n in of)]
    return {what: lines for what, lines in found.items() if lines}


DISKS = {"node1": {"/var/lib/small": 8}}
EVERYTHING = {"namespaces", "mounts", "groups", "folders", "disks"}


def test_a_lab_that_fails_half_way_leaves_nothing(machines: Lab) -> None:
    pids: list[int] = []
    mine: list[str] = []

    def broken() -> None:
        with lab(images=False, nodes=1, disks=DISKS) as made:
            made.nodes[0].sh("nohup setsid sleep 1000 >/dev/null 2>&1 &")
            pids.extend(made.nodes[0].processes())
            mine.extend(names(made))
            assert traces(mine).keys() == EVERYTHING
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert traces(mine) == {}
    assert len(pids) > 3
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_lab_that_was_killed_leaves_no_machine_and_the_next_one_sweeps_the_rest(
    machines: Lab,
) -> None:
    program = (
        "from tests.lab.lab import lab\n"
        "from tests.lab.test_lab_hosts import names\n"
        f"with lab(images=False, nodes=1, disks={DISKS}) as made:\n"
        "    print(*names(made), flush=True)\n"
        "    print(*made.nodes[0].processes(), flush=True)\n"
        "    input()\n"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with killed:
        assert killed.stdout is not None
        mine = killed.stdout.readline().split()
        pids = [int(word) for word in killed.stdout.readline().split()]
        assert traces(mine).keys() == EVERYTHING
        killed.kill()
    deadline = time.monotonic() + 20
    while [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Others' labs that begin sweep as well, and who sweeps keeps others out.
    deadline = time.monotonic() + 20
    while sweep() or traces(mine):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert machines.nodes[0].docker("ps"), "a lab that lives is not swept"
