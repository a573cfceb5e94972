"""Portals with real rules: who reaches a service, who does not, and what follows from changes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from tests.netfilter.sites import Site
from tests.proxy.world import (
    BRIDGE,
    NODE,
    POD,
    Datagrams,
    Net,
    World,
    ask,
    endpoints_object,
    running,
    service_object,
    tcp_server,
    udp_socket,
    until,
)

from k8slite.api.kinds.service.types import ClientIPConfig, ServicePort, SessionAffinityConfig
from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import Edge, NotPermitted
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.portals import Change, Desired
from k8slite.netfilter.restore import NftEdge

PORTAL = "192.168.3.214"
PUBLIC = "12.0.0.5"
NewEdge = Callable[[], Edge]


def greeter(name: bytes):  # type: ignore[no-untyped-def]
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(name)

    return greet


@asynccontextmanager
async def greeters(count: int, host: str = "127.0.0.1") -> AsyncIterator[list[tuple[str, int]]]:
    """So many servers in this namespace; each answers with its number."""
    async with AsyncExitStack() as stack:
        yield [
            (host, await stack.enter_async_context(tcp_server(greeter(b"%d" % n))))
            for n in range(count)
        ]


async def from_site(site: Site, work):  # type: ignore[no-untyped-def]
    """Run ``work`` in another namespace and wait for it here."""
    return await asyncio.wrap_future(site.begin(work))


async def refused(address: str, port: int) -> bool:
    """Whether connecting, or the first byte after it, meets a reset and no data."""
    try:
        return await ask(address, port, b"hello") == b"never"
    except TimeoutError:
        raise
    except OSError:  # also "not connected", when the reset comes before the last word
        return True


def test_a_service_is_reached_from_host_container_and_outside(
    net: Net, either_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints, external_ips=(PUBLIC,))
            for address in (PORTAL, PUBLIC):
                assert await ask(address, 80) == b"0"
                assert await from_site(net.pod, ask(address, 80)) == b"0"
                assert await from_site(net.outside, ask(address, 80)) == b"0"

    net.node.do(story())


def test_a_pod_reaches_itself_through_its_service(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world:
            ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()

            async def pod() -> bytes:
                async with tcp_server(greeter(b"myself")) as port:
                    loop.call_soon_threadsafe(ready.set_result, port)
                    await asyncio.wrap_future(served)
                    return await ask(PORTAL, 80)

            served: concurrent.futures.Future[None] = concurrent.futures.Future()
            answer = net.pod.begin(pod())
            await world.serve("web", PORTAL, [(POD, await ready)])
            served.set_result(None)
            assert await asyncio.wrap_future(answer) == b"myself"

    net.node.do(story())


def test_docker_rules_in_nftables_and_portals_in_legacy_live_together(
    net: Net, new_edge: NewEdge
) -> None:
    docker = (
        "*nat\n:DOCKER - [0:0]\n"
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n"
        "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n"
        "-A POSTROUTING -s 172.16.5.0/24 ! -o pod0 -j MASQUERADE\n"
        f"-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination {POD}:8081\nCOMMIT\n"
    )

    async def in_pod(over: asyncio.Event) -> None:
        async with tcp_server(greeter(b"published"), POD, 8081):
            await over.wait()

    async def story() -> None:
        over = asyncio.Event()
        pod = net.pod.begin(in_pod(over))
        async with running(new_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            assert await ask(PORTAL, 80) == b"0"
            assert await from_site(net.pod, ask(PORTAL, 80)) == b"0"
            assert await from_site(net.outside, ask(NODE, 8081)) == b"published"
        pod.cancel()

    net.node.run("iptables-nft-restore", input=docker)
    net.node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    try:
        net.node.do(story())
    finally:
        net.node.run("nft", "delete", "table", "ip", "nat")


def test_a_stranger_at_the_random_port_gets_nothing(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            port = world.proxy.listeners.ports["default/web:"]
            for address in ("127.0.0.1", NODE, BRIDGE):
                assert await refused(address, port)
            assert await from_site(net.pod, refused(BRIDGE, port))
            assert await from_site(net.outside, refused(NODE, port))
            counters = world.proxy.counters.ports["default/web:"]
            assert counters.strangers == 5
            assert counters.connections == 0
            # One portal's listener is no way into another's either.
            await world.serve("other", "192.168.3.7", endpoints)
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_connections_are_spread_evenly_even_when_they_come_at_once(
    net: Net, either_mode: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(6, NODE) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            answers = await asyncio.gather(*(ask(PORTAL, 80) for _ in range(120)))
            assert Counter(answers) == {b"%d" % number: 20 for number in range(6)}

    net.node.do(story())


def test_client_ip_affinity_keeps_each_client_with_one_endpoint(
    net: Net, either_mode: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(2, NODE) as endpoints:
            await world.serve(
                "web", PORTAL, endpoints, session_affinity="ClientIP",
                session_affinity_config=SessionAffinityConfig(
                    client_ip=ClientIPConfig(timeout_seconds=60)
                ),
            )  # fmt: skip
            here = {await ask(PORTAL, 80) for _ in range(5)}
            there = {await from_site(net.pod, ask(PORTAL, 80)) for _ in range(5)}
            assert len(here) == len(there) == 1
            assert here != there

    net.node.do(story())


def test_endpoint_changes_keep_the_listener_and_the_connections(
    net: Net, new_edge: NewEdge
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)

    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints, tcp_server(echo) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            listener = world.proxy.listeners.ports["default/web:"]
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            syncs = world.proxy.counters.rule_changes
            await world.put(endpoints_object("web", endpoints))
            await until(lambda: world.proxy.settled)
            assert await ask(PORTAL, 80) == b"0"
            writer.write(b"after")
            assert await reader.readexactly(5) == b"after"
            assert world.proxy.listeners.ports["default/web:"] == listener
            assert world.proxy.counters.rule_changes == syncs
            writer.close()

    net.node.do(story())


def test_dead_endpoints_are_passed_over(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as alive:
            dead = [("127.0.0.1", 1), ("127.0.0.1", 2)]
            await world.serve("web", PORTAL, [*alive, *dead])
            assert [await ask(PORTAL, 80) for _ in range(10)] == [b"0"] * 10
            await world.put(endpoints_object("web", dead))
            await until(lambda: world.proxy.settled)
            assert await refused(PORTAL, 80)

    net.node.do(story())


def test_an_endpoint_that_never_answers_costs_one_attempt(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, connect_timeouts=(0.1, 0.2)) as world, greeters(1) as alive:
            # Nobody has this address: the connect attempt meets silence.
            await world.serve("web", PORTAL, [*alive, ("172.16.5.77", 80)])
            assert [await ask(PORTAL, 80) for _ in range(6)] == [b"0"] * 6

    net.node.do(story())


def test_a_port_that_changes_moves_its_rules(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            await world.serve("web", PORTAL, endpoints, port=8080, external_ips=(PUBLIC,))
            assert await ask(PORTAL, 8080) == b"0"
            assert await ask(PUBLIC, 8080) == b"0"
            rules = net.node.run("iptables-legacy-save", "-t", "nat")
            assert "--dport 80 " not in rules
            assert rules.count("--dport 8080 ") == 4

    net.node.do(story())


def test_several_ports_each_have_their_own_endpoints(net: Net, either_mode: NewEdge) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(2, NODE) as endpoints:
            ports = (
                ServicePort(name="http", port=80, protocol="TCP"),
                ServicePort(name="https", port=443, protocol="TCP"),
            )
            both = endpoints_object("web", endpoints[:1], port_name="http")
            more = endpoints_object("web", endpoints[1:], port_name="https")
            await world.put(
                type(both)(metadata=both.metadata, subsets=both.subsets + more.subsets),
                service_object("web", PORTAL, ports),
            )
            await until(lambda: world.proxy.settled)
            assert await ask(PORTAL, 80) == b"0"
            assert await ask(PORTAL, 443) == b"1"

    net.node.do(story())


def test_headless_and_external_services_open_nothing(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world:
            port = (ServicePort(port=80, protocol="TCP"),)
            await world.put(
                service_object("headless", "None", port),
                service_object("unassigned", "", port),
                service_object("external", PORTAL, port, type="ExternalName"),
            )
            await world.serve("web", "192.168.3.8", [])
            assert list(world.proxy.listeners.ports) == ["default/kubernetes:", "default/web:"]

    net.node.do(story())


def test_a_removed_service_is_gone_but_its_connections_drain(net: Net, new_edge: NewEdge) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await reader.read()
        writer.write(b"bye")

    async def story() -> None:
        async with running(new_edge) as world, tcp_server(slow) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            writer.write(b"here")
            assert await reader.readexactly(4) == b"here"
            listener = world.proxy.listeners.ports["default/web:"]
            await world.gone("web")
            assert "default/web" not in net.node.run("iptables-legacy-save", "-t", "nat")
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", listener)) != 0
            writer.write_eof()
            assert await reader.read() == b"bye"
            writer.close()

    net.node.do(story())


def test_what_does_not_drain_in_time_is_reset(net: Net, new_edge: NewEdge) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        await reader.read()

    async def story() -> None:
        async with running(new_edge, drain=0.1) as world, tcp_server(mute) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            await reader.readexactly(1)
            await world.delete("web")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    net.node.do(story())


def test_flushed_rules_come_back_by_themselves(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge) as world, greeters(1) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            tool = "iptables-nft" if isinstance(world.edge, NftEdge) else "iptables-legacy"
            syncs = world.proxy.counters.rule_syncs
            await asyncio.to_thread(net.node.run, tool, "-w", "-t", "nat", "-F")
            await until(lambda: world.proxy.counters.rule_syncs > syncs)
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_a_proxy_that_died_is_followed_by_one_that_converges(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with greeters(1) as endpoints:
            async with running(new_edge, leaves_rules=True) as first:
                await first.serve("web", PORTAL, endpoints)
                await first.serve("stale", "192.168.3.9", endpoints)
            async with running(new_edge) as second:
                await second.serve("web", PORTAL, endpoints)
                rules = net.node.run("iptables-legacy-save", "-t", "nat")
                assert rules.count("default/web:") == 2
                assert "default/stale" not in rules
                assert f"--to-ports {second.proxy.listeners.ports['default/web:']}" in rules

    net.node.do(story())


def test_two_services_with_one_public_address_are_told_apart(
    net: Net, either_mode: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_mode) as world, greeters(2, NODE) as endpoints:
            await world.serve("first", PORTAL, endpoints[:1], external_ips=(PUBLIC,))
            await world.serve("second", "192.168.3.9", endpoints[1:], external_ips=(PUBLIC,))
            assert await ask(PUBLIC, 80) == b"0"
            assert await ask("192.168.3.9", 80) == b"1"
            [(key, reason, message)] = world.recorded.events
            assert (key, reason) == ("default/second", "PortalConflict")
            assert "12.0.0.5 port 80/tcp belongs to default/first:" in message
            await world.gone("first")
            assert await ask(PUBLIC, 80) == b"1"

    net.node.do(story())


def test_trouble_with_netfilter_is_an_event_and_ends_by_itself(net: Net) -> None:
    forbidden = False

    class Forbidding(LegacyEdge):
        """The kernel's refusal without taking the capability from the whole test process."""

        async def sync(self, desired: Desired) -> Change:
            self._forbid()
            return await super().sync(desired)

        async def change(self, change: Change) -> None:
            self._forbid()
            await super().change(change)

        def _forbid(self) -> None:
            if forbidden:
                raise NotPermitted("changing iptables needs root or CAP_NET_ADMIN")

    async def story() -> None:
        nonlocal forbidden
        async with running(lambda: Forbidding(Clock())) as world, greeters(1) as endpoints:
            forbidden = True
            await world.put(
                endpoints_object("web", endpoints),
                service_object("web", PORTAL, (ServicePort(port=80, protocol="TCP"),)),
            )
            await until(lambda: world.recorded.events)
            assert world.recorded.events[0][:2] == ("default/web", "PortalRulesNotWritten")
            assert "CAP_NET_ADMIN" in world.proxy.trouble
            forbidden = False
            await until(lambda: not world.proxy.trouble)
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_healthz_answers(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, health_port=10249) as world:
            await world.serve("web", PORTAL, [])
            async with aiohttp.ClientSession() as session:
                async with session.get("http://127.0.0.1:10249/healthz") as answer:
                    assert (answer.status, await answer.text()) == (200, "ok")

    net.node.do(story())


