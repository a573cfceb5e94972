"""Six replicas come back to six, whatever is killed; what was not killed is not touched."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.lab.site import Site, site

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("recovery")) as host:
        try:
            host.up()
            host.ctl("run-container", "nginx", "--image=nginx", "--port=80", "--replicas=6")
            eventually(lambda: len(running(host)) == 6)
            yield host
        finally:
            host.down()


def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def running(host: Site) -> dict[str, str]:
    """Pod name → container id, of the pods that are Ready."""
    pods = json.loads(host.ctl("get", "pods", "-l", "run-container=nginx", "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["containerID"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod["status"].get("conditions", [])
        )
    }


def sandboxes(host: Site) -> dict[str, str]:
    """Engine id → start time of everything that belongs to the six pods."""
    ids = host.docker.docker("ps", "-q", "--filter", "name=k8s_").split()
    rows = json.loads(host.docker.docker("inspect", *ids))
    return {row["Id"]: row["State"]["StartedAt"] for row in rows if "_nginx-" in row["Name"]}


def test_a_killed_container_comes_back_in_its_pod(host: Site) -> None:
    before = running(host)
    victim, container = sorted(before.items())[0]
    host.docker.docker("kill", container.removeprefix("docker://"))
    eventually(lambda: running(host).get(victim, container) != container)
    eventually(lambda: len(running(host)) == 6)
    after = running(host)
    assert {p: c for p, c in after.items() if p != victim} == {
        p: c for p, c in before.items() if p != victim
    }


def test_a_deleted_pod_is_replaced(host: Site) -> None:
    before = running(host)
    victim = sorted(before)[0]
    host.ctl("delete", "pod", victim)
    eventually(lambda: victim not in running(host) and len(running(host)) == 6)
    after = running(host)
    assert {p: c for p, c in before.items() if p != victim}.items() <= after.items()


def test_kill_9_of_the_agent_touches_no_container(host: Site) -> None:
    before, engine = running(host), sandboxes(host)
    record = json.loads((host.data_dir / "host.json").read_text())
    os.kill(record["agent_pid"], signal.SIGKILL)
    host.up()
    eventually(lambda: running(host) == before)
    assert sandboxes(host) == engine
    portal_pods = host.ctl("get", "rc", "nginx", "-o", "jsonpath={.status.readyReplicas}")
    assert portal_pods.strip() == "6"


def test_a_container_killed_while_the_agent_is_dead_is_restarted(host: Site) -> None:
    before = running(host)
    victim, container = sorted(before.items())[-1]
    record = json.loads((host.data_dir / "host.json").read_text())
    os.kill(record["agent_pid"], signal.SIGKILL)
    host.docker.docker("kill", container.removeprefix("docker://"))
    host.up()
    eventually(lambda: running(host).get(victim, container) != container)
    eventually(lambda: len(running(host)) == 6)
    after = running(host)
    assert {p: c for p, c in after.items() if p != victim} == {
        p: c for p, c in before.items() if p != victim
    }


def test_docker_stopped_under_the_agent_makes_the_node_not_ready_until_it_is_back(
    host: Site,
) -> None:
    def ready() -> str:
        return host.ctl(
            "get",
            "nodes",
            "-o",
            'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}',
        ).strip()

    assert ready() == "True"
    host.docker.stop()
    eventually(lambda: ready() == "False")
    host.docker.start()
    eventually(lambda: ready() == "True")
    eventually(lambda: len(running(host)) == 6)
