"""What the proxy shows of its services: to Prometheus, and to the node API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tests.proxy.served import Node
from tests.proxy.test_portals import PORTAL, NewEdge, greeters
from tests.proxy.world import Net, ask, endpoints_object, running, until

from k8slite.api.servicestats import ServiceStats
from k8slite.decide.balancing import Endpoint

A, B, GONE = (Endpoint("172.16.1.1", number) for number in (80, 81, 82))


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def samples(text: bytes) -> dict[str, float]:
    """``family{service,endpoint}`` → value, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = [sample.labels[k] for k in ("service", "endpoint") if k in sample.labels]
            found[f"{sample.name}{{{','.join(labels)}}}"] = sample.value
    return found


def busy() -> Node:
    node = Node()
    balancer = node.serve("default/web:http", A, B)
    node.serve("other/idle:", A)
    port = node.counters.of("default/web:http")
    port.unserved = 3
    did = port.of(A)
    did.connections, did.active, did.connect_seconds, did.sent, did.received = 10, 2, 0.5, 70, 7
    port.of(B).failures = 4
    balancer.failed(B, time.monotonic())
    left = port.of(GONE)
    left.connections = left.active = 1
    return node


async def test_prometheus_reads_services_and_endpoints() -> None:
    found = samples(await whole(busy().report.metrics()))
    service, end = "k8slite_proxy_service_", "k8slite_proxy_endpoint_"
    assert found[service + "connections_total{web}"] == 11
    assert found[service + "connections_active{web}"] == 3
    assert found[service + "unserved_total{web}"] == 3
    assert found[service + "endpoints{web}"] == 2
    assert found[service + "connections_total{idle}"] == 0
    assert found[end + "connect_seconds_total{web,172.16.1.1:80}"] == 0.5
    assert found[end + "sent_bytes_total{web,172.16.1.1:80}"] == 70
    assert found[end + "ejected{web,172.16.1.1:80}"] == 0
    assert found[end + "connect_failures_total{web,172.16.1.1:81}"] == 4
    assert found[end + "ejected{web,172.16.1.1:81}"] == 1
    assert found[end + "weight{web,172.16.1.1:82}"] == 0  # gone, with a connection still
    assert not any("{idle,172.16.1.1" in name for name in found)
    assert found["k8slite_proxy_rule_failures_total{}"] == 0


async def test_json_tells_the_same_of_what_was_asked_for() -> None:
    report = busy().report

    async def asked(*args: object, endpoints: bool = False) -> ServiceStats:
        body = await whole(report.stats(*args, endpoints=endpoints))  # type: ignore[arg-type]
        return msgspec.json.decode(body, type=ServiceStats)

    everything = await asked()
    assert (everything.node, everything.seconds > 0) == ("n1", True)
    assert [(row.namespace, row.service) for row in everything.items] == [
        ("default", "web"),
        ("other", "idle"),
    ]
    web = everything.items[0]
    assert (web.port_name, web.port, web.protocol, web.endpoints_in_use) == ("http", 80, "TCP", 2)
    assert (web.connections, web.active, web.unserved, web.failures) == (11, 3, 3, 4)
    assert web.endpoints == ()
    [idle] = (await asked("other", endpoints=True)).items
    assert [end.address for end in idle.endpoints] == ["172.16.1.1:80"]
    [web] = (await asked("default", frozenset(("web", "db")), endpoints=True)).items
    assert [(e.address, e.ejected, e.weight) for e in web.endpoints] == [
        ("172.16.1.1:80", False, 1.0),
        ("172.16.1.1:81", True, 1.0),
        ("172.16.1.1:82", False, 0.0),
    ]
    assert (await asked("default", frozenset(("db",)))).items == ()


async def test_many_endpoints_are_shown_a_slice_at_a_time() -> None:
    """5,000 services and 50,000 endpoints are ten times this; what counts is the longest slice."""
    node = Node()
    for service in range(500):
        ends = [Endpoint(f"172.16.{service // 250}.{service % 250}", n) for n in range(10)]
        node.serve(f"default/web{service}:", *ends)
        for endpoint in ends:
            node.counters.of(f"default/web{service}:").of(endpoint).connections += 1
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    text = await whole(node.report.metrics())
    beside.cancel()
    assert text.count(b"\nk8slite_proxy_endpoint_connections_total{") == 5000
    assert turns > 5000 * 8 / 1000


def test_metrics_are_served_beside_healthz(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, health_port=10249) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            assert await ask(PORTAL, 80) == b"0"
            await until(lambda: world.proxy.counters.ports["default/web:"].active == 0)
            async with aiohttp.ClientSession() as session:
                async with session.get("http://127.0.0.1:10249/metrics") as answer:
                    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                    found = samples(await answer.read())
            end = f"{{web,127.0.0.1:{endpoints[0][1]}}}"
            assert found[f"k8slite_proxy_endpoint_connections_total{end}"] == 1
            assert found[f"k8slite_proxy_endpoint_sent_bytes_total{end}"] == 1
            assert found[f"k8slite_proxy_endpoint_connect_seconds_total{end}"] > 0
            await world.put(endpoints_object("web", []))
            await until(lambda: world.proxy.settled)
            text = await whole(world.proxy.report.metrics())
            assert samples(text)["k8slite_proxy_service_connections_total{web}"] == 1

    net.node.do(story())
