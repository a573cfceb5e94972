"""What a service asks of the proxy, and what serves it."""

from __future__ import annotations

import pytest
from tests.proxy.world import service_object

from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.kinds.service.proxying import WARM_UP, warm_up
from k8slite.api.kinds.service.types import ServicePort
from k8slite.api.meta import ObjectMeta
from k8slite.decide.endpoints import TERMINATING
from k8slite.roles.proxy.ports import PortalPort, endpoints_of, local_endpoints_of, portal_ports


def asked(**spec: object) -> PortalPort:
    [port] = portal_ports(service_object("web", "10.0.0.1", (ServicePort(port=80),), **spec))
    return port


def behind(ready: dict[str, str], leaving: str = "") -> Endpoints:
    """Ready addresses with their nodes; ``leaving`` is the annotation."""
    return Endpoints(
        metadata=ObjectMeta(
            name="web", annotations={TERMINATING: leaving} if leaving else None
        ),
        subsets=(
            EndpointSubset(
                addresses=tuple(EndpointAddress(ip=ip, node_name=n) for ip, n in ready.items()),
                ports=(EndpointPort(port=8080, protocol="TCP"),),
            ),
        ),
    )  # fmt: skip


LEAVING = (
    '[{"addresses":[{"ip":"172.16.1.8","nodeName":"n1"},{"ip":"172.16.2.8","nodeName":"n2"}],'
    '"ports":[{"port":8080,"protocol":"TCP"}]}]'
)


def ips(found: tuple[tuple[str, int], ...]) -> list[str]:
    assert {port for _, port in found} <= {8080}
    return [ip for ip, _ in found]


def test_those_on_their_way_out_serve_only_when_no_ready_one_does() -> None:
    port = asked()
    assert ips(endpoints_of(behind({"172.16.1.1": "n1"}, LEAVING), port)) == ["172.16.1.1"]
    assert ips(endpoints_of(behind({}, LEAVING), port)) == ["172.16.1.8", "172.16.2.8"]


@pytest.mark.parametrize("policy", ["internal_traffic_policy", "external_traffic_policy"])
def test_a_local_policy_asks_for_the_endpoints_of_this_node(policy: str) -> None:
    port = asked(**{policy: "Local"})
    assert (port.inside_local, port.outside_local) == (
        policy.startswith("internal"), policy.startswith("external"),
    )  # fmt: skip
    everywhere = behind({"172.16.1.1": "n1", "172.16.2.1": "n2"})
    assert ips(local_endpoints_of(everywhere, port, "n1")) == ["172.16.1.1"]
    assert ips(local_endpoints_of(everywhere, port, "n3")) == []


def test_on_a_node_without_a_ready_one_those_on_their_way_out_serve() -> None:
    port = asked(external_traffic_policy="Local")
    elsewhere = behind({"172.16.2.1": "n2"}, LEAVING)
    assert ips(local_endpoints_of(elsewhere, port, "n1")) == ["172.16.1.8"]
    assert ips(endpoints_of(elsewhere, port)) == ["172.16.2.1"]


def test_nobody_is_kept_to_a_node_without_a_policy() -> None:
    assert local_endpoints_of(behind({"172.16.1.1": "n1"}), asked(), "n1") == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("30", 30), ("0", 0), ("3600", 3600), ("soon", 0)]
)
def test_warming_up_is_told_in_seconds(text: str, seconds: float) -> None:
    assert warm_up({WARM_UP: text}) == seconds
