"""Pods of different nodes reach each other, whatever happens to links, routes and rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.network import Namespace
from tests.netfilter.sites import Site
from tests.network.hosts import OUTSIDE, World, datagram, echo, talk, until, world

pytestmark = [pytest.mark.lab]


@pytest.fixture(params=["vxlan", "host-gw"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(mode: str, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, mode) as made:
        made.start()
        connected(made)
        yield made


def connected(made: World, count: int = 3) -> None:
    """Wait until every pod reaches every other."""
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    for a, b in pairs:
        until(lambda a=a, b=b: echo(made.pods[a], made.address(b)))


def test_pods_talk_across_nodes_at_full_size_under_their_own_addresses(
    site: World, mode: str
) -> None:
    one, two = site.pods[0], site.pods[1]
    assert talk(one, two, site.address(1)) == site.address(0)
    assert talk(two, one, site.address(0), amount=48 << 20) == site.address(1)
    full = 1450 if mode == "vxlan" else 1500
    assert datagram(one, two, site.address(1), full)
    assert not datagram(one, two, site.address(1), full + 1)
    # Nodes reach pods of other nodes, as the proxy does on behalf of a portal.
    assert talk(site.hosts[0].site, two, site.address(1)) in ("172.16.0.0", "192.168.0.10")
    assert talk(site.hosts[0].site, one, site.address(0)) == "172.16.0.1"
    # What leaves the pod network bears the node's address, and only that.
    assert talk(one, site.outside, OUTSIDE) == "192.168.0.10"
    assert talk(one, site.hosts[1].site, "192.168.0.11") == "192.168.0.10"
    assert all(host.overlay.trouble == "" for host in site.hosts)


def test_a_pod_does_not_pass_for_its_node_at_a_masters_open_port(site: World, mode: str) -> None:
    """Masquerading gives it the node's address, and nodes are welcome there."""
    host, master, pod = site.hosts[0], site.hosts[1], site.pods[0]
    assert talk(pod, master.site, master.address, port=8080) == host.address
    host.tell_masters(host.address, master.address)

    def refused() -> bool:
        try:
            talk(pod, master.site, master.address, port=8080)
        except ConnectionRefusedError:
            return True
        return False

    until(refused)
    host.tell_masters(host.address)  # it is away: should it come back, it is closed already
    assert talk(host.site, master.site, master.address, port=8080) == host.address
    assert talk(pod, master.site, master.address) == host.address
    assert refused()


def test_no_other_container_passes_for_its_node_either(tmp_path: Path) -> None:
    with world(tmp_path, "vxlan", count=2) as site, Namespace("container") as container:
        host, master = site.hosts
        plug(host.site, container)
        site.start()
        connected(site, 2)
        assert talk(container, master.site, master.address, port=8080) == host.address
        host.tell_masters(master.address)
        until(lambda: master.address in host.site.run("iptables-save", "-t", "filter"))
        with pytest.raises(ConnectionRefusedError):
            talk(container, master.site, master.address, port=8080)
        assert talk(container, master.site, master.address) == host.address


def plug(site: Site, container: Namespace) -> None:
    """A container of Docker's own network: it may go out, as the node."""
    site.ip("link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns",
            container.name)  # fmt: skip
    site.ip("addr", "add", "172.17.0.1/16", "dev", "docker0")
    site.ip("link", "set", "docker0", "up")
    container.ip("addr", "add", "172.17.0.2/16", "dev", "eth0")
    container.ip("link", "set", "eth0", "up")
    container.ip("route", "add", "default", "via", "172.17.0.1")
    site.run("iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
    site.run("iptables", "-A", "FORWARD", "-o", "docker0", "-j", "ACCEPT")
    site.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o",
             "docker0", "-j", "MASQUERADE")  # fmt: skip


def test_what_somebody_deletes_comes_back(site: World, mode: str) -> None:
    host = site.hosts[0]
    deletions = {
        "route": "ip route flush proto 107",
        "forward": "iptables -F K8SLITE-FORWARD",
        "jump": "iptables -D FORWARD -j K8SLITE-FORWARD",
        "docker": "iptables -N DOCKER-X; iptables -A DOCKER-X -j DROP; "
        "iptables -I FORWARD 1 -j DOCKER-X",
        "masquerade": "iptables -t nat -F K8SLITE-MASQ",
        "all": "iptables -F; iptables -t nat -F",
        "uplink": "ip link set eth0 down; ip link set eth0 up; ip route add default dev eth0",
    }
    if mode == "vxlan":
        deletions |= {
            "link": "ip link del k8slite-vx",
            "down": "ip link set k8slite-vx down",
            "address": "ip addr flush dev k8slite-vx",
            "neighbours": "ip neigh flush dev k8slite-vx nud permanent",
            "fdb": "bridge fdb del 0e:6b:c0:a8:00:0b dev k8slite-vx dst 192.168.0.11",
            "mtu": "ip link set k8slite-vx mtu 1000",
        }
    before = host.views()
    for what, command in deletions.items():
        host.site.run("sh", "-c", command)
        until(lambda: host.views()["routes"] == before["routes"])
        until(lambda: echo(site.pods[0], site.address(1)), 20)
        until(lambda: echo(site.pods[2], site.address(0)))
        if what in ("masquerade", "all"):
            until(lambda: "-j MASQUERADE" in host.views()["nft"])
            assert talk(site.pods[0], site.outside, OUTSIDE) == "192.168.0.10"
    host.site.run("sh", "-c", "iptables -D FORWARD -j DOCKER-X; iptables -F DOCKER-X; "
                  "iptables -X DOCKER-X")  # fmt: skip
    until(lambda: host.views() == before)