# -- UDP -------------------------------------------------------------------------------------------


async def query(address: str, port: int, text: bytes = b"hello", wait: float = 5) -> bytes:
    async with udp_socket(remote=(address, port)) as client:
        return await asked(client, text, wait)


async def asked(client: Datagrams, text: bytes = b"hello", wait: float = 5) -> bytes:
    """The answer; what came before it was asked for does not count."""
    while not client.heard.empty():
        client.heard.get_nowait()
    client.transport.sendto(text)  # type: ignore[attr-defined]
    async with asyncio.timeout(wait):
        data, _ = await client.heard.get()
        return data


@asynccontextmanager
async def udp_greeter(name: bytes) -> AsyncIterator[tuple[str, int]]:
    async with udp_socket(local=("127.0.0.1", 0)) as server:
        server.answer = lambda data: name + b":" + data
        yield "127.0.0.1", server.transport.get_extra_info("sockname")[1]


async def unanswered(address: str, port: int, world: World) -> bool:
    """Whether a datagram to ``address`` is counted as a stranger's and not answered."""
    counters = world.proxy.counters.ports["default/dns:"]
    before = counters.strangers
    async with udp_socket(remote=(address, port)) as client:
        client.transport.sendto(b"psst")  # type: ignore[attr-defined]
        await until(lambda: counters.strangers > before)
        return client.heard.empty()


