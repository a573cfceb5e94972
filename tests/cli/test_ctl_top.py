"""``top``: what services do, and what pods and nodes use, told by the nodes."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import Ctl

from cluster import NODE as NODE_NAME
from cluster import Cluster, free_ports
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import (
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeDaemonEndpoints,
    NodeStatus,
)
from k8slite.api.meta import ObjectMeta
from k8slite.cli.ctl import asking
from k8slite.cli.ctl.top import count, duration, size
from k8slite.client.http import HttpClient
from k8slite.decide.balancing import Endpoint
from k8slite.roles.kubelet.runtime import Usage

A, B, GONE = (Endpoint("172.16.5.2", port) for port in (80, 81, 82))


@pytest.fixture(autouse=True)
def serving(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The node serves two services; nothing happens but what a test does."""
    monkeypatch.setattr(asking, "INTERVAL", 0.05)
    proxy = cluster.proxy
    proxy.serve("default/web:http", A, B).failed(B, 1e12)  # ejected, whatever the time
    proxy.serve("kube-system/dns:dns", A)
    port = proxy.counters.of("default/web:http")
    port.unserved = 2
    did = port.of(A)
    did.connections, did.active, did.connect_seconds = 1000, 3, 0.21
    did.received, did.sent = 1500, 48_000_000
    port.of(B).failures = 7
    port.of(GONE).connections = port.of(GONE).active = 1
    yield
    proxy.served.clear()
    proxy.counters.ports.clear()


@contextmanager
def happening(cluster: Cluster) -> Iterator[None]:
    """Somebody connects again and again."""
    over = threading.Event()
    did = cluster.proxy.counters.of("default/web:http").of(A)

    def connect() -> None:
        while not over.wait(0.001):
            did.connections += 1

    busy = threading.Thread(target=connect)
    busy.start()
    try:
        yield
    finally:
        over.set()
        busy.join()


def test_totals_are_shown_once(ctl: Ctl) -> None:
    found = ctl("top", "services", "--once")
    assert found.code == 0
    assert found.rows == [
        ["NAME", "PORT", "ENDPOINTS", "CONNECTIONS", "ACTIVE", "IN", "OUT", "CONNECT", "FAILED",
         "REFUSED"],
        ["web", "80/TCP", "2", "1001", "4", "1.5kB", "48MB", "0.21ms", "7", "2"],
    ]  # fmt: skip


def test_rates_are_of_two_looks(ctl: Ctl, cluster: Cluster) -> None:
    with happening(cluster):
        found = ctl("top", "services", "web", "--no-headers")
    [[name, _, _, rate, active, received, *_]] = found.rows
    assert (name, active, received) == ("web", "4", "0")
    assert float(rate) > 0


def test_endpoints_stand_below_their_service(ctl: Ctl) -> None:
    found = ctl("top", "services", "web", "--endpoints", "--once")
    assert [line.split()[0] for line in found.lines[2:]] == [
        "172.16.5.2:80",
        "172.16.5.2:81",
        "172.16.5.2:82",
    ]
    assert found.lines[0].endswith("STATE")
    assert found.lines[3].endswith("ejected")
    assert found.lines[4].endswith("leaving")


def test_other_namespaces_are_shown_when_asked_for(ctl: Ctl) -> None:
    assert [row[0] for row in ctl("top", "services", "--once", "-n", "kube-system").rows] == [
        "NAME",
        "dns",
    ]
    everywhere = ctl("top", "svc", "--once", "--all-namespaces").rows
    assert [row[:2] for row in everywhere] == [
        ["NAMESPACE", "NAME"],
        ["default", "web"],
        ["kube-system", "dns"],
    ]


