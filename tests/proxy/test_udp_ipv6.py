"""UDP portals over IPv6, and endpoints of the other family."""

from __future__ import annotations

import asyncio

from tests.netfilter.sites import Site
from tests.proxy.world import udp_socket, until

from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.listeners import Listeners
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.telling.counters import ProxyCounters

PORTALS = ("192.168.3.53", "fd00:3::53")


def rules(listener: int) -> str:
    return f"""
table inet portals {{
  chain output {{
    type nat hook output priority -100
    ip daddr {PORTALS[0]} udp dport 53 redirect to :{listener}
    ip6 daddr {PORTALS[1]} udp dport 53 redirect to :{listener}
  }}
}}
"""


async def exchange(portal: str, endpoint: str, listeners: Listeners, site: Site) -> None:
    """One question through ``portal`` to a server at ``endpoint``, and one past it."""
    async with udp_socket(local=(endpoint, 0)) as server:
        server.answer = lambda data: data.upper()
        port = server.transport.get_extra_info("sockname")[1]
        wanted = PortalPort("default/dns:", "udp", PORTALS, 53, "", None)
        own = listeners.serve(wanted, [Endpoint(endpoint, port)])
        await asyncio.to_thread(site.run, "nft", "-f", "-", input="flush ruleset;" + rules(own))
        async with udp_socket(remote=(portal, 53)) as client:
            for text in (b"hello", b"again"):
                client.transport.sendto(text)  # type: ignore[attr-defined]
                async with asyncio.timeout(5):
                    assert (await client.heard.get())[0] == text.upper()
            assert len(listeners["default/dns:"].flows()) == 1  # type: ignore[union-attr]


def test_both_families_reach_endpoints_of_both() -> None:
    async def story() -> None:
        for endpoint in ("127.0.0.1", "::1"):
            for portal in PORTALS:
                counters = ProxyCounters()
                listeners = Listeners(Clock(), counters, inside=lambda client: True)
                try:
                    await exchange(portal, endpoint, listeners, site)
                    assert counters.ports["default/dns:"].connections == 1
                    assert counters.ports["default/dns:"].strangers == 0
                finally:
                    listeners.shut()

    with Site("dual") as site:
        site.ip("addr", "add", "192.168.7.10/24", "dev", "lo")
        site.ip("addr", "add", "fd00:7::10/64", "dev", "lo")
        site.ip("route", "add", "default", "dev", "lo")
        site.ip("-6", "route", "add", "default", "dev", "lo")
        site.do(story())


def test_a_stranger_over_ipv6_gets_nothing() -> None:
    async def story() -> None:
        counters = ProxyCounters()
        listeners = Listeners(Clock(), counters, inside=lambda client: True)
        try:
            wanted = PortalPort("default/dns:", "udp", ("FD00:3:0::0053",), 53, "", None)
            own = listeners.serve(wanted, [Endpoint("::1", 9)])
            await asyncio.to_thread(site.run, "nft", "-f", "-", input=rules(own))
            async with udp_socket(remote=("::1", own)) as stranger:
                stranger.transport.sendto(b"psst")  # type: ignore[attr-defined]
                await until(lambda: counters.ports["default/dns:"].strangers)
            # However the portal's address is written, it is the portal.
            async with udp_socket(remote=("fd00:3::53", 53)) as client:
                client.transport.sendto(b"hello")  # type: ignore[attr-defined]
                await until(lambda: counters.ports["default/dns:"].connections)
        finally:
            listeners.shut()

    with Site("dual") as site:
        site.ip("-6", "route", "add", "default", "dev", "lo")
        site.do(story())
