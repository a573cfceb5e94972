"""TCP portals over IPv6, and endpoints of the other family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.netfilter.sites import Site
from tests.proxy.test_connecting import refused_at_the_door
from tests.proxy.world import ask, tcp_server, until

from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.listeners import Listeners
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.telling.counters import PortCounters, ProxyCounters

PORTALS = ("192.168.3.80", "fd00:3::80")
NAME = "default/web:"

RULES = """
flush ruleset
table inet portals {{
  chain output {{
    type nat hook output priority -100
    ip daddr {0} tcp dport 80 redirect to :{2}
    ip6 daddr {1} tcp dport 80 redirect to :{2}
  }}
}}
"""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site("dual") as made:
        made.ip("addr", "add", "192.168.7.10/24", "dev", "lo")
        made.ip("addr", "add", "fd00:7::10/64", "dev", "lo", "nodad")
        made.ip("route", "add", "default", "dev", "lo")
        made.ip("-6", "route", "add", "default", "dev", "lo")
        yield made


@asynccontextmanager
async def served(
    site: Site, *endpoints: Endpoint, client_address: str = ""
) -> AsyncIterator[tuple[Listeners, PortCounters]]:
    """One TCP portal with an address of each family."""
    counters = ProxyCounters()
    listeners = Listeners(Clock(), counters, inside=lambda client: True)
    try:
        port = PortalPort(NAME, "tcp", PORTALS, 80, "", None, client_address=client_address)
        own = listeners.serve(port, endpoints)
        rules = RULES.format(*PORTALS, own)
        await asyncio.to_thread(site.run, "nft", "-f", "-", input=rules)
        yield listeners, counters.of(NAME)
    finally:
        listeners.shut()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_clients_of_both_families_reach_endpoints_of_both(site: Site, host: str) -> None:
    async def story() -> None:
        async with (
            tcp_server(echo, host) as port,
            served(site, Endpoint(host, port)) as (_listeners, counters),
        ):
            for address in PORTALS:
                for size in (1, 300_000):
                    assert await ask(address, 80, b"x" * size) == b"x" * size
            await until(lambda: counters.active == 0)
            assert (counters.connections, counters.strangers) == (4, 0)

    site.do(story())


def test_one_service_has_endpoints_of_both_families(site: Site) -> None:
    async def story() -> None:
        async with (
            tcp_server(echo, "127.0.0.1") as four,
            tcp_server(echo, "::1") as six,
            served(site, Endpoint("127.0.0.1", four), Endpoint("::1", six), Endpoint("::1", 9)) as (
                _,
                counters,
            ),
        ):
            for address in PORTALS * 4:
                assert await ask(address, 80, b"hello") == b"hello"
            assert {e.ip for e, c in counters.endpoints.items() if c.connections} == {
                "127.0.0.1", "::1",
            }  # fmt: skip
            assert counters.of(Endpoint("::1", 9)).failures

    site.do(story())


def test_strangers_over_ipv6_get_nothing(site: Site) -> None:
    async def story() -> None:
        async with (
            tcp_server(echo, "::1") as port,
            served(site, Endpoint("::1", port)) as (listeners, counters),
        ):
            for address in ("::1", "fd00:7::10", "127.0.0.1"):
                with pytest.raises(ConnectionResetError):
                    await ask(address, listeners.ports[NAME], b"psst")
            assert (counters.strangers, counters.connections) == (3, 0)

    site.do(story())


def test_without_endpoints_both_families_are_refused_at_once(site: Site) -> None:
    async def story() -> None:
        async with served(site):
            for address in PORTALS:
                assert await refused_at_the_door(address, 80)

    site.do(story())


@pytest.mark.parametrize("address", PORTALS)
def test_the_header_tells_addresses_of_the_clients_family(site: Site, address: str) -> None:
    async def story() -> None:
        async with (
            tcp_server(echo, "127.0.0.1") as port,
            served(site, Endpoint("127.0.0.1", port), client_address="proxy-v1"),
        ):
            reader, writer = await asyncio.open_connection(address, 80)
            host, number = writer.get_extra_info("sockname")[:2]
            family = "TCP6" if ":" in address else "TCP4"
            assert await reader.readline() == (
                f"PROXY {family} {host} {address} {number} 80\r\n".encode()
            )
            writer.close()

    site.do(story())
