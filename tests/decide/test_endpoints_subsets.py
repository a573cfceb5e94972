"""Which addresses stand behind a service."""

from __future__ import annotations

import random

from cluster_objects import WEB, pod, service

from k8slite.api.kinds.endpoints.types import Endpoints, EndpointSubset
from k8slite.api.kinds.pod.types import ContainerPort, Pod
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.api.meta import ObjectMeta
from k8slite.decide.endpoints import (
    MAX_TERMINATING,
    TERMINATING,
    subsets,
    terminating,
    terminating_of,
)

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


# -- pods on their way out -------------------------------------------------------------------------

LEAVING = "2026-01-01T00:00:00Z"


def told(asked: Service, pods: list[Pod]) -> list[tuple[list[str], list[int]]]:
    """Addresses and ports that the annotation tells of, as a proxy reads it."""
    text = terminating(asked, pods, subsets(asked, pods))
    if not text:
        return []
    found = terminating_of(Endpoints(metadata=ObjectMeta(annotations={TERMINATING: text})))
    return [([a.ip for a in s.addresses], [p.port for p in s.ports]) for s in found]


def test_pods_on_their_way_out_are_told_of_where_no_ready_one_is_left() -> None:
    leaving = running("leaving", "10.0.0.1", deleted=LEAVING)
    unready = running("unready", "10.0.0.2", ready=False)
    assert told(service(PLAIN), [leaving, unready]) == [(["10.0.0.1"], [8080])]
    assert told(service(PLAIN), [leaving, running("ready", "10.0.0.3")]) == []


def test_of_a_pod_that_serves_no_more_nobody_is_told() -> None:
    pods = [
        running("unready", "10.0.0.1", deleted=LEAVING, ready=False),
        pod("over", labels=WEB, ip="10.0.0.3", phase="Succeeded", ready=True, deleted=LEAVING),
        running("no-ip", "", deleted=LEAVING),
    ]
    assert told(service(PLAIN), pods) == []


def test_a_ready_pod_without_the_port_is_no_reason_to_be_silent() -> None:
    leaving = running("leaving", "10.0.0.1", deleted=LEAVING)
    other = pod("without-that-port", labels=WEB, ip="10.0.0.4", ready=True)
    both = service(ServicePort(name="plain", port=81, target_port=81, protocol="TCP"), HTTP)
    assert told(both, [leaving, other]) == [(["10.0.0.1"], [81, 8080])]


def test_where_clients_are_kept_to_a_node_each_node_counts_for_itself() -> None:
    pods = [
        running("a", "10.0.0.1", on="n1", deleted=LEAVING),
        running("b", "10.0.0.2", on="n2", deleted=LEAVING),
        running("c", "10.0.0.3", on="n2"),
    ]
    for policy in ("external_traffic_policy", "internal_traffic_policy"):
        assert told(service(PLAIN, **{policy: "Local"}), pods) == [(["10.0.0.1"], [8080])]
    assert told(service(PLAIN), pods) == []


def test_what_is_told_is_bounded_and_always_the_same() -> None:
    pods = [running(f"p{n}", f"10.0.{n // 250}.{n % 250}", deleted=LEAVING) for n in range(500)]
    asked = service(PLAIN)
    text = terminating(asked, pods, ())
    assert len(told(asked, pods)[0][0]) == MAX_TERMINATING
    assert len(text) < 10_000
    random.Random(3).shuffle(pods)
    assert terminating(asked, pods, ()) == text


def test_an_annotation_that_is_no_work_of_ours_is_nothing() -> None:
    for text in ("", "soon", "[1]", '{"addresses": []}'):
        assert terminating_of(Endpoints(metadata=ObjectMeta(annotations={TERMINATING: text}))) == ()
