"""Which addresses stand behind a service."""

from __future__ import annotations

import random

from cluster_objects import WEB, pod, service

from k8slite.api.kinds.endpoints.types import EndpointSubset
from k8slite.api.kinds.pod.types import ContainerPort, Pod
from k8slite.api.kinds.service.types import ServicePort
from k8slite.decide.endpoints import subsets

HTTP = ServicePort(name="http", port=80, target_port="web", protocol="TCP")
PLAIN = ServicePort(port=80, target_port=8080, protocol="TCP")


def running(name: str, ip: str, *, ready: bool = True, web: int = 8080, **more: object) -> Pod:
    return pod(
        name, labels=WEB, ip=ip, ready=ready, phase="Running",
        ports=(ContainerPort(name="web", container_port=web, protocol="TCP"),), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def shape(found: tuple[EndpointSubset, ...]) -> list[tuple[list[str], list[str], list[int]]]:
    return [
        (
            [a.ip for a in subset.addresses],
            [a.ip for a in subset.not_ready_addresses],
            [p.port for p in subset.ports],
        )
        for subset in found
    ]


def test_ready_pods_are_addresses_the_others_are_not_ready() -> None:
    found = subsets(
        service(PLAIN), [running("a", "10.0.0.1"), running("b", "10.0.0.2", ready=False)]
    )
    assert shape(found) == [(["10.0.0.1"], ["10.0.0.2"], [8080])]


def test_pods_without_address_over_or_leaving_are_nowhere() -> None:
    pods = [
        running("no-ip", ""),
        pod("over", labels=WEB, ip="10.0.0.3", phase="Succeeded", ready=True),
        running("leaving", "10.0.0.4", deleted="2026-01-01T00:00:00Z"),
    ]
    assert subsets(service(PLAIN), pods) == ()


def test_a_named_port_is_looked_up_in_each_pod() -> None:
    pods = [running(n, ip, web=w) for n, ip, w in (
        ("a", "10.0.0.1", 80), ("b", "10.0.0.2", 8080), ("c", "10.0.0.3", 80),
    )]  # fmt: skip
    pods.append(pod("without-that-port", labels=WEB, ip="10.0.0.4", ready=True))
    assert shape(subsets(service(HTTP), pods)) == [
        (["10.0.0.1", "10.0.0.3"], [], [80]),
        (["10.0.0.2"], [], [8080]),
    ]


def test_without_target_port_the_port_itself_is_meant() -> None:
    found = subsets(service(ServicePort(port=53, protocol="UDP")), [running("a", "10.0.0.1")])
    assert (found[0].ports[0].port, found[0].ports[0].protocol) == (53, "UDP")


def test_the_order_of_pods_makes_no_difference() -> None:
    pods = [running(f"p{n}", f"10.0.0.{n}", web=80 + n % 3, ready=n % 2 == 0) for n in range(12)]
    wanted = subsets(service(HTTP), pods)
    rng = random.Random(3)
    for _ in range(10):
        rng.shuffle(pods)
        assert subsets(service(HTTP), pods) == wanted


def test_a_service_may_publish_pods_before_they_are_ready() -> None:
    early = service(PLAIN, publish_not_ready_addresses=True)
    assert shape(subsets(early, [running("a", "10.0.0.1", ready=False)])) == [
        (["10.0.0.1"], [], [8080])
    ]


def test_a_headless_service_needs_no_ports() -> None:
    pods = [running("a", "10.0.0.1", hostname="a-0", subdomain="web")]
    found = subsets(service(cluster_ip="None"), pods)
    assert (found[0].ports, found[0].addresses[0].hostname) == ((), "a-0")
    assert subsets(service(), pods) == ()


def test_an_address_names_its_pod() -> None:
    address = subsets(service(PLAIN), [running("a", "10.0.0.1", on="n1")])[0].addresses[0]
    assert address.target_ref is not None
    assert (address.target_ref.name, address.target_ref.uid) == ("a", "uid-a")
    assert address.node_name == "n1"
