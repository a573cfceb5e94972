"""The mode nft: the kernel forwards, the client's address is kept, and promises of the other mode
hold (``either_mode`` in the other files)."""

from __future__ import annotations

import asyncio
import fcntl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.netfilter.sites import Site
from tests.proxy.conftest import kernel_edge
from tests.proxy.test_policies import on_nodes
from tests.proxy.test_portals import PORTAL, PUBLIC, asked, from_site, greeters, query, refused
from tests.proxy.world import (
    BRIDGE,
    NODE,
    OUTSIDE,
    POD,
    Net,
    World,
    ask,
    endpoints_object,
    running,
    tcp_server,
    udp_socket,
    until,
)

from k8slite.api.kinds.node.types import Node
from k8slite.api.meta import ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge, Unsupported
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.joined import JoinedEdge
from k8slite.netfilter.nft.edge import TableEdge

WEB = "default/web:"


async def who(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say from where the client seems to come."""
    await reader.read()
    writer.write(writer.get_extra_info("peername")[0].encode())


@asynccontextmanager
async def served_in(site: Site, host: str, port: int = 8080) -> AsyncIterator[tuple[str, int]]:
    """``who`` as a server of another namespace."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        async with tcp_server(who, host, port):
            loop.call_soon_threadsafe(begun.put_nowait, None)
            await asyncio.Event().wait()

    serving = site.begin(serve())
    await begun.get()
    try:
        yield host, port
    finally:
        serving.cancel()


@pytest.fixture
def routed(net: Net) -> Net:
    """Redirects use up what the kernel sends of ICMP errors to one host."""
    devices = ("all", "up0", "pod0")
    for name in ("ip_forward=1", *(f"conf.{device}.send_redirects=0" for device in devices)):
        net.node.run("sysctl", "-q", "-w", f"net.ipv4.{name}")
    return net


async def serve(world: World, endpoints: list[tuple[str, int]], **more: object) -> None:
    await world.serve(
        "web", PORTAL, endpoints, external_ips=(PUBLIC,), type="NodePort", node_port=30080, **more
    )


def test_a_pod_of_this_node_sees_the_client_itself(routed: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, served_in(routed.pod, POD) as endpoint:
            await serve(world, [endpoint])
            for address, port in ((PORTAL, 80), (PUBLIC, 80), (NODE, 30080)):
                assert await from_site(routed.outside, ask(address, port)) == OUTSIDE.encode()
                assert (await ask(address, port)).decode() in (NODE, BRIDGE)
            # Nothing leads from the loopback to a pod.
            assert await refused("127.0.0.1", 30080)

    routed.node.do(story())


def test_an_endpoint_elsewhere_answers_by_way_of_this_node(routed: Net) -> None:
    async def story() -> None:
        # As a pod of another node would: it knows a way of its own to every client.
        async with running(kernel_edge) as world, served_in(routed.outside, OUTSIDE) as endpoint:
            await serve(world, [endpoint])
            assert await from_site(routed.outside, ask(PORTAL, 80)) == NODE.encode()
            assert await ask(PORTAL, 80) == NODE.encode()
            assert await from_site(routed.pod, ask(PORTAL, 80)) == POD.encode()

    routed.node.do(story())


def test_a_pod_reaches_itself_through_its_service(routed: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, served_in(routed.pod, POD) as endpoint:
            await serve(world, [endpoint])
            assert await from_site(routed.pod, ask(PORTAL, 80)) == BRIDGE.encode()

    routed.node.do(story())


def test_every_endpoint_has_its_turn(net: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, greeters(3, NODE) as endpoints:
            await serve(world, endpoints)
            heard = [await ask(PORTAL, 80) for _ in range(9)]
            assert Counter(heard) == {b"0": 3, b"1": 3, b"2": 3}
            assert heard[:3] == heard[3:6] == heard[6:]
            await world.put(endpoints_object("web", endpoints[:2]))
            await until(lambda: world.proxy.settled)
            assert Counter([await ask(PORTAL, 80) for _ in range(8)]) == {b"0": 4, b"1": 4}

    net.node.do(story())


def test_a_client_stays_with_its_endpoint_as_long_as_that_is_listed(net: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, greeters(4, NODE) as endpoints:
            await serve(world, endpoints, session_affinity="ClientIP")
            await from_site(net.pod, ask(PORTAL, 80))  # so that 0 is not the one
            [mine] = {await ask(PORTAL, 80) for _ in range(5)}
            own = endpoints[int(mine)]
            others = [endpoint for endpoint in endpoints if endpoint != own]
            for row in ([own], [*others[1:], own], [own, *others]):
                await world.put(endpoints_object("web", row))
                await until(lambda: world.proxy.settled)
                assert {await ask(PORTAL, 80) for _ in range(4)} == {mine}
            await world.put(endpoints_object("web", others))
            await until(lambda: world.proxy.settled)
            [now] = {await ask(PORTAL, 80) for _ in range(5)}
            assert now != mine
            await world.put(endpoints_object("web", endpoints))
            await until(lambda: world.proxy.settled)
            assert {await ask(PORTAL, 80) for _ in range(4)} == {now}

    net.node.do(story())


def test_an_established_connection_outlives_its_endpoints_place(routed: Net) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(running(kernel_edge))
            port = await stack.enter_async_context(tcp_server(echo, NODE))
            others = await stack.enter_async_context(greeters(1, NODE))
            await serve(world, [(NODE, port)])
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            for row in (others, []):
                await world.put(endpoints_object("web", row))
                await until(lambda: world.proxy.settled)
                writer.write(b"still")
                assert await reader.readexactly(5) == b"still"
            await world.gone("web")
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
            writer.close()

    routed.node.do(story())


def test_without_endpoints_everybody_is_refused_at_once(net: Net) -> None:
    async def udp_refused(address: str, port: int) -> bool:
        async with udp_socket(remote=(address, port)) as client:
            told = await asked(client)  # on the host itself the kernel does not even send
            return told.startswith((b"ConnectionRefusedError", b"PermissionError"))

    async def story() -> None:
        async with running(kernel_edge) as world:
            await serve(world, [])
            await world.serve("dns", "192.168.3.53", [], protocol="UDP", port=53)
            for site in (net.node, net.pod, net.outside):
                for address, port in ((PORTAL, 80), (PUBLIC, 80), (NODE, 30080)):
                    assert await from_site(site, refused(address, port))
                assert await from_site(site, udp_refused("192.168.3.53", 53))

    net.node.do(story())


def test_clients_kept_to_this_node_and_those_that_are_not(routed: Net) -> None:
    async def story() -> None:
        async with (
            running(kernel_edge) as world,
            served_in(routed.pod, POD) as here,
            greeters(1, NODE) as elsewhere,
        ):
            await serve(world, [here, *elsewhere], external_traffic_policy="Local")
            told = on_nodes(endpoints_object("web", [here, *elsewhere]), NODE, "elsewhere")
            await world.put(told)
            await until(lambda: world.proxy.settled)
            for address, port in ((PUBLIC, 80), (NODE, 30080)):
                heard = {await from_site(routed.outside, ask(address, port)) for _ in range(4)}
                assert heard == {OUTSIDE.encode()}
                assert b"0" in {await ask(address, port) for _ in range(4)}
            await world.put(on_nodes(endpoints_object("web", elsewhere), "elsewhere"))
            await until(lambda: world.proxy.settled)
            assert await from_site(routed.outside, refused(PUBLIC, 80))
            assert await from_site(routed.pod, ask(PORTAL, 80)) == b"0"

    routed.node.do(story())


def test_a_udp_flow_leaves_an_endpoint_that_is_gone_at_once(net: Net) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(running(kernel_edge))
            servers = {}
            for name in (b"a", b"b"):
                server = await stack.enter_async_context(udp_socket(local=(NODE, 0)))
                server.answer = lambda data, name=name: name + b":" + data  # type: ignore[misc]
                servers[name] = server.transport.get_extra_info("sockname")
            client = await stack.enter_async_context(udp_socket(remote=(PORTAL, 53)))
            await world.serve("dns", PORTAL, [servers[b"a"]], protocol="UDP", port=53)
            assert await asked(client) == b"a:hello"
            await world.put(endpoints_object("dns", list(servers.values()), "UDP"))
            await until(lambda: world.proxy.settled)
            assert await asked(client) == b"a:hello"
            await world.put(endpoints_object("dns", [servers[b"b"]], "UDP"))
            await until(lambda: world.proxy.settled)
            assert await asked(client) == b"b:hello"
            await world.gone("dns")
            client.transport.sendto(b"?")  # type: ignore[attr-defined]
            with pytest.raises(TimeoutError):
                await asked(client, wait=0.1)

    net.node.do(story())


def test_who_shall_hear_of_the_client_by_a_header_is_served_by_a_listener(net: Net) -> None:
    async def first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        await reader.read()  # to its end: closed with words unread, a connection is reset
        writer.write(line)

    async def story() -> None:
        async with running(kernel_edge) as world, tcp_server(first_line, NODE) as port:
            asks = {"k8slite.io/client-address": "proxy-v1"}
            await serve(world, [(NODE, port)], annotations=asks)
            assert WEB in world.proxy.listeners.ports
            said = await from_site(net.outside, ask(PORTAL, 80, b"x\n"))
            assert said.startswith(f"PROXY TCP4 {OUTSIDE} {PORTAL} ".encode())
            for address in (NODE, "127.0.0.1"):
                assert (await ask(address, 30080, b"x\n")).startswith(b"PROXY TCP4 ")
            await serve(world, [(NODE, port)])
            await until(lambda: WEB not in world.proxy.listeners.ports and world.proxy.settled)
            assert await from_site(net.outside, ask(PORTAL, 80, b"x\n")) == b"x\n"

    net.node.do(story())


def test_what_came_to_a_service_is_counted(net: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, greeters(2, NODE) as endpoints:
            await serve(world, endpoints)
            for _ in range(5):
                await ask(PORTAL, 80)
            await world.put(endpoints_object("web", endpoints[:1]))
            await until(lambda: world.proxy.settled)
            await ask(NODE, 30080)
            assert (await world.proxy.connections())[WEB] == 6
            told = b"".join([piece async for piece in world.proxy.report.stats(endpoints=False)])
            assert b'"connections":6' in told

    net.node.do(story())


def test_a_flushed_table_comes_back_as_soon_as_that_is_heard(net: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge, look_every=60.0) as world, greeters(1, NODE) as endpoints:
            await serve(world, endpoints)
            syncs = world.proxy.counters.rule_syncs
            await asyncio.to_thread(net.node.run, "nft", "flush", "ruleset")
            await until(lambda: world.proxy.counters.rule_syncs > syncs)
            assert await ask(PORTAL, 80) == b"0"

    net.node.do(story())


def test_rules_of_the_other_mode_go_when_the_mode_changes(net: Net) -> None:
    def userspace() -> Edge:
        return choose_edge(Clock(), pod_network="172.16.0.0/16", bridge="pod0")

    async def serves(
        new_edge: Callable[[], Edge], endpoints: list[tuple[str, int]], *, last: bool
    ) -> None:
        async with running(new_edge, leaves_rules=not last) as world:
            await serve(world, endpoints)
            assert await ask(PORTAL, 80) == b"0"
            rules = net.node.run("iptables-legacy-save", "-t", "nat")
            assert ("KUBE-PORTALS" in rules) == (new_edge is userspace)
            table = net.node.run("nft", "list", "table", "ip", "k8slite")
            assert ("service-default/web" in table) == (new_edge is kernel_edge)

    async def story() -> None:
        async with greeters(1, NODE) as endpoints:
            await serves(kernel_edge, endpoints, last=False)
            await serves(userspace, endpoints, last=False)
            await serves(kernel_edge, endpoints, last=True)

    net.node.do(story())


def test_the_kernel_goes_on_until_the_other_modes_rules_are_written(
    net: Net, tmp_path: Path
) -> None:
    lock = tmp_path / "xtables.lock"

    def userspace() -> Edge:
        chains = LegacyEdge(Clock(), lock_wait=0.1, lock_path=lock)
        return JoinedEdge(chains, TableEdge("172.16.0.0/16", "pod0"), 256)

    async def story() -> None:
        async with greeters(1, NODE) as endpoints:
            async with running(kernel_edge, leaves_rules=True) as world:
                await serve(world, endpoints)
            with lock.open("w") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                starting = asyncio.create_task(served_by(userspace, endpoints))
                for _ in range(100):
                    assert await ask(PORTAL, 80) == b"0"
            assert await starting == b"0"

    net.node.do(story())


async def served_by(new_edge: Callable[[], Edge], endpoints: list[tuple[str, int]]) -> bytes:
    async with running(new_edge) as world:
        await serve(world, endpoints)
        return await ask(PORTAL, 80)


def test_without_nftables_userspace_goes_on_and_it_is_said(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(self: TableEdge) -> None:
        raise Unsupported("this kernel has no nftables")

    monkeypatch.setattr(TableEdge, "try_out", lacking)

    async def story() -> None:
        settings = {"proxy_mode": "nft"}
        async with running(kernel_edge, settings=settings) as world, greeters(1) as endpoints:
            await serve(world, endpoints)
            assert WEB in world.proxy.listeners.ports
            assert await ask(PORTAL, 80) == b"0"
            assert world.recorded.events == []  # there is no such node yet
            await world.put(Node(metadata=ObjectMeta(name=NODE)))
            await until(lambda: world.recorded.events)
            [(key, reason, message)] = world.recorded.events
            assert (key, reason) == (NODE, "KernelModeUnavailable")
            assert "this kernel has no nftables" in message

    net.node.do(story())


def test_udp_is_forwarded_from_everywhere(net: Net) -> None:
    async def story() -> None:
        async with running(kernel_edge) as world, udp_socket(local=(NODE, 0)) as server:
            server.answer = lambda data: b"dns:" + data
            endpoint = server.transport.get_extra_info("sockname")
            await world.serve(
                "dns", PORTAL, [endpoint], protocol="UDP", port=53, type="NodePort", node_port=30053
            )
            for site in (net.node, net.pod, net.outside):
                assert await from_site(site, query(PORTAL, 53)) == b"dns:hello"
                assert await from_site(site, query(NODE, 30053)) == b"dns:hello"

    net.node.do(story())
