"""A service's address on a whole cluster: it moves when the node that has it dies, be it the only
master, and whichever way it dies."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from tests.lab.docker_host import inside
from tests.lab.host import Host
from tests.lab.lab import Lab, lab

from k8slite.decide.announcing import Offer, candidates

pytestmark = [pytest.mark.lab, pytest.mark.docker, pytest.mark.slow]

POOL = [f"192.168.0.{last}" for last in range(240, 256)]
#: Seconds of silence that are promised when a node dies. The test runs beside others on a busy
#: machine, and asserts twice as much.
PROMISED = 5.0
#: Seconds between two connections of the client, and what each may take.
EVERY, PATIENCE = 0.1, 0.4


class Site:
    """One master and two nodes, all of them with pods; a client on the LAN."""

    def __init__(self, machines: Lab) -> None:
        self.machines = machines
        self.nodes = machines.nodes
        self.master = self.nodes[0]
        self.used: set[str] = set()

    def start(self) -> None:
        own = ("--insecure-allow", "192.168.0.100/32", "--node-grace", "8")
        self._agent(self.master, "--roles", "ai", *own)
        self.until(lambda: bool(self.ask("GET", "/api/v1/nodes")), "the API is up")
        token = self.master.run("k8slite", "token").splitlines()[0]
        for node in self.nodes[1:]:
            server = f"https://{self.master.address}:6443"
            self._agent(node, "--roles", "i", "--server", server, "--token", token)
        self.until(lambda: self.ready() == 3, "all nodes are ready")

    def _agent(self, node: Host, *flags: str) -> None:
        node.serve(
            "agent",
            *(sys.executable, "-m", "k8slite", "agent", "--node-ip", node.address),
            *("--address-pool", "192.168.0.240/28", "--warm-sandboxes", "0", *flags),
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The master, asked from conf; None when nothing is there. Raises OSError."""
        with inside(self.machines.conf.namespace):
            connection = http.client.HTTPConnection(self.master.address, 8080, timeout=3)
            try:
                text = json.dumps(body) if body is not None else None
                connection.request(method, path, text, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = json.load(answer)
            finally:
                connection.close()
        assert answer.status < 300 or answer.status == 404, data
        return None if answer.status == 404 else data

    def ready(self) -> int:
        nodes = self.ask("GET", "/api/v1/nodes")["items"]
        conditions = [c for n in nodes for c in n["status"].get("conditions", [])]
        return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def serve(self, name: str, first: Host) -> str:
        """A service with a pod on every node, whose address is ``first``'s to announce; it."""
        names = [node.address for node in self.nodes]
        address = next(a for a in POOL if candidates(Offer(a, (), True), names)[0] == first.address)
        for node in self.nodes:
            self.ask("POST", "/api/v1/namespaces/default/pods", _pod(name, node))
        self.ask("POST", "/api/v1/namespaces/default/services", _service(name, address))
        self.until(lambda: self.given(name) == address, "the service has its address")
        self.until(lambda: self.endpoints(name) == 3, "three endpoints are ready")
        self.until(lambda: self.believed(address) == first.address, "the first has it")
        return address

    def given(self, name: str) -> str:
        status = self.ask("GET", f"/api/v1/namespaces/default/services/{name}")["status"]
        return ",".join(at["ip"] for at in status["loadBalancer"].get("ingress", []))

    def endpoints(self, name: str) -> int:
        found = self.ask("GET", f"/api/v1/namespaces/default/endpoints/{name}") or {}
        return sum(len(s.get("addresses", [])) for s in found.get("subsets", []))

    def reasons(self, name: str) -> set[str]:
        events = self.ask("GET", "/api/v1/namespaces/default/events")["items"]
        return {e["reason"] for e in events if e["involvedObject"]["name"] == name}

    def believed(self, address: str) -> str:
        """The node that the client takes to have the address; it asks first."""
        fetch(self.machines.conf, address)
        line = self.machines.conf.namespace.ip("neigh", "show", address)
        found = re.search(r"lladdr 02:00:([0-9a-f:]+)", line)
        return ".".join(str(int(part, 16)) for part in found[1].split(":")) if found else ""

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (OSError, http.client.HTTPException, TypeError):
                pass
            if time.monotonic() > deadline:
                logs = "\n".join(f"{n.name}: {n.log('agent')[-1500:]}" for n in self.nodes)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{logs}")
            time.sleep(0.05)


def _pod(name: str, node: Host) -> dict[str, Any]:
    say = f"mkdir /tmp/w; echo {node.address} > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": f"{name}-{node.name}", "labels": {"app": name}},
        "spec": {
            "nodeName": node.address,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": "busybox",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", say],
                }
            ],
        },
    }