def test_udp_is_served_on_the_portal_and_nowhere_else(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge) as world, udp_greeter(b"dns") as endpoint:
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
            assert await query(PORTAL, 53) == b"dns:hello"
            assert await from_site(net.pod, query(PORTAL, 53)) == b"dns:hello"
            assert await from_site(net.outside, query(PORTAL, 53)) == b"dns:hello"
            port = world.proxy.listeners.ports["default/dns:"]
            for site, address in (
                (net.node, "127.0.0.1"), (net.node, NODE), (net.pod, BRIDGE), (net.outside, NODE),
            ):  # fmt: skip
                assert await from_site(site, unanswered(address, port, world))
            assert world.proxy.counters.ports["default/dns:"].connections == 3

    net.node.do(story())


def test_udp_sessions_are_kept_while_used_and_end_with_silence(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with (
            running(new_edge, udp_idle=0.3) as world,
            udp_greeter(b"a") as one,
            udp_greeter(b"b") as two,
        ):
            await world.serve("dns", PORTAL, [one, two], protocol="UDP", port=53)
            counters = world.proxy.counters.ports["default/dns:"]
            async with udp_socket(remote=(PORTAL, 53)) as client:
                heard = set()
                for _ in range(10):
                    client.transport.sendto(b"?")  # type: ignore[attr-defined]
                    heard.add((await client.heard.get())[0])
                assert len(heard) == 1
                assert counters.connections == counters.active == 1
                await until(lambda: counters.active == 0)
                client.transport.sendto(b"?")  # type: ignore[attr-defined]
                heard.add((await client.heard.get())[0])
                assert heard == {b"a:?", b"b:?"}

    net.node.do(story())


def test_udp_clients_are_told_nothing_when_an_endpoint_is_dead_but_the_next_is_tried(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_greeter(b"a") as alive:
            await world.serve("dns", PORTAL, [alive, ("127.0.0.1", 9)], protocol="UDP", port=53)
            async with udp_socket(remote=(PORTAL, 53)) as client:

                async def insist() -> None:
                    while client.heard.empty():
                        client.transport.sendto(b"?")  # type: ignore[attr-defined]
                        await asyncio.sleep(0.02)

                async with asyncio.timeout(5):
                    await insist()
                assert (await client.heard.get())[0] == b"a:?"

    net.node.do(story())


def test_a_flood_of_udp_clients_is_bounded(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, udp_greeter(b"a") as endpoint:
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
            world.proxy.listeners["default/dns:"].sessions.most = 20  # type: ignore[union-attr]
            counters = world.proxy.counters.ports["default/dns:"]
            async with AsyncExitStack() as clients:  # all stay open: no two share a port
                for _ in range(60):
                    remote = udp_socket(remote=(PORTAL, 53))
                    assert await asked(await clients.enter_async_context(remote)) == b"a:hello"
            assert counters.connections == 60
            assert counters.active == 20

    net.node.do(story())


def test_a_udp_client_that_was_there_first_is_served_once_the_service_is(
    net: Net, either_mode: NewEdge
) -> None:
    """A flow that is tracked already would never meet the new rule."""

    async def story() -> None:
        async with running(either_mode) as world, udp_greeter(b"a") as endpoint:
            async with udp_socket(remote=(PORTAL, 53)) as client:
                client.transport.sendto(b"too early")  # type: ignore[attr-defined]
                await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
                assert await asked(client) == b"a:hello"
                await world.gone("dns")
                await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
                assert await asked(client) == b"a:hello"

    net.node.do(story())
