"""Portals that the kernel serves, between nodes: every client reaches every endpoint, and is seen
as itself where the answer finds its way back.

The hosts are as strict as a distribution makes them: reverse paths are checked, and FORWARD drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.lab.network import Namespace
from tests.network.hosts import OUTSIDE, PORT, Host, World, talk, until, world

from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.portals import DesiredRules, Portal
from k8slite.network.hairpin import Hairpins

PORTAL = "192.168.3.20"


@contextmanager
def portal(host: Host, *endpoints: str) -> Iterator[None]:
    """The table of ``host`` leads from the portal, and from the host's own address, there."""
    desired = DesiredRules(host.address, chain_room=0)
    found = tuple(Endpoint(address, PORT) for address in endpoints)
    addresses = (PORTAL, host.address)
    desired.put(
        Portal("default/web:", "tcp", addresses, PORT, inside=found, outside=found),
    )
    edge = TableEdge(host.settings.flannel_net, "k8slite0")
    host.site.do(edge.sync(desired.all()))
    try:
        yield
    finally:
        host.site.do(edge.remove())
        host.site.do(edge.close())


async def begin(host: Host) -> Hairpins:
    return Hairpins("k8slite0")


async def end(hairpins: Hairpins) -> None:
    hairpins.close()


@pytest.fixture(scope="module", params=["vxlan", "host-gw"])
def joined(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("nodes"), request.param, count=2) as made:
        for host in made.hosts:
            host.settings = replace(host.settings, proxy_mode="nft")
            # As Docker does: a bridge without an address of its own takes one of its ports'.
            host.site.ip("link", "set", "k8slite0", "address", "02:42:ac:10:00:01")
        made.start()
        for host in made.hosts:
            until(lambda host=host: host.routes())
        until(lambda: "K8SLITE-FORWARD" in made.hosts[0].site.run("iptables-save"))
        hairpins = [host.site.do(begin(host)) for host in made.hosts]
        yield made
        for host, one in zip(made.hosts, hairpins, strict=True):
            host.site.do(end(one))


def test_a_pod_is_seen_as_itself_by_pods_of_other_nodes(joined: World) -> None:
    here, elsewhere = joined.pods
    with portal(joined.hosts[0], joined.address(1)):
        assert talk(here, elsewhere, PORTAL) == joined.address(0)


def test_a_pod_reaches_its_neighbour_on_the_bridge_and_itself(joined: World) -> None:
    host, client = joined.hosts[0], joined.pods[0]
    with Namespace("neighbour") as neighbour:
        address = host.pod(neighbour, host=3)
        with portal(host, address):
            assert talk(client, neighbour, PORTAL) == joined.address(0)
        with portal(host, joined.address(0)):
            assert talk(client, client, PORTAL) == host.address_in(1)


def test_somebody_outside_is_seen_as_himself_by_pods_of_the_node_alone(joined: World) -> None:
    host = joined.hosts[0]
    with portal(host, joined.address(0)):
        assert talk(joined.outside, joined.pods[0], host.address) == OUTSIDE
    with portal(host, joined.address(1)):
        seen = talk(joined.outside, joined.pods[1], host.address)
        assert seen != OUTSIDE
        assert seen in (host.address, host.address_in(0))


def test_the_host_reaches_pods_here_and_elsewhere(joined: World) -> None:
    host = joined.hosts[0]
    with portal(host, joined.address(0)):
        assert talk(host.site, joined.pods[0], PORTAL) == host.address
    with portal(host, joined.address(1)):
        assert talk(host.site, joined.pods[1], PORTAL) in (host.address, host.address_in(0))


def test_another_host_may_be_the_endpoint(joined: World) -> None:
    host, other = joined.hosts
    with portal(host, other.address):
        for client in (joined.pods[0], host.site, joined.outside):
            address = host.address if client is joined.outside else PORTAL
            assert talk(client, other.site, address) == host.address


def test_bridged_packets_that_pass_by_the_rules_are_answered_all_the_same(joined: World) -> None:
    host, client = joined.hosts[0], joined.pods[0]
    host.site.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
    try:
        with Namespace("neighbour") as neighbour:
            address = host.pod(neighbour, host=4)
            with portal(host, address):
                assert talk(client, neighbour, PORTAL) == host.address_in(1)
            with portal(host, joined.address(0)):
                assert talk(client, client, PORTAL) == host.address_in(1)
    finally:
        host.site.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=1")
