"""Addresses of the pool on a real LAN, by ARP and NDP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lan import ADDRESS, ADDRESS6, Lan, LanNode, lan, mac, until
from simulated import endpoints, service
from tests.lab.network import Namespace

from k8slite.network import speaker
from k8slite.network.ndp import NdpTongue
from k8slite.roles.announcer import contested

pytestmark = [pytest.mark.lab]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Lan]:
    with lan(tmp_path) as made:
        made.serve(*made.nodes)
        until(lambda: made.fetch() in {one.name for one in made.nodes})
        yield made


def test_one_node_answers_and_the_next_one_when_it_is_cut_off(site: Lan) -> None:
    first, second, _ = site.ranked()
    until(lambda: site.who_answers() == {mac(first)})
    assert site.believed() == mac(first)
    site.cut(first)
    until(lambda: site.fetch(wait=0.2), 10)
    assert site.believed() == mac(second)
    # It returns, and the client learns it without asking.
    site.heal(first)
    until(lambda: site.believed() == mac(first), 10)
    until(lambda: site.who_answers() == {mac(first)}, 10)
    until(site.fetch)


def test_an_interface_that_takes_another_hardware_address_answers_with_that(site: Lan) -> None:
    """A bridge without an address of its own takes one of its ports', a bond its active one's."""
    first, other = site.ranked()[0], "02:00:00:00:77:77"
    # As these do: without going down.
    first.site.ip("link", "set", "eth0", "address", other)
    until(lambda: site.believed() == other)
    until(lambda: site.who_answers() == {other})
    until(lambda: site.fetch(wait=0.2))


def test_an_announcer_that_ends_answers_no_more_and_leaves_nothing(site: Lan) -> None:
    first, second, _ = site.ranked()
    first.stop()
    until(lambda: site.who_answers() == {mac(second)})
    assert ADDRESS not in first.site.ip("addr")
    until(lambda: site.fetch(wait=0.2))


def test_without_a_ready_endpoint_nobody_answers(site: Lan) -> None:
    first = site.ranked()[0]
    site.tell(endpoints("web"))
    until(lambda: site.who_answers() == set())
    assert "AddressWithdrawn" in first.recorded.reasons()
    site.serve(site.nodes[0])
    until(lambda: site.fetch() == "n0")  # by way of whichever node


def test_policy_local_is_answered_where_the_endpoint_is(site: Lan) -> None:
    last = site.ranked()[-1]
    site.serve(last, external_traffic_policy="Local")
    until(lambda: site.who_answers() == {mac(last)})
    until(lambda: site.fetch(wait=0.2) == last.name)


def test_neighbours_of_ipv6_are_told_as_well(site: Lan) -> None:
    site.serve(*site.nodes, address=ADDRESS6)
    first, second, _ = site.ranked(ADDRESS6)

    def leads_to(one: LanNode) -> bool:
        site.fetch(ADDRESS6, wait=0.2)
        return site.believed(ADDRESS6) == mac(one)

    until(lambda: leads_to(first))
    until(lambda: site.who_answers(ADDRESS6, tongue=NdpTongue()) == {mac(first)})
    site.cut(first)
    until(lambda: leads_to(second), 10)
    site.heal(first)
    until(lambda: site.believed(ADDRESS6) == mac(first), 10)
    until(lambda: site.who_answers(ADDRESS6, tongue=NdpTongue()) == {mac(first)}, 10)


def test_a_node_without_ipv6_leaves_its_addresses_to_others(site: Lan) -> None:
    first, second, _ = site.ranked(ADDRESS6)
    first.site.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
    site.tell(service("web", ADDRESS, ADDRESS6))
    until(lambda: site.who_answers(ADDRESS6, tongue=NdpTongue()) == {mac(second)})
    until(lambda: (found := site.who_answers()) and mac(first) not in found)
    assert any("IPv6 is off on eth0" in text for _, _, text in first.recorded.told)


@pytest.fixture
def suspicious(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lan]:
    """Nodes that look out for others with their addresses sooner than usual."""
    monkeypatch.setattr(speaker, "ASK_AT", 0.3)
    monkeypatch.setattr(speaker, "ASK_AGAIN", 0.6)
    monkeypatch.setattr(contested, "LASTS", 0.5)
    with lan(tmp_path) as made:
        made.serve(*made.nodes)
        until(made.fetch)
        yield made


def test_a_host_that_has_the_address_too_is_told_of(suspicious: Lan) -> None:
    site = suspicious
    first = site.ranked()[0]
    with Namespace("thief") as thief:
        site.switch.connect(thief, "192.168.0.77/24")
        thief.ip("addr", "add", f"{ADDRESS}/32", "dev", "eth0")
        until(lambda: "AddressClaimedElsewhere" in first.recorded.reasons())
        text = next(t for _, reason, t in first.recorded.told if reason.endswith("Elsewhere"))
        assert "02:00:c0:a8:00:4d, which is no node of this cluster" in text
    until(lambda: site.believed() == mac(first) and site.fetch())


def test_nodes_that_do_not_hear_each_other_settle_it_by_rank(suspicious: Lan) -> None:
    site = suspicious
    first = site.ranked()[0]
    for one in site.nodes:
        one.site.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "10247", "-j", "DROP")
    until(lambda: len(site.who_answers()) > 1)
    until(lambda: site.who_answers() == {mac(first)}, 30)
    until(lambda: any("the nodes do not reach" in text for _, _, text in first.recorded.told))
