"""What seldom happens: sockets that cannot be had, ports that somebody else has, endpoints that
lead back to where the client came from."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from socket import AF_INET, AF_INET6, IPPROTO_UDP, SocketType
from typing import Any

import pytest
from tests.proxy.test_node_ports import NODE_PORT
from tests.proxy.test_portals import PORTAL, PUBLIC, asked, greeters
from tests.proxy.world import (
    BRIDGE,
    NODE,
    Net,
    World,
    ask,
    endpoints_object,
    running,
    service_object,
    udp_socket,
    until,
)

from k8slite.api.kinds.service.types import ServicePort
from k8slite.netfilter.conntrack import Conntrack
from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy import listeners
from k8slite.roles.proxy.tcp import upstreams
from k8slite.roles.proxy.tcp.listener import TcpListener

NewEdge = Callable[[], Edge]
OTHER = "192.168.3.215"


def test_without_ipv6_sockets_an_endpoint_of_ipv4_is_used(
    net: Net, new_edge: NewEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = upstreams._upstream_socket

    def no_ipv6(family: int = AF_INET) -> SocketType:
        if family == AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return plain(family)

    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, [*endpoints, ("2001:db8::7", 80)])
            for _ in range(4):
                assert await ask(PORTAL, 80) == b"0"

    monkeypatch.setattr(upstreams, "_upstream_socket", no_ipv6)
    net.node.do(story())


def test_a_port_without_a_socket_keeps_the_others_of_its_service_from_nobody(
    net: Net, new_edge: NewEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_fails(name: str, *rest: Any, **options: Any) -> TcpListener:
        if name.endswith(":a"):
            raise OSError(errno.EADDRINUSE, "no free port was found")
        return TcpListener(name, *rest, **options)

    monkeypatch.setattr(listeners, "TcpListener", one_fails)

    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            ports = (ServicePort(name="a", port=80), ServicePort(name="b", port=81))
            await world.put(
                endpoints_object("web", endpoints, port_name="b"),
                service_object("web", PORTAL, ports),
            )
            await until(lambda: "default/web:b" in world.proxy.portals)
            assert [reason for _, reason, _ in world.recorded.events] == ["PortalNotOpened"]
            await until(lambda: world.proxy.settled)
            assert await ask(PORTAL, 81) == b"0"

    net.node.do(story())


@pytest.mark.parametrize("place", [PUBLIC, NODE])
def test_a_udp_client_is_served_no_more_at_an_address_that_was_taken_back(
    net: Net, either_mode: NewEdge, place: str
) -> None:
    """However often it asks: the way that its first datagram found ends too."""

    async def story() -> None:
        async with running(either_mode) as world, udp_socket(local=(BRIDGE, 0)) as server:
            server.answer = lambda data: data
            number = 53 if place == PUBLIC else NODE_PORT

            async def offer(**more: Any) -> None:
                node_port = NODE_PORT if more else 0
                ports = (ServicePort(port=53, protocol="UDP", node_port=node_port),)
                await world.put(service_object("dns", PORTAL, ports, **more))
                await until(lambda: "default/dns:" in world.proxy.portals and world.proxy.settled)

            endpoint = server.transport.get_extra_info("sockname")[:2]
            await world.put(endpoints_object("dns", [endpoint], "UDP"))
            await offer(type="NodePort", external_ips=(PUBLIC,))
            async with udp_socket(remote=(place, number)) as client:
                assert await asked(client) == b"hello"
                await offer()
                with closing(Conntrack()) as conntrack:
                    flows = conntrack.flows(IPPROTO_UDP)
                assert (place, number) not in {flow.target for flow in flows}

    net.node.do(story())


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_endpoints_that_lead_back_to_their_service_are_left_out(
    net: Net, new_edge: NewEdge, protocol: str
) -> None:
    """Else one client would use up every descriptor that there is for clients."""

    def troubles(world: World) -> list[str]:
        """Of which services it is said; of one perhaps again, when it is looked at again."""
        told = (key for key, reason, _ in world.recorded.events if reason == "EndpointsLeadBack")
        return list(dict.fromkeys(told))

    async def story() -> None:
        async with running(new_edge) as world:
            doors = [(PORTAL, 80), (PUBLIC, 80), (NODE, NODE_PORT)]
            more = {"type": "NodePort", "node_port": NODE_PORT, "external_ips": (PUBLIC,)}
            await world.serve("web", PORTAL, doors, protocol=protocol, **more)
            assert troubles(world) == ["default/web"]
            await world.put(endpoints_object("web", [(OTHER, 80)], protocol))
            await world.serve("alias", OTHER, [(PORTAL, 80)], protocol=protocol)
            assert troubles(world) == ["default/web", "default/alias"]
            listener = world.proxy.listeners["default/alias:"]
            assert len(listener.balancer) == 0
            # It leads elsewhere now, so its alias is one.
            await world.put(endpoints_object("web", [(BRIDGE, 9)], protocol))
            await until(lambda: listener.balancer.endpoints == {(PORTAL, 80)})

    net.node.do(story())
