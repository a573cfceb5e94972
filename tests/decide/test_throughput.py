"""What services do in the whole cluster: the answers of its nodes, added up."""

from __future__ import annotations

import pytest

from k8slite.api.servicestats import EndpointStats, ServicePortStats, ServiceStats
from k8slite.decide.throughput import EndpointWork, PortWork, added_up, state_of


def web(*endpoints: EndpointStats, **numbers: float) -> ServicePortStats:
    return ServicePortStats(
        namespace="default", service="web", port=80, protocol="TCP", endpoints=endpoints,
        **numbers,  # type: ignore[arg-type]
    )  # fmt: skip


def said(seconds: float, *items: ServicePortStats) -> ServiceStats:
    return ServiceStats(seconds=seconds, items=items)


def only(found: list[PortWork]) -> PortWork:
    [port] = found
    return port


def test_nodes_are_added_up() -> None:
    found = only(
        added_up(
            {
                "n1": said(0, web(connections=3, active=1, endpoints_in_use=2, sent=10)),
                "n2": said(0, web(connections=4, active=2, endpoints_in_use=3)),
            }
        )
    )
    assert (found.total.connections, found.active, found.in_use, found.total.sent) == (7, 3, 3, 10)
    assert found.rate.connections == 0


def test_rates_go_by_each_nodes_own_clock() -> None:
    earlier = {"n1": said(100, web(connections=10)), "n2": said(7, web(connections=50))}
    now = {"n1": said(102, web(connections=30)), "n2": said(7.5, web(connections=51))}
    found = only(added_up(now, earlier))
    assert (found.rate.connections, found.total.connections) == (12, 81)


def test_a_proxy_that_began_anew_makes_no_rate_below_zero() -> None:
    found = only(
        added_up({"n1": said(2, web(connections=5))}, {"n1": said(1, web(connections=90))})
    )
    assert found.rate.connections == 5


def test_a_service_and_a_node_that_came_meanwhile_are_counted() -> None:
    now = {"n1": said(2, web(connections=5)), "n2": said(9, web(connections=100))}
    found = only(added_up(now, {"n1": said(1)}))
    assert (found.rate.connections, found.total.connections) == (5, 105)


def test_the_time_to_connect_is_of_the_connections_that_were_timed() -> None:
    earlier = {"n1": said(0, web(connections=10, connect_seconds=1.0))}
    now = {"n1": said(2, web(connections=30, connect_seconds=5.0))}
    found = only(added_up(now, earlier))
    assert found.rate.connect_time == 0.2
    assert only(added_up({"n1": said(0, web(connections=3))})).total.connect_time is None


@pytest.mark.parametrize("change", [1e-16, -1e-16])
def test_seconds_that_were_added_up_in_another_order_are_no_time_to_connect(change: float) -> None:
    earlier = {"n1": said(0, web(connections=10, connect_seconds=0.6))}
    now = {"n1": said(2, web(connections=10, connect_seconds=0.6 + change))}
    assert only(added_up(now, earlier)).rate.connect_time is None


def test_endpoints_are_told_apart_by_their_address() -> None:
    def answer(seconds: float, count: int, **more: object) -> ServiceStats:
        ends = (
            EndpointStats(address="10.0.0.1:80", connections=count, active=1, **more),  # type: ignore[arg-type]
            EndpointStats(address="10.0.0.2:80", connections=2 * count),
        )
        return said(seconds, web(*ends))

    found = only(
        added_up({"n1": answer(1, 5), "n2": answer(1, 7, ejected=True)}, {"n1": answer(0, 2)})
    )
    one, two = found.endpoints["10.0.0.1:80"], found.endpoints["10.0.0.2:80"]
    assert (one.total.connections, one.active, one.nodes, one.ejected) == (12, 2, 2, 1)
    assert (one.rate.connections, two.rate.connections) == (3, 6)


def test_services_come_by_name() -> None:
    rows = [ServicePortStats(namespace=n, service=s) for n, s in (("b", "a"), ("a", "z"))]
    assert [port.namespace for port in added_up({"n1": said(0, *rows)})] == ["a", "b"]


def test_the_state_of_an_endpoint_is_said_in_words() -> None:
    def state(**more: float) -> str:
        return state_of(EndpointWork("a", **{"nodes": 2, **more}))  # type: ignore[arg-type]

    assert state() == ""
    assert state(ejected=1) == "ejected on 1 of 2"
    assert state(ejected=1, nodes=1) == "ejected"
    assert state(leaving=2) == "leaving"
    assert state(leaving=1) == ""  # one node has seen the change, the other not yet
    assert state(weight=0.25, ejected=2) == "ejected on 2 of 2, warming up, 25%"