def test_json_has_all_numbers(ctl: Ctl) -> None:
    [row] = json.loads(ctl("top", "services", "-o", "json", "--endpoints").out)["items"]
    assert row["port"] == {"name": "http", "number": 80, "protocol": "TCP"}
    assert (row["total"]["connections"], row["active"], row["total"]["unserved"]) == (1001, 4, 2)
    assert row["perSecond"]["connections"] == 0
    assert [end["address"] for end in row["endpoints"]] == [f"172.16.5.2:{n}" for n in (80, 81, 82)]
    assert row["endpoints"][1]["ejectedOn"] == 1


def test_a_service_without_numbers_is_explained(ctl: Ctl) -> None:
    found = ctl("top", "services", "web", "nosuch", "kubernetes", "--once")
    assert (found.code, len(found.lines)) == (1, 2)
    assert 'services "nosuch" not found' in found.err
    assert "no node serves kubernetes" in found.err
    assert "no output" not in found.err
    assert "top knows json and yaml" in ctl("top", "services", "-o", "wide").err


def test_a_node_that_does_not_answer_is_named_and_the_rest_is_shown(
    ctl: Ctl, cluster: Cluster
) -> None:
    [closed] = free_ports(1)
    silent = Node(
        metadata=ObjectMeta(name="silent"),
        status=NodeStatus(
            addresses=(NodeAddress(type="InternalIP", address="127.0.0.1"),),
            daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=closed)),
        ),
    )

    async def join() -> None:
        async with HttpClient(cluster.server) as client:
            await client.create(silent)
            there = await client.get(NODE, "silent")
            await client.update(
                Node(metadata=there.metadata, status=silent.status), subresource="status"
            )

    async def leave() -> None:
        async with HttpClient(cluster.server) as client:
            await client.delete(NODE, "silent")

    cluster.do(join)
    try:
        found = ctl("top", "services", "web")
    finally:
        cluster.do(leave)
    assert (found.code, len(found.lines)) == (1, 2)
    assert found.err.startswith("Error: node silent says nothing: error trying to reach")
    assert found.err.count("\n") == 1


def test_pods_and_nodes_show_what_they_use(
    ctl: Ctl, cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = itertools.count(1)

    async def usage(id: str) -> Usage:
        return Usage(cpu=next(spent) * 10_000_000, memory=34 << 20)

    monkeypatch.setattr(cluster.runtime, "usage", usage)
    assert ctl("run-container", "web", "--image=nginx", "-n", namespace).code == 0
    for _ in range(100):  # until the node runs it, and did at the first look
        pods = ctl("top", "pods", "--no-headers", "-n", namespace).rows
        if pods and pods[0][1] != "<unknown>":
            break
    [[name, cores, memory]] = pods
    assert name.startswith("web-")
    assert int(cores.removesuffix("m")) > 0
    assert memory == "34Mi"
    [[_, container, *_]] = ctl(
        "top", "pods", name, "--containers", "--no-headers", "-n", namespace
    ).rows
    assert container == "web"
    assert [namespace, name] in [row[:2] for row in ctl("top", "pods", "-A").rows]
    assert 'pods "nosuch" not found' in ctl("top", "pods", "nosuch").err

    titles, [node, cores, share, memory, of_memory] = ctl("top", "nodes").rows
    assert titles == ["NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"]
    assert (node, cores[-1], share[-1], memory[-2:], of_memory[-1]) == (NODE_NAME, *"m%", "Mi", "%")
    assert 'nodes "nosuch" not found' in ctl("top", "nodes", "nosuch").err


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(0), "0"), (count(0.04), "0.0"), (count(3.25), "3.2"), (count(3), "3"),
        (count(1204.4), "1204"),
        (size(0), "0"), (size(512), "512B"), (size(999.6), "1.0kB"), (size(48.2e6), "48MB"),
        (size(3.2e15), "3200TB"),
        (duration(None), "-"), (duration(0.00021), "0.21ms"), (duration(0.9999), "1.0s"),
        (duration(0.0351), "35ms"), (duration(12.3), "12s"),
    ],
)  # fmt: skip
def test_numbers_are_short(shown: str, expected: str) -> None:
    assert shown == expected
