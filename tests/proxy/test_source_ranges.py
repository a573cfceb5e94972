"""spec.loadBalancerSourceRanges: in either mode only clients of these networks come in by the
addresses of the pool and by node ports; the portal is everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from msgspec.structs import replace
from tests.netfilter.sites import Site
from tests.proxy.conftest import kernel_edge
from tests.proxy.test_ipv6 import NODE6, POD6, edge_with_a_table, net6
from tests.proxy.test_kernel_mode import served_in
from tests.proxy.test_portals import PORTAL, PUBLIC, asked, from_site, greeters, query, refused
from tests.proxy.world import NODE, OUTSIDE, Net, World, ask, running, udp_socket, until

from k8slite.api.kinds.service.types import LoadBalancerIngress, LoadBalancerStatus
from k8slite.netfilter.edge import Edge

__all__ = ["net6"]

WEB = "default/web:"
POOL = "192.168.8.1"
DOORS = ((POOL, 80), (NODE, 30080))


async def serve(
    world: World,
    endpoints: list[tuple[str, int]],
    ranges: Iterable[str],
    protocol: str = "TCP",
    pool: str = POOL,
) -> None:
    await world.serve(
        "web", PORTAL, endpoints, protocol=protocol, type="LoadBalancer", node_port=30080,
        external_ips=(PUBLIC,), load_balancer_source_ranges=tuple(ranges),
    )  # fmt: skip
    service = world.service("web")
    given = LoadBalancerStatus(ingress=(LoadBalancerIngress(ip=pool),))
    await world.put(replace(service, status=replace(service.status, load_balancer=given)))
    await until(lambda: pool in world.proxy.portals[WEB].addresses and world.proxy.settled)


@pytest.fixture
def every_site(net: Net) -> tuple[Site, ...]:
    return net.node, net.pod, net.outside


def test_who_is_of_no_range_is_refused(
    net: Net, either_mode: Callable[[], Edge], every_site: tuple[Site, ...]
) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(1, NODE) as endpoints:
            await serve(world, endpoints, [f" {OUTSIDE}/32 ", "10.0.0.0/8", "fd00::/8"])
            for site in every_site:
                for open_door in ((PORTAL, 80), (PUBLIC, 80)):
                    assert await from_site(site, ask(*open_door)) == b"0"
                for door in DOORS:
                    if site is net.outside:
                        assert await from_site(site, ask(*door)) == b"0"
                    else:
                        assert await from_site(site, refused(*door))

    net.node.do(story())


def test_ranges_change_while_the_service_is_used(net: Net, either_mode: Callable[[], Edge]) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(1, NODE) as endpoints:
            for ranges, allowed in (
                ([], True), (["10.0.0.0/8"], False), (["0.0.0.0/0"], True),
                (["fd00::/8"], False), (["192.168.7.0/24"], True), ([], True),
            ):  # fmt: skip
                await serve(world, endpoints, ranges)
                for door in DOORS:
                    if allowed:
                        assert await from_site(net.outside, ask(*door)) == b"0"
                    else:
                        assert await from_site(net.outside, refused(*door))
            await world.gone("web")

    net.node.do(story())


def test_a_udp_client_is_cut_off_in_the_middle(net: Net, either_mode: Callable[[], Edge]) -> None:
    async def story() -> None:
        async with (
            running(either_mode) as world,
            udp_socket(local=(NODE, 0)) as server,
            udp_socket(remote=(POOL, 80)) as client,
        ):
            server.answer = lambda data: b"dns:" + data
            endpoint = server.transport.get_extra_info("sockname")
            await serve(world, [endpoint], [f"{NODE}/32"], "UDP")
            assert await asked(client) == b"dns:hello"
            await serve(world, [endpoint], [f"{OUTSIDE}/32"], "UDP")
            client.transport.sendto(b"?")  # type: ignore[attr-defined]
            for door in DOORS:
                assert await from_site(net.outside, query(*door)) == b"dns:hello"
            assert await query(PORTAL, 80) == b"dns:hello"
            assert b"?" not in [server.heard.get_nowait()[0] for _ in range(server.heard.qsize())]

    net.node.do(story())


@pytest.mark.parametrize("new_edge", [edge_with_a_table, kernel_edge])
def test_ranges_of_ipv6(net6: Net, new_edge: Callable[[], Edge]) -> None:
    async def story() -> None:
        six = "2001:db8:ff::9"
        async with running(new_edge) as world, served_in(net6.pod, POD6) as endpoint:
            await serve(world, [endpoint], ["2001:db8:1::99/128", "0.0.0.0/0"], pool=six)
            for address, port in ((six, 80), (NODE6, 30080)):
                assert await from_site(net6.outside, ask(address, port))
                assert await from_site(net6.pod, refused(address, port))
                assert await refused(address, port)
            await serve(world, [endpoint], ["2001:db8:1::/65", "2001:db8:2::/64"], pool=six)
            for site in (net6.outside, net6.pod, net6.node):
                assert await from_site(site, ask(six, 80))
            await serve(world, [endpoint], ["0.0.0.0/0"], pool=six)
            assert await from_site(net6.outside, refused(six, 80))

    net6.node.do(story())
