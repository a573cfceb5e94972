"""Node ports: reached at every address of the node, held while they are a service's, never taken
from a process of the host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.proxy.test_portals import (
    PORTAL,
    PUBLIC,
    from_site,
    greeters,
    query,
    refused,
    udp_greeter,
)
from tests.proxy.world import (
    BRIDGE,
    NODE,
    Net,
    World,
    ask,
    running,
    service_object,
    udp_socket,
    until,
)

from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    ServicePort,
    ServiceStatus,
)
from k8slite.decide.allocation import NODE_PORTS
from k8slite.netfilter.edge import Edge
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.portals import Claim
from k8slite.netfilter.restore import NftEdge
from k8slite.roles.proxy.holds import Holds

NewEdge = Callable[[], Edge]
NODE_PORT = 30080


def listing(net: Net, world: World) -> str:
    tool = "iptables-nft-save" if isinstance(world.edge, NftEdge) else "iptables-legacy-save"
    return net.node.run(tool, "-t", "nat")


async def expose(
    world: World,
    name: str,
    endpoints: list[tuple[str, int]],
    node_port: int = NODE_PORT,
    protocol: str = "TCP",
) -> None:
    await world.serve(
        name, PORTAL, endpoints, protocol=protocol, type="NodePort", node_port=node_port
    )


def test_a_node_port_is_reached_from_outside_pod_and_host(net: Net, either_edge: NewEdge) -> None:
    """As kube-proxy v0.18 had it: from the host itself at 127.0.0.1 and at its own addresses."""

    async def story() -> None:
        async with running(either_edge) as world, greeters(1) as endpoints:
            before = listing(net, world)
            await expose(world, "web", endpoints)
            assert await from_site(net.outside, ask(NODE, NODE_PORT)) == b"0"
            for address in (NODE, BRIDGE):
                assert await from_site(net.pod, ask(address, NODE_PORT)) == b"0"
            for address in ("127.0.0.1", NODE, BRIDGE):
                assert await ask(address, NODE_PORT) == b"0"
            assert await ask(PORTAL, 80) == b"0"
            assert world.proxy.counters.ports["default/web:"].strangers == 0
            await world.gone("web")
            assert _bare(listing(net, world)) == _bare(before)
            assert await from_site(net.outside, refused(NODE, NODE_PORT))

    net.node.do(story())


def _bare(text: str) -> list[str]:
    """A listing without counters, and without comments that say the time."""
    return [line.split("[")[0] for line in text.splitlines() if not line.startswith("#")]


def test_udp_has_node_ports_too(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge) as world, udp_greeter(b"dns") as endpoint:
            # Clients that were there first: their flows are older than the rules.
            async with udp_socket(remote=("127.0.0.1", NODE_PORT)) as early:
                early.transport.sendto(b"too early")  # type: ignore[attr-defined]
                await expose(world, "dns", [endpoint], protocol="UDP")
                while not early.heard.empty():
                    early.heard.get_nowait()
                early.transport.sendto(b"hello")  # type: ignore[attr-defined]
                async with asyncio.timeout(5):
                    assert (await early.heard.get())[0] == b"dns:hello"
            assert await from_site(net.outside, query(NODE, NODE_PORT)) == b"dns:hello"
            assert await from_site(net.pod, query(BRIDGE, NODE_PORT)) == b"dns:hello"
            for address in ("127.0.0.1", NODE, BRIDGE):
                assert await query(address, NODE_PORT) == b"dns:hello"

    net.node.do(story())


def test_a_node_port_is_held_and_nobody_else_gets_it(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            await expose(world, "web", endpoints)
            for address in ("0.0.0.0", "127.0.0.1", NODE):
                with socket.socket() as thief:
                    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    assert _bind(thief, address, NODE_PORT) == "Address already in use"
            await world.gone("web")
            with socket.socket() as heir:
                assert _bind(heir, "0.0.0.0", NODE_PORT) == ""

    net.node.do(story())


def _bind(sock: socket.socket, address: str, port: int) -> str:
    try:
        sock.bind((address, port))
    except OSError as error:
        return error.strerror or ""
    return ""


def test_a_node_port_that_is_taken_is_said_left_alone_and_had_later(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(new_edge) as world, greeters(1) as endpoints:
            with socket.socket() as other:
                other.bind(("127.0.0.1", NODE_PORT))
                await expose(world, "web", endpoints)
                [(key, reason, message)] = world.recorded.events
                assert (key, reason) == ("default/web", "NodePortTaken")
                assert f"node port {NODE_PORT}/tcp: something else on this host" in message
                assert await ask(PORTAL, 80) == b"0"  # the rest goes on
                assert "NODEPORT" not in listing(net, world)
            await until(lambda: "NODEPORT" in listing(net, world))
            assert await from_site(net.outside, ask(NODE, NODE_PORT)) == b"0"
            assert len(world.recorded.events) == 1

    net.node.do(story())


def test_a_public_address_takes_no_door_of_the_host(net: Net, new_edge: NewEdge) -> None:
    """The node's own address as a public one: free ports are the service's, SSH stays SSH."""

    async def story() -> None:
        async with running(new_edge) as world, greeters(2) as endpoints:
            with socket.create_server(("0.0.0.0", 22)):
                await world.serve("ssh", PORTAL, endpoints, port=22, external_ips=(NODE, PUBLIC))
                [(_, reason, message)] = world.recorded.events
                assert reason == "NodePortTaken"
                assert f"{NODE} port 22/tcp: something else on this host uses it" in message
                assert f"-d {NODE}/32" not in listing(net, world)
                # An address that is not the host's own is nobody's door.
                assert f"-d {PUBLIC}/32" in listing(net, world)
                given = LoadBalancerStatus(ingress=(LoadBalancerIngress(ip=NODE),))
                old = world.service("ssh")
                spec = replace(old.spec, external_ips=())
                status = ServiceStatus(load_balancer=given)
                await world.put(replace(old, spec=spec, status=status))
                await until(lambda: world.proxy.settled)
                assert f"-d {NODE}/32" not in listing(net, world)
            await world.serve("web", "192.168.3.9", endpoints, external_ips=(NODE,))
            assert await from_site(net.outside, ask(NODE, 80)) in (b"0", b"1")

    net.node.do(story())


def test_what_a_server_that_ended_left_keeps_no_port_from_a_service(
    net: Net, new_edge: NewEdge
) -> None:
    """The kernel remembers connections that it closed first for a minute (TIME_WAIT)."""

    async def story() -> None:
        with socket.create_server((NODE, 30080)) as former:
            there = socket.create_connection((NODE, 30080))
            here, _ = former.accept()
            here.close()
            assert there.recv(1) == b""
            there.close()
        async with running(new_edge) as world, greeters(1) as endpoints:
            await expose(world, "web", endpoints)
            assert world.recorded.events == []
            assert await from_site(net.outside, ask(NODE, 30080)) == b"0"
            with pytest.raises(OSError, match="Address already in use"):
                socket.create_server((NODE, 30080))

    net.node.do(story())


def test_a_public_address_is_not_the_way_to_the_masters(net: Net, new_edge: NewEdge) -> None:
    """A node whose rules led it astray could not hear that they should go."""

    async def story() -> None:
        masters = {
            "server": ("https://192.168.7.20:6443",),
            "etcd": ("https://[2001:db8::7]:2379",),
        }
        async with running(new_edge, settings=masters) as world, greeters(1) as endpoints:
            public = {"external_ips": ("192.168.7.20", PUBLIC)}
            await world.serve("thief", PORTAL, endpoints, port=6443, **public)
            assert "192.168.7.20/32" not in listing(net, world)
            [(_, _, message)] = world.recorded.events
            assert "192.168.7.20 port 6443/tcp: this node reaches the masters there" in message
            assert await ask(PUBLIC, 6443) == b"0"

    net.node.do(story())


def test_listeners_take_no_port_that_a_service_may_be_given(net: Net, new_edge: NewEdge) -> None:
    """Where the host's random ports and the node ports overlap."""
    ranges = (
        "net.ipv4.ip_local_port_range=32000 33600",
        "net.ipv4.ip_local_port_range=32768 60999",
    )

    async def story() -> None:
        async with running(new_edge) as world:
            for number in range(12):
                port = ServicePort(port=80, protocol="UDP" if number % 2 else "TCP")
                await world.put(service_object(f"s{number}", f"192.168.3.{number + 20}", (port,)))
            await until(lambda: len(world.proxy.listeners.ports) == 13)
            assert not set(world.proxy.listeners.ports.values()) & set(NODE_PORTS)

    net.node.run("sysctl", "-q", "-w", ranges[0])
    try:
        net.node.do(story())
    finally:
        net.node.run("sysctl", "-q", "-w", ranges[1])


