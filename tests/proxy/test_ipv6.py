"""IPv6: public addresses and node ports lead to a listener of this process, in the mode userspace.

Their doors stand in the table of nftables; the article's chains are IPv4's.
"""

from __future__ import annotations

import pytest
from tests.proxy.conftest import kernel_edge
from tests.proxy.test_kernel_mode import served_in
from tests.proxy.test_node_ports import NODE_PORT
from tests.proxy.test_portals import PORTAL, from_site, greeters, query, refused, udp_greeter
from tests.proxy.world import NODE, Net, ask, endpoints_object, running, until

from k8slite.decide.serving import NO_FAMILY
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge, Unsupported
from k8slite.netfilter.nft.edge import TableEdge

PUBLIC6 = "2001:db8:ff::5"
NODE6, OUTSIDE6 = "2001:db8:1::10", "2001:db8:1::99"
BRIDGE6, POD6 = "2001:db8:2::1", "2001:db8:2::2"


@pytest.fixture(scope="module")
def net6(net: Net) -> Net:
    """The same net with IPv6 addresses, and routes by the node."""
    places = (
        (net.node, "up0", NODE6), (net.outside, "eth0", OUTSIDE6),
        (net.node, "pod0", BRIDGE6), (net.pod, "eth0", POD6),
    )  # fmt: skip
    for site, device, address in places:
        site.ip("addr", "add", f"{address}/64", "dev", device, "nodad")
    net.node.ip("-6", "route", "add", "default", "dev", "up0")
    net.outside.ip("-6", "route", "add", "default", "via", NODE6)
    net.pod.ip("-6", "route", "add", "default", "via", BRIDGE6)
    return net


def edge_with_a_table() -> Edge:
    return choose_edge(Clock(), pod_network="172.16.0.0/16", bridge="pod0")


def test_a_public_address_of_ipv6_is_reached_from_everywhere(net6: Net) -> None:
    async def story() -> None:
        async with running(edge_with_a_table) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints, external_ips=(PUBLIC6.upper(),))
            assert await ask(PORTAL, 80) == b"0"
            assert await ask(PUBLIC6, 80) == b"0"
            assert await from_site(net6.pod, ask(PUBLIC6, 80)) == b"0"
            assert await from_site(net6.outside, ask(PUBLIC6, 80)) == b"0"
            assert not world.recorded.events
            port = world.proxy.listeners.ports["default/web:"]
            for site, address in ((net6.node, "::1"), (net6.outside, NODE6)):
                assert await from_site(site, refused(address, port))
            await world.gone("web")
            assert PUBLIC6 not in net6.node.run("nft", "list", "ruleset")

    net6.node.do(story())


def test_node_ports_are_those_of_both_families(net6: Net) -> None:
    async def story() -> None:
        async with running(edge_with_a_table) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints, type="NodePort", node_port=NODE_PORT)
            for address in ("127.0.0.1", NODE6, BRIDGE6):
                assert await ask(address, NODE_PORT) == b"0"
            assert await from_site(net6.outside, ask(NODE6, NODE_PORT)) == b"0"
            assert await from_site(net6.pod, ask(BRIDGE6, NODE_PORT)) == b"0"

    net6.node.do(story())


def test_udp_of_ipv6_is_served_too(net6: Net) -> None:
    async def story() -> None:
        async with running(edge_with_a_table) as world, udp_greeter(b"dns") as endpoint:
            spec = {"external_ips": (PUBLIC6,), "type": "NodePort", "node_port": NODE_PORT}
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53, **spec)
            assert await query(PORTAL, 53) == b"dns:hello"
            assert await from_site(net6.outside, query(PUBLIC6, 53)) == b"dns:hello"
            assert await from_site(net6.pod, query(PUBLIC6, 53)) == b"dns:hello"
            assert await from_site(net6.outside, query(NODE6, NODE_PORT)) == b"dns:hello"

    net6.node.do(story())


def test_ipv6_without_a_table_is_said(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(edge: TableEdge) -> None:
        raise Unsupported("this kernel has no nftables")

    monkeypatch.setattr(TableEdge, "try_out", unsupported)

    async def story() -> None:
        async with running(edge_with_a_table) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints, external_ips=(PUBLIC6,))
            await until(lambda: world.recorded.events)
            [(key, reason, message)] = world.recorded.events
            assert (key, reason) == ("default/web", NO_FAMILY)
            assert f"{PUBLIC6} port 80/tcp: IPv6 needs nftables" in message
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_the_kernel_leads_ipv6_to_ipv6_and_keeps_the_client(net6: Net) -> None:
    net6.node.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")

    async def story() -> None:
        async with running(kernel_edge) as world, served_in(net6.pod, POD6) as there:
            await world.serve(
                "web", PUBLIC6, [there], external_ips=("2001:db8:ff::6",), type="NodePort",
                node_port=NODE_PORT,
            )  # fmt: skip
            assert not world.proxy.listeners.ports
            for address, port in ((PUBLIC6, 80), ("2001:db8:ff::6", 80), (NODE6, NODE_PORT)):
                assert await from_site(net6.outside, ask(address, port)) == OUTSIDE6.encode()
                assert (await ask(address, port)).decode() in (NODE6, BRIDGE6)
            assert await from_site(net6.pod, ask(PUBLIC6, 80)) == BRIDGE6.encode()  # itself
            await world.put(endpoints_object("web", []))
            await until(lambda: world.proxy.settled)
            for site in (net6.node, net6.pod, net6.outside):
                assert await from_site(site, refused(PUBLIC6, 80))
            async with served_in(net6.outside, OUTSIDE6) as elsewhere:
                await world.put(endpoints_object("web", [elsewhere]))
                await until(lambda: world.proxy.settled)
                assert await from_site(net6.outside, ask(PUBLIC6, 80)) == NODE6.encode()

    net6.node.do(story())


def test_a_listener_stays_where_families_differ(net6: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, greeters(1, NODE) as endpoints:
            await world.serve("web", PORTAL, endpoints, external_ips=(PUBLIC6,))
            assert "default/web:" in world.proxy.listeners.ports
            for address in (PORTAL, PUBLIC6):
                assert await from_site(net6.outside, ask(address, 80)) == b"0"
            await world.serve("web", PORTAL, endpoints)
            await until(lambda: not world.proxy.listeners.ports and world.proxy.settled)
            assert await from_site(net6.outside, ask(PORTAL, 80)) == b"0"

    net6.node.do(story())
