"""What the proxy counts: once, at the endpoint; totals never go down, and churn costs nothing."""

from __future__ import annotations

from k8slite.decide.balancing import Endpoint
from k8slite.roles.proxy.telling.counters import PortCounters

A, B, C = (Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3))


def test_a_port_did_what_its_endpoints_did() -> None:
    port = PortCounters()
    port.keep(frozenset((A, B)))
    port.of(A).connections = 2
    port.of(B).connections = 3
    port.of(B).sent = 10
    assert (port.connections, port.sent, port.received) == (5, 10, 0)


def test_what_a_removed_endpoint_did_stays_in_the_total() -> None:
    port = PortCounters()
    port.keep(frozenset((A, B)))
    port.of(A).connections = 2
    port.keep(frozenset((B,)))
    assert list(port.endpoints) == []
    assert port.connections == 2


def test_seconds_never_go_down_either_whatever_they_are_added_up_from() -> None:
    port = PortCounters()
    port.keep(frozenset((A, B, C)))
    for endpoint, seconds in ((A, 0.1), (B, 0.1), (C, 0.4)):
        port.of(endpoint).connect_seconds = seconds
    before = port.total().connect_seconds
    port.keep(frozenset((A, B)))
    assert port.total().connect_seconds >= before


def test_a_removed_endpoint_is_shown_until_its_last_connection_ends() -> None:
    port = PortCounters()
    port.keep(frozenset((A, B)))
    draining = port.of(A)
    draining.active = draining.connections = 1
    port.keep(frozenset((B,)))
    draining.received += 7
    assert (list(port.endpoints), port.active, port.received) == ([A], 1, 7)
    draining.active = 0
    assert (port.active, port.received, port.connections) == (0, 7, 1)
    assert list(port.endpoints) == []


def test_an_endpoint_that_comes_back_while_it_drains_goes_on_counting() -> None:
    port = PortCounters()
    port.keep(frozenset((A,)))
    port.of(A).active = 1
    port.keep(frozenset())
    port.keep(frozenset((A,)))
    port.of(A).connections += 1
    assert (port.active, port.connections) == (1, 1)


def test_endpoints_that_come_and_go_leave_nothing_behind() -> None:
    port = PortCounters()
    for number in range(1000):
        endpoint = Endpoint("10.0.0.1", number)
        port.keep(frozenset((endpoint,)))
        port.of(endpoint).connections += 1
    assert len(port.endpoints) == 1
    assert port.connections == 1000
