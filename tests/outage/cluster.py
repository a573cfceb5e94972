"""Three machines, each a master, a node and a member of etcd; patience shortened."""

from __future__ import annotations

import http.client
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from tests.lab.docker_host import inside
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.outage.history import violations
from tests.outage.witness import Witness, hold

from k8slite.api import codec
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.replicationcontroller.types import ReplicationController

ETCD_DISK = "/var/lib/k8slite/etcd"
ELECTION = "/k8slite/data/registry/leases/elections/control-plane"
#: Seconds, where an ordinary cluster has 40 and 300.
GRACE, EVICTION = 8.0, 10.0
#: Seconds, as promised for a master's death. The tests run beside others on a busy machine, and
#: assert twice as much.
API_BACK, SCHEDULING_BACK = 5.0, 15.0
#: Seconds for which the API's answers are looked at: silence that is too long fits in.
API_WATCHED = 3 * API_BACK
REPLICAS = 3

_CONTROLLER: dict[str, Any] = {
    "kind": "ReplicationController",
    "apiVersion": "v1",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": REPLICAS,
        "selector": {"app": "web"},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "main",
                        "image": "busybox",
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "100000"],
                    }
                ],
            },
        },
    },
}


class Refused(AssertionError):
    """An answer that says no, or that nobody knows (504)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Cluster:
    """``start`` makes it; questions are asked from conf, of whichever master answers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.nodes
        self.servers = [f"http://{node.address}:8080" for node in self.nodes]
        self._number = 0

    def start(self) -> None:
        for node in self.nodes:
            self._start_etcd(node)
        for node in self.nodes:
            node.until(partial(self.etcd_healthy, node), "has a healthy member of etcd")
        for node in self.nodes:
            self._start_agent(node)
        self.wait_whole()

    def _start_etcd(self, node: Host) -> None:
        own = f"http://{node.address}"
        members = ",".join(f"{n.name}=http://{n.address}:2380" for n in self.nodes)
        node.serve(
            "etcd",
            *("etcd", "--name", node.name, "--data-dir", f"{ETCD_DISK}/data"),
            *("--listen-peer-urls", f"{own}:2380", "--initial-advertise-peer-urls", f"{own}:2380"),
            *("--listen-client-urls", f"{own}:2379", "--advertise-client-urls", f"{own}:2379"),
            *("--initial-cluster", members, "--initial-cluster-state", "new"),
            *("--logger", "zap", "--log-level", "warn"),
        )

    def _start_agent(self, node: Host) -> None:
        endpoints = ",".join(f"http://{n.address}:2379" for n in self.nodes)
        node.serve(
            "agent",
            *(sys.executable, "-m", "k8slite", "agent", "--roles", "ai", "--etcd", endpoints),
            *("--node-ip", node.address, "--insecure-allow", "192.168.0.100/32"),
            *("--node-grace", str(GRACE), "--eviction-timeout", str(EVICTION)),
            *("--warm-sandboxes", "0", "--data-dir", "/var/lib/k8slite"),
            **node.own_clock,
        )

    # -- deeds

    def make_pod(self, namespace: str, name: str) -> None:
        spec = _CONTROLLER["spec"]["template"]["spec"]
        self.create(
            f"/api/v1/namespaces/{namespace}/pods",
            {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec},
        )

    def write_until(self, condition: Callable[[], bool], namespace: str) -> None:
        """Write large objects, as etcd grows by them, until something gives way."""
        for number in range(400):
            if condition():
                return
            self.create(
                f"/api/v1/namespaces/{namespace}-large/configmaps",
                {
                    "kind": "ConfigMap",
                    "apiVersion": "v1",
                    "metadata": {"name": f"large-{number}"},
                    "data": {"large": secrets.token_hex(400_000)},
                },
            )
        raise AssertionError("400 large objects made no difference")

    def mend(self) -> None:
        """Undo what a test that failed has left undone."""
        for node in self.nodes:
            node.mend()
            for part in node.services:
                if not node.pids(part):
                    node.start(part)

    # -- questions

    def create(self, path: str, body: Any) -> None:
        """Until it is known to be there: when a member of etcd goes, answers get lost."""
        for _ in range(20):
            try:
                self.ask("POST", path, body)
            except Refused as refusal:
                if refusal.status == HTTPStatus.CONFLICT:
                    return
                if refusal.status != HTTPStatus.GATEWAY_TIMEOUT:
                    raise
                time.sleep(0.2)
            else:
                return
        raise AssertionError(f"POST {path}: nobody knows whether it happened")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the first master that takes it; the answer as JSON. Raises OSError when
        none does, LookupError when nothing is there, Refused for anything else."""
        failure: Exception = OSError("no master")
        with inside(self.lab.conf.namespace):
            for node in self.nodes:
                connection = http.client.HTTPConnection(node.address, 8080, timeout=3)
                try:
                    headers = {"Content-Type": "application/json"}
                    text = json.dumps(body) if body is not None else None
                    connection.request(method, path, text, headers)
                    answer = connection.getresponse()
                    data = answer.read()
                except (OSError, http.client.HTTPException) as error:
                    failure = error
                    continue
                finally:
                    connection.close()
                if answer.status == 503:
                    failure = OSError(data.decode())
                    continue
                if answer.status == 404:
                    raise LookupError(f"{method} {path}: {data!r}")
                if answer.status >= 300:
                    raise Refused(answer.status, f"{method} {path}: {answer.status} {data!r}")
                return json.loads(data)
        raise OSError(f"no master answers: {failure}")

    def ready(self) -> dict[str, bool]:
        """Node → does it call itself ready, and is it believed?"""
        found = {}
        for item in self.ask("GET", "/api/v1/nodes")["items"]:
            states = {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
            found[item["metadata"]["name"]] = states.get("Ready") == "True"
        return found

    def pods(self, namespace: str) -> dict[str, Any]:
        """uid → pod; those that are being deleted are left out."""
        items = self.ask("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        alive = [item for item in items if not item["metadata"].get("deletionTimestamp")]
        return {item["metadata"]["uid"]: item for item in alive}

    def is_bound(self, namespace: str, name: str) -> bool:
        pod = self.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        return bool(pod["spec"].get("nodeName"))

    def running(self, namespace: str, *, off: Host | None = None) -> bool:
        """Does every pod run that the controller asks for (on nodes other than ``off``)?"""
        path = f"/api/v1/namespaces/{namespace}/replicationcontrollers/web"
        wanted = self.ask("GET", path)["spec"]["replicas"]
        pods = self.pods(namespace).values()
        good = [pod for pod in pods if pod["status"].get("phase") == "Running" and _is_ready(pod)]
        if off is not None:
            good = [pod for pod in good if pod["spec"].get("nodeName") != off.address]
        return len(good) == wanted == len(pods)

    def containers(self, namespace: str) -> dict[str, list[str]]:
        """pod's uid → the machines on which a container of it runs, as Docker has it."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            names = node.docker("ps", "--format", "{{.Names}}").split()
            for name in names:
                _, container, _, space, uid, *_ = [*name.split("_"), *[""] * 6]
                if space == namespace and container.split(".")[0] == "main":
                    found.setdefault(uid, []).append(node.name)
        return found

    def pods_on(self, node: Host, namespace: str) -> set[str]:
        """uids of the pods that run there, by Docker's word."""
        return {uid for uid, on in self.containers(namespace).items() if node.name in on}

    def runs_each_pod_once(self, namespace: str) -> bool:
        """Docker runs what the API says: every pod on one machine, and nothing that is gone."""
        running = self.containers(namespace)
        return set(running) == set(self.pods(namespace)) and all(
            len(machines) == 1 for machines in running.values()
        )

    def serves(self, node: Host) -> bool:
        """Is this master itself well?"""
        with inside(self.lab.conf.namespace):
            connection = http.client.HTTPConnection(node.address, 8080, timeout=3)
            try:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
            finally:
                connection.close()

    def leader(self) -> Host | None:
        """The master that leads, by etcd's word."""
        for node in self.nodes:
            words = ("--command-timeout=2s", "get", "--print-value-only", ELECTION)
            value = self.etcdctl(node, *words)
            if value:
                address = json.loads(value)["holder"].split(":")[0]
                return next(n for n in self.nodes if n.address == address)
        return None

    def etcdctl(self, node: Host, *words: str) -> str:
        """etcd's own client against one member; "" when it fails."""
        endpoint = f"--endpoints=http://{node.address}:2379"
        return node.run("env", "ETCDCTL_API=3", "etcdctl", endpoint, *words, check=False).strip()

    def etcd_healthy(self, node: Host) -> bool:
        return "true" in self.etcdctl(
            node, "--command-timeout=2s", "-w", "json", "endpoint", "health"
        )

    def etcd_leads(self, node: Host) -> bool:
        answer = self.etcdctl(node, "-w", "json", "endpoint", "status")
        if not answer:
            return False
        (status,) = [entry["Status"] for entry in json.loads(answer)]
        return bool(status["header"]["member_id"] == status["leader"])

    # -- waiting

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> float:
        """Wait; how long it took, in seconds."""
        began = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - began
            except (OSError, LookupError, http.client.HTTPException):
                pass
            if time.monotonic() > began + seconds:
                logs = "\n".join(f"{n.name}: {n.log('agent')[-1500:]}" for n in self.nodes)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{logs}")
            time.sleep(0.1)

    def wait_whole(self) -> None:
        """All members, masters and nodes are well, and somebody leads."""
        for node in self.nodes:
            self.until(partial(self.etcd_healthy, node), f"{node.name}'s etcd is healthy")
        names = {node.address for node in self.nodes}
        self.until(lambda: self.ready() == dict.fromkeys(names, True), "all nodes are ready")
        self.until(lambda: self.leader() is not None, "a master leads")
        for node in self.nodes:
            self.until(partial(self.serves, node), f"{node.name} serves the API")

    # -- the witness

    @contextmanager
    def witnessed(self) -> Iterator[Witness]:
        """A witness writes, scales and watches; once this is left, all it was told was true."""
        self._number += 1
        namespace = f"outage-{self._number}"
        witness = Witness(self.servers, namespace)
        scale = codec.from_raw(_CONTROLLER, kind=SCHEME.of(ReplicationController)).object
        try:
            with hold(witness, partial(inside, self.lab.conf.namespace), scale):
                self.until(lambda: self.running(namespace), "the first pods run")
                yield witness
                self.until(
                    lambda: len(witness.history.acknowledged()) > 50,
                    "the witness was told enough to judge by",
                )
        finally:
            self.ask("DELETE", f"/api/v1/namespaces/{namespace}")
        for plural, history in witness.histories.items():
            assert violations(history) == [], plural


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