def test_a_link_that_goes_at_any_moment_comes_back(tmp_path: Path) -> None:
    with world(tmp_path, "vxlan") as made:
        made.start()
        connected(made)
        host = made.hosts[0]
        before = host.views()
        # Deleted over and over, at whatever point of its repair.
        host.site.run(
            "sh", "-c", "for i in $(seq 150); do ip link del k8slite-vx 2>/dev/null; done; true"
        )
        until(lambda: host.views() == before)
        until(lambda: echo(made.pods[0], made.address(1)))
        until(lambda: host.overlay.trouble == "", 30)


def test_nodes_come_go_and_change(site: World, mode: str) -> None:
    near, far = site.hosts[0], site.hosts[1]
    near.tell(far, None)
    until(lambda: not any("172.16.1.0/24" in route for route in near.routes()))
    assert any("172.16.2.0/24" in route for route in near.routes())
    assert not echo(site.pods[0], site.address(1), wait=0.2)
    assert echo(site.pods[0], site.address(2))
    if mode == "vxlan":
        assert "192.168.0.11" not in near.site.run("bridge", "fdb", "show", "dev", "k8slite-vx")
        assert "172.16.1.0" not in near.site.ip("neigh", "show", "dev", "k8slite-vx")
    # It returns with another network.
    near.tell(far, far.node("172.16.9.0/24"))
    until(lambda: any("172.16.9.0/24" in route for route in near.routes()))
    near.tell(far, far.node())
    until(lambda: echo(site.pods[0], site.address(1)))
    assert not any("172.16.9.0/24" in route for route in near.routes())


def test_a_restart_disturbs_nothing(site: World) -> None:
    host = site.hosts[0]
    before = host.views()
    host.stop()
    assert echo(site.pods[0], site.address(1))
    assert host.views() == before
    host.nodes._nodes.pop("n2")  # it went while nobody looked
    host.start()
    until(lambda: len(host.routes()) == 1)
    assert echo(site.pods[0], site.address(1))


def test_leaving_the_host_as_it_was_found(mode: str, tmp_path: Path) -> None:
    with world(tmp_path, mode) as made:
        host = made.hosts[0]
        host.site.ip("route", "add", "10.7.0.0/16", "via", "192.168.0.11", "proto", "static")
        host.site.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.7.0.0/16", "-j",
                      "MASQUERADE")  # fmt: skip
        host.site.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        before = host.views()
        made.start()
        connected(made)
        assert host.views() != before
        assert host.views()["forward"] == "1"
        host.stop()
        gone = host.remove()
        assert host.views() == before
        assert any("chains K8SLITE-FORWARD and K8SLITE-MASQ" in what for what in gone)
        assert host.remove() == []
        # Where nobody else has rules, no table is left behind.
        bare = made.hosts[1]
        bare.stop()
        bare.site.run("iptables", "-P", "FORWARD", "ACCEPT")
        bare.remove()
        assert bare.site.run("nft", "list", "tables") in ("", "table ip filter\n")


def test_the_legacy_tables_are_opened_too_where_somebody_filters_there(tmp_path: Path) -> None:
    with world(tmp_path, "vxlan", count=3) as made:
        for host in made.hosts:
            host.site.run("iptables-legacy", "-P", "FORWARD", "DROP")
        made.start()
        connected(made)
        made.hosts[0].stop()
        made.hosts[0].remove()
        assert "K8SLITE" not in made.hosts[0].site.run("iptables-legacy-save")


def test_somebody_elses_route_is_left_alone_and_said(site: World) -> None:
    host, far = site.hosts[0], site.hosts[1]
    host.tell(far, None)
    until(lambda: not any("172.16.1.0/24" in route for route in host.routes()))
    host.site.ip("route", "add", "172.16.1.0/24", "via", "192.168.0.12", "proto", "static")
    host.tell(far, far.node())
    until(lambda: "somebody else's route to 172.16.1.0/24" in host.overlay.trouble)
    assert "via 192.168.0.12" in host.site.ip("route", "show", "172.16.1.0/24")
    assert echo(site.pods[0], site.address(2))  # the rest works on
    host.site.ip("route", "del", "172.16.1.0/24")
    until(lambda: host.overlay.trouble == "", 30)
    assert echo(site.pods[0], site.address(1))
    reasons = [reason for reason, _ in host.events.told]
    assert reasons == ["PodNetworkTrouble", "PodNetworkReady"]


def test_a_node_alone_has_chains_and_nothing_else(tmp_path: Path) -> None:
    with world(tmp_path, "vxlan", count=1) as made:
        host = made.hosts[0]
        links = host.views()["links"]
        made.start()
        until(lambda: "K8SLITE-MASQ" in host.views()["nft"])
        assert talk(made.pods[0], made.outside, OUTSIDE) == host.address
        assert host.views()["links"] == links
        assert host.overlay._edge._kernel is None  # the netlink library was not even loaded
