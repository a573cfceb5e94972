"""A cluster of two nodes in the mode nft: pods learn who their clients are and reach themselves."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from tests.lab.docker_host import inside
from tests.lab.network import Namespace, Switch
from tests.network.hosts import OUTSIDE, until
from tests.network.test_joined_nodes import MASTER, NODE, Machine, call, machines_on, pod

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

PORT = 30080
WHO = (
    "mkdir -p /tmp/cgi-bin; cd /tmp/cgi-bin; "
    "printf '#!/bin/sh\\necho\\necho $HOSTNAME $REMOTE_ADDR\\n' > who; chmod +x who; "
    "exec httpd -f -p 80 -h /tmp"
)


def web_pod(node: str) -> dict[str, Any]:
    made = pod(f"on-{node}", node)
    made["metadata"]["labels"] = {"app": "web"}
    made["spec"]["containers"][0]["command"] = ["sh", "-c", WHO]
    return made


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "nodePort": PORT}],
    },
}


def heard(found: dict[str, str], answer: str) -> None:
    """Put down which pod answered and who it says that the client is."""
    name, client = answer.split()
    found[name] = client.strip("[]").removeprefix("::ffff:")


def told(host: Namespace, address: str, port: int) -> dict[str, str]:
    """Which pods answered, and who each says that the client is."""
    found = {}
    for _ in range(4):
        with (
            inside(host),
            urllib.request.urlopen(f"http://{address}:{port}/cgi-bin/who", timeout=5) as answer,
        ):
            heard(found, answer.read().decode())
    return found


def test_pods_know_their_clients_and_reach_themselves() -> None:
    with Switch() as switch, Namespace("outside") as outside, machines_on(switch) as machines:
        switch.connect(outside, f"{OUTSIDE}/24")
        master, node = machines
        master.agent(MASTER, "--proxy-mode", "nft")
        until(lambda: call(master, "/join/token"), 30)
        token = call(master, "/join/token")["token"]
        node.agent(
            NODE, "--roles", "i", "--server", f"https://{MASTER}:6443", "--token", token,
            "--proxy-mode", "nft",
        )  # fmt: skip
        until(lambda: call(master, f"/api/v1/nodes/{NODE}"), 30)
        for where in (MASTER, NODE):
            until(lambda where=where: call(
                master, "/api/v1/namespaces/default/pods", web_pod(where)
            ), 20)  # fmt: skip
        until(lambda: call(master, "/api/v1/namespaces/default/services", SERVICE), 20)

        def addresses() -> list[str]:
            found = call(master, "/api/v1/namespaces/default/endpoints/web") or {}
            return [a["ip"] for s in found.get("subsets", ()) for a in s.get("addresses", ())]

        until(lambda: len(addresses()) == 2, 40)
        portal = call(master, "/api/v1/namespaces/default/services/web")["spec"]["clusterIP"]
        until(lambda: serves_both(outside), 20)

        from_outside = told(outside, MASTER, PORT)
        assert from_outside[f"on-{MASTER}"] == OUTSIDE
        assert from_outside[f"on-{NODE}"].startswith(("172.16.0.", MASTER))
        ours, theirs = sorted(addresses())  # 172.16.0.x is the master's
        assert asked(master, portal) == {f"on-{MASTER}": "172.16.0.1", f"on-{NODE}": ours}
        assert asked(node, portal) == {f"on-{MASTER}": theirs, f"on-{NODE}": "172.16.1.1"}


def serves_both(outside: Namespace) -> bool:
    try:
        return len(told(outside, MASTER, PORT)) == len(told(outside, NODE, PORT)) == 2
    except OSError:
        return False


def asked(machine: Machine, portal: str) -> dict[str, str]:
    """The same, asked by the pod of a machine."""
    label = "label=io.k8slite.kind=container"
    [container] = machine.docker.docker("ps", "-q", "-f", label).split()
    found: dict[str, str] = {}
    for _ in range(4):
        ask = f"printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc {portal} 80 | tail -n 1"
        answer = machine.docker.docker("exec", container, "sh", "-c", ask)
        heard(found, answer)
    return found
