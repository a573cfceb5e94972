"""Each verb does what it says to the part it names, and its counterpart undoes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.lab.host import Host
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.docker]

#: Prints the time of day ten times a second, as a program of the C library sees it.
CLOCK = "while :; do date +%s; sleep 0.1; done"


@pytest.fixture
def node(machines: Lab) -> Host:
    return machines["node1"]


def reaches(host: Host, other: Host) -> bool:
    answer = host.run("busybox", "ping", "-c", "1", "-W", "1", other.address, check=False)
    return "1 packets received" in answer


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_frozen_part_stands_still_with_its_children_and_goes_on_when_thawed(node: Host) -> None:
    (daemon,) = node.pids("dockerd")
    node.freeze("dockerd")
    frozen = [pid for pid in node.processes() if state(pid) == "T"]
    node.thaw("dockerd")
    assert daemon in frozen
    assert len(frozen) >= 2, "dockerd and its containerd"
    assert node.docker("ps") is not None
    assert [pid for pid in node.processes() if state(pid) == "T"] == []


def test_a_killed_part_is_gone_until_it_is_started(machines: Lab, node: Host) -> None:
    (other,) = machines["node2"].pids("dockerd")
    node.kill("dockerd")
    assert node.pids("dockerd") == []
    assert not node.docker_answers()
    assert machines["node2"].pids("dockerd") == [other]
    node.start("dockerd")
    assert node.docker("ps")


def test_docker_restarts(node: Host) -> None:
    before = node.pids("dockerd")
    node.restart_docker()
    assert node.pids("dockerd") != before
    assert node.docker("ps")


def test_a_cut_host_is_alone_until_it_is_healed(machines: Lab, node: Host) -> None:
    second, third = machines["node2"], machines["node3"]
    node.cut()
    assert not reaches(node, second)
    assert not reaches(second, node)
    until(lambda: reaches(second, third))
    node.heal()
    until(lambda: reaches(node, second) and reaches(third, node))


def test_a_slow_cable_delays_loses_and_throttles(machines: Lab, node: Host) -> None:
    second = machines["node2"]

    def round_trip_ms() -> float:
        """The shortest of some: a busy machine makes others longer."""
        line = node.run("busybox", "ping", "-c", "5", "-i", "0.1", second.address).splitlines()[-1]
        return float(line.split(" = ")[1].split("/")[0])

    def received() -> int:
        words = ("busybox", "ping", "-c", "50", "-i", "0.01", "-W", "1", second.address)
        answer = node.run(*words, check=False)
        return int(answer.split(" packets received")[0].split()[-1])

    node.slow(delay=0.05)
    assert round_trip_ms() >= 99
    node.fast()
    assert round_trip_ms() < 50
    node.slow(loss=0.3)
    assert 10 < received() < 45
    node.fast()
    assert received() == 50
    node.sh("dd if=/dev/urandom of=/tmp/load bs=1M count=2 2>&1; chmod 644 /tmp/load")
    sent = node.sh("md5sum /tmp/load").split()[0]
    node.slow(rate=2e6)  # and checksums and large segments survive the way
    began = time.monotonic()
    received_sum = machines.conf.sh(f"ssh core@{node.address} cat /tmp/load | md5sum").split()[0]
    assert received_sum == sent
    assert time.monotonic() - began > 0.9
    node.fast()


def test_a_reboot_ends_everything_keeps_the_disk_and_starts_what_is_installed(
    machines: Lab, node: Host
) -> None:
    node.sh(
        "echo kept >/var/lib/kept; echo lost >/run/lost; ip link add left type dummy", check=False
    )
    node.sh("iptables -N LEFT")
    node.docker("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    script = node.path("/etc/init.d/k8slite-probe")
    script.write_text("#!/bin/sh\n[ $1 = start ] && date >/run/installed\n")
    script.chmod(0o755)
    node.serve("pulse", "sleep", "4000")
    before = set(node.processes())
    node.reboot()
    assert not before & set(node.processes())
    assert node.path("/var/lib/kept").read_text() == "kept\n"
    assert not node.path("/run/lost").exists()
    assert "LEFT" not in node.run("iptables-save")
    assert node.path("/run/installed").exists()
    until(lambda: "sleep 4000" in node.processes().values())
    assert node.docker("inspect", "--format", "{{.State.Running}}", "web") == "false"
    until(lambda: reaches(machines["node2"], node))
    assert machines.ssh(node, "hostname").strip() == "node1"
    node.services.clear()
    script = node.path("/etc/init.d/k8slite-probe")
    script.unlink()
    node.docker("rm", "web")


def test_a_full_disk_takes_no_byte_until_it_is_freed(machines: Lab) -> None:
    host = machines["node3"]
    words = "echo more > /var/lib/small/file && echo written"
    host.fill_disk("/var/lib/small")
    assert host.sh(words, check=False) == ""
    assert host.sh("echo elsewhere > /var/lib/file && echo written") == "written\n"
    host.free_disk("/var/lib/small")
    assert host.sh(words) == "written\n"


@pytest.fixture
def clocked(node: Host) -> Iterator[Host]:
    node.serve("clock", "bash", "-c", CLOCK, **node.own_clock)
    yield node
    node.jump_clock(0)
    node.services.pop("clock")
    for pid, line in node.processes().items():
        if CLOCK in line:
            with suppress(OSError):  # it may be gone
                status = Path(f"/proc/{pid}/status").read_text()
                node.run("kill", "-9", status.split("NSpid:")[1].split()[1], check=False)


def test_the_clock_jumps_for_those_who_live_by_it_and_only_on_this_host(clocked: Host) -> None:
    def ahead() -> float:
        return int((clocked.log("clock").split() or ["0"])[-1]) - time.time()

    until(lambda: abs(ahead()) < 5)
    clocked.jump_clock(3600)
    until(lambda: abs(ahead() - 3600) < 5)
    clocked.jump_clock(-3600)
    until(lambda: abs(ahead() + 3600) < 5)
    clocked.jump_clock(0)
    until(lambda: abs(ahead()) < 5)


def test_mending_undoes_whatever_was_done(machines: Lab) -> None:
    host = machines["node3"]
    host.freeze("dockerd")
    host.fill_disk("/var/lib/small")
    host.slow(delay=0.01)
    host.jump_clock(60)
    host.cut()
    host.mend()
    until(lambda: reaches(machines.conf, host))
    assert host.docker("ps") is not None
    assert host.sh("echo more > /var/lib/small/file && cat /etc/faketimerc") == "+0\n"
