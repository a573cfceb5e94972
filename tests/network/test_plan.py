"""What a node should have to reach the pods of the others: exactly that, whatever the Nodes say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.network.routes import (
    HOST_GW,
    LINK,
    NONE,
    VXLAN,
    Peer,
    Plan,
    Uplink,
    mac_of,
    plan,
    pod_mtu,
)

NET = "172.16.0.0/16"
OWN = Peer("n0", "192.168.0.10", "172.16.0.0/24")
UPLINK = Uplink("eth0", "192.168.0.10/24", 1500)

ADDRESSES = st.one_of(
    st.integers(1, 20).map(lambda n: f"192.168.0.{n}"),
    st.sampled_from(["", "10.1.2.3", "fe80::1", "host", "172.16.9.9"]),
)
CIDRS = st.one_of(
    st.integers(0, 12).map(lambda n: f"172.16.{n}.0/24"),
    st.sampled_from(["", "172.16.0.0/15", "172.16.3.1/24", "fd00::/64", "x", "172.16.4.0/22"]),
)
PEERS = st.lists(
    st.builds(Peer, st.integers(1, 99).map(lambda n: f"n{n}"), ADDRESSES, CIDRS), max_size=12
)
MODES = st.sampled_from([VXLAN, HOST_GW])


def made(others: list[Peer], mode: str) -> Plan:
    return plan(OWN, others, mode, NET, UPLINK)


@given(PEERS, MODES)
def test_every_node_is_reached_or_its_trouble_is_said(others: list[Peer], mode: str) -> None:
    found = made(others, mode)
    complete = [peer for peer in others if peer.address and peer.cidr]
    assert len(found.routes) + len(found.trouble) == len(complete)
    for text in found.trouble:
        assert any(peer.name in text for peer in complete)


@given(PEERS, MODES)
def test_routes_lead_to_pieces_of_the_net_that_overlap_neither_each_other_nor_our_own(
    others: list[Peer], mode: str
) -> None:
    routed = [IPv4Network(route.cidr) for route in made(others, mode).routes]
    seen = [IPv4Network(OWN.cidr)]
    for cidr in routed:
        assert cidr.subnet_of(IPv4Network(NET))
        assert not any(cidr.overlaps(other) for other in seen)
        seen.append(cidr)


@given(PEERS)
def test_vxlan_knows_the_far_end_of_every_route_and_nobody_else(others: list[Peer]) -> None:
    found = made(others, VXLAN)
    assert {route.via for route in found.routes} == {n.address for n in found.neighbours}
    assert len({n.address for n in found.neighbours}) == len(found.neighbours)
    assert len({n.mac for n in found.neighbours}) == len(found.neighbours)
    assert (found.link is not None) == bool(found.routes)
    for neighbour in found.neighbours:
        assert neighbour.mac == mac_of(neighbour.host)
        peer = next(p for p in others if p.address == neighbour.host)
        assert neighbour.host != OWN.address
        assert peer.address == neighbour.host


@given(PEERS)
def test_host_gw_routes_only_by_way_of_nodes_on_the_same_link(others: list[Peer]) -> None:
    found = made(others, HOST_GW)
    assert found.link is None
    assert not found.neighbours
    for route in found.routes:
        assert route.device == "eth0"
        assert IPv4Address(route.via) in IPv4Network("192.168.0.0/24")


@given(PEERS, MODES)
def test_the_order_in_which_nodes_are_seen_changes_nothing(others: list[Peer], mode: str) -> None:
    assert made(others, mode) == made(others[::-1], mode)


@given(PEERS)
def test_without_an_overlay_or_a_network_of_its_own_a_node_has_nothing(others: list[Peer]) -> None:
    assert made(others, NONE).empty
    assert plan(OWN._replace(cidr=""), others, VXLAN, NET, UPLINK).empty


def test_a_node_on_another_link_is_said_and_not_tunnelled_to_in_silence() -> None:
    found = made([Peer("far", "10.1.2.3", "172.16.1.0/24")], HOST_GW)
    assert found.routes == ()
    assert found.trouble == (
        "node far is left out of the pod network: 10.1.2.3 is not on the link eth0 "
        "(192.168.0.0/24), which host-gw needs; use --overlay vxlan on all nodes",
    )


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (Peer("bad", "here", "172.16.1.0/24"), "its address 'here' is no IPv4 address"),
        (Peer("bad", "192.168.0.11", "172.16.1.1/24"), "its podCIDR '172.16.1.1/24' is no IPv4"),
        (Peer("bad", "192.168.0.11", "0.0.0.0/0"), "lies outside of 172.16.0.0/16"),
        (Peer("bad", "192.168.0.11", "172.16.0.0/25"), "overlaps 172.16.0.0/24 of node n0"),
        (Peer("bad", "172.16.1.1", "172.16.1.0/24"), "lies in the pod network"),
        (Peer("bad", "192.168.0.10", "172.16.1.0/24"), "is that of node n0"),
        (Peer("bad", "0.0.0.0", "172.16.1.0/24"), "its address 0.0.0.0 is no host's"),
        (Peer("bad", "127.0.0.1", "172.16.1.0/24"), "its address 127.0.0.1 is no host's"),
        (Peer("bad", "224.0.0.1", "172.16.1.0/24"), "its address 224.0.0.1 is no host's"),
        (Peer("bad", "255.255.255.255", "172.16.1.0/24"), "is no host's"),
    ],
)
def test_what_cannot_be_right_is_refused(peer: Peer, why: str) -> None:
    good = Peer("good", "192.168.0.12", "172.16.2.0/24")
    found = made([peer, good], VXLAN)
    assert [route.cidr for route in found.routes] == ["172.16.2.0/24"]
    (text,) = found.trouble
    assert text.startswith("node bad is left out of the pod network: ")
    assert why in text


def test_a_malformed_self_is_an_error() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        plan(OWN._replace(address="nowhere"), [], VXLAN, NET, UPLINK)


@pytest.mark.parametrize("cidr", ["192.168.0.1/32", "192.168.0.0/24", "0.0.0.0/0", "fd00::/64"])
@pytest.mark.parametrize("mode", [VXLAN, HOST_GW])
def test_a_node_takes_no_address_outside_of_the_pod_network(cidr: str, mode: str) -> None:
    others = [Peer("n1", "192.168.0.11", "172.16.1.0/24")]
    with pytest.raises(ValueError):
        plan(OWN._replace(cidr=cidr), others, mode, NET, UPLINK)


def test_vxlan_leaves_room_for_its_header() -> None:
    assert pod_mtu(VXLAN, 1500) == 1450
    assert pod_mtu(HOST_GW, 1500) == 1500
    found = made([Peer("n1", "192.168.0.11", "172.16.1.0/24")], VXLAN)
    assert found.link is not None
    assert found.link.mtu == 1450
    assert found.link == (OWN.cidr[:-3], mac_of(OWN.address), OWN.address, 1450)
    assert found.routes == (("172.16.1.0/24", "172.16.1.0", LINK),)


@given(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**32 - 1).map(IPv4Address))
def test_link_addresses_are_unicast_local_and_one_to_a_node(
    one: IPv4Address, other: IPv4Address
) -> None:
    first = int(mac_of(str(one)).split(":")[0], 16)
    assert first & 0b11 == 0b10
    assert (mac_of(str(one)) == mac_of(str(other))) == (one == other)