def test_a_repaired_node_port(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge) as world, greeters(1) as endpoints:
            await expose(world, "web", endpoints)
            tool = "iptables-legacy" if isinstance(world.edge, LegacyEdge) else "iptables-nft"
            syncs = world.proxy.counters.rule_syncs
            await asyncio.to_thread(net.node.run, tool, "-w", "-t", "nat", "-F", "PREROUTING")
            await until(lambda: world.proxy.counters.rule_syncs > syncs)
            assert await from_site(net.outside, ask(NODE, NODE_PORT)) == b"0"

    net.node.do(story())


def test_what_two_portals_hold_is_free_when_both_let_go(net: Net) -> None:
    async def story() -> None:
        holds, claim = Holds(), Claim("", "tcp", NODE_PORT)
        for name in ("a", "b"):
            assert not holds.keep(name, [claim])
        holds.release("a")
        other = Holds()
        assert list(other.keep("c", [claim])) == [claim]
        holds.keep("b", [Claim("", "udp", NODE_PORT)])
        assert not other.keep("c", [claim])
        # Of an address that is not the host's there is nothing to hold.
        assert not other.keep("d", [Claim(PUBLIC, "tcp", NODE_PORT)])
        assert not holds.keep("e", [Claim(PUBLIC, "tcp", NODE_PORT)])
        assert not holds.keep("f", [Claim("2001:db8::5", "tcp", NODE_PORT)])
        holds.close()
        other.close()

    net.node.do(story())