def _service(name: str, address: str) -> dict[str, Any]:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerIP": address,
            "selector": {"app": name},
            "ports": [{"port": 80}],
        },
    }


def fetch(client: Host, address: str) -> bool:
    """Whether a fresh connection brings the page."""
    with inside(client.namespace):
        sock = socket.socket()
    with sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect((address, 80))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"200" in sock.recv(1000)
        except OSError:
            return False


class Asking:
    """A client that asks every tenth of a second; the times of its successes."""

    def __init__(self) -> None:
        self.heard: list[float] = [time.monotonic()]
        self.over = threading.Event()

    def run(self, client: Host, address: str) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            if fetch(client, address):
                self.heard.append(time.monotonic())
            self.over.wait(max(0.0, began + EVERY - time.monotonic()))

    @property
    def silence(self) -> float:
        """The longest time between two successes, in seconds."""
        ends = [*self.heard, time.monotonic()]
        return max(later - sooner for sooner, later in pairwise(ends))


@contextmanager
def asking(site: Site, address: str) -> Iterator[Asking]:
    found = Asking()
    thread = threading.Thread(target=found.run, args=(site.machines.conf, address))
    thread.start()
    try:
        yield found
    finally:
        found.over.set()
        thread.join()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with lab(checkout=True) as machines:
        made = Site(machines)
        made.start()
        yield made


def test_without_a_ready_endpoint_the_address_is_silent(site: Site) -> None:
    address = site.serve("shy", site.master)
    for node in site.nodes:
        site.ask("DELETE", f"/api/v1/namespaces/default/pods/shy-{node.name}")
    silent = r"FAILED|INCOMPLETE"

    def nobody_answers() -> bool:
        site.machines.conf.namespace.ip("neigh", "flush", "dev", "eth0")
        fetch(site.machines.conf, address)
        return bool(re.search(silent, site.machines.conf.namespace.ip("neigh", "show", address)))

    site.until(nobody_answers, "nobody answers for it")
    site.until(lambda: "AddressWithdrawn" in site.reasons("shy"), "it is told of")
    site.ask("DELETE", "/api/v1/namespaces/default/services/shy")


def test_an_address_survives_the_agent_the_cable_and_the_machine(site: Site) -> None:
    """The master's agent is killed first: nobody is asked who comes next."""
    master, other = site.nodes[:2]
    address = site.serve("web", master)
    with asking(site, address) as client:
        moves(site, client, address, "kill -9 of the master's agent", lambda: master.kill("agent"))
    master.start("agent")
    site.until(lambda: site.believed(address) == master.address, "it is the master's again")
    assert {"AddressAssigned", "AddressAnnounced"} <= site.reasons("web")

    with asking(site, address) as client:
        moves(site, client, address, "the master's cable is cut", master.cut)
    master.heal()
    site.until(lambda: site.believed(address) == master.address, "it is the master's again")

    address = site.serve("shop", other)
    with asking(site, address) as client:
        moves(site, client, address, "a node's power fails", other.power_off)
    site.until(lambda: "AddressAnnounced" in site.reasons("shop"), "it is told of")


def moves(site: Site, client: Asking, address: str, what: str, deed: Callable[[], None]) -> None:
    """After the deed the address is at another node, and the client is served from there."""
    before = site.believed(address)
    deed()
    site.until(lambda: site.believed(address) not in ("", before), f"{what}: it moves")
    count = len(client.heard)
    site.until(lambda: len(client.heard) > count + 10, f"{what}: it is served")
    print(f"{what}: {client.silence:.1f} s of silence")
    assert client.silence < 2 * PROMISED
