"""Whatever others do to the nat table, the portals are back within two looks."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from tests.proxy.test_node_ports import NODE_PORT, expose
from tests.proxy.test_portals import PORTAL, asked, from_site, greeters
from tests.proxy.world import NODE, Net, World, ask, running, udp_socket, until

from k8slite.netfilter.edge import Edge
from k8slite.netfilter.restore import NftEdge

NewEdge = Callable[[], Edge]
LOOK = 0.1

#: A firewall script's file, from before there was a cluster.
BARE = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 172.16.5.0/24 ! -o pod0 -j MASQUERADE
COMMIT
"""

DOCKER = "PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"


class Vandal:
    """Somebody with root and the iptables tools."""

    def __init__(self, net: Net, world: World) -> None:
        self._node = net.node
        self._tool = "iptables-nft" if isinstance(world.edge, NftEdge) else "iptables-legacy"

    async def iptables(self, words: str) -> None:
        await asyncio.to_thread(self._node.run, self._tool, "-w", "-t", "nat", *words.split())

    async def restore(self, text: str, *options: str) -> None:
        words = (f"{self._tool}-restore", "-w", *options)
        await asyncio.to_thread(self._node.run, *words, input=text)

    def saved(self) -> str:
        return self._node.run(f"{self._tool}-save", "-t", "nat")


def test_foreign_changes_are_repaired_soon(net: Net, either_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(either_edge, look_every=LOOK) as world, greeters(1) as endpoints:
            await expose(world, "web", endpoints)
            vandal = Vandal(net, world)
            right = sorted(
                ln for ln in vandal.saved().splitlines() if ln.startswith("-A") and "KUBE" in ln
            )
            listener = world.proxy.listeners.ports["default/web:"]
            stale = vandal.saved().replace(str(listener), str(listener - 1))

            def is_right() -> bool:
                rules = [line for line in vandal.saved().splitlines() if line.startswith("-A")]
                last = [rule for rule in rules if rule.startswith("-A PREROUTING")][-1:]
                ours = sorted(rule for rule in rules if "KUBE" in rule)
                return ours == right and last[0].endswith("KUBE-NODEPORT-CONTAINER")

            async def repaired() -> None:
                loop = asyncio.get_running_loop()
                began = loop.time()
                while not is_right():
                    assert loop.time() < began + 30  # long before all is compared anyway
                    await asyncio.sleep(LOOK / 4)
                assert await ask(PORTAL, 80) == b"0"
                assert await from_site(net.outside, ask(NODE, NODE_PORT)) == b"0"

            for words in (
                "-F",
                "-F KUBE-PORTALS-CONTAINER",
                "-D OUTPUT -j KUBE-PORTALS-HOST",
                "-D KUBE-PORTALS-CONTAINER 1",
                "-F PREROUTING",
                "-A KUBE-NODEPORT-HOST -j RETURN",
            ):
                await vandal.iptables(words)
                await repaired()
            for text in (BARE, stale):
                await vandal.restore(text)
                await repaired()
            # Docker that starts again: its rules go, and come back behind ours.
            await vandal.iptables("-N DOCKER")
            for _ in range(2):
                await vandal.iptables(f"-A {DOCKER}")
                await repaired()
                await vandal.iptables(f"-D {DOCKER}")
            await vandal.iptables("-X DOCKER")
            assert world.proxy.trouble == ""

    try:
        net.node.do(story())
    finally:
        for tool in ("iptables-nft", "iptables-legacy"):
            net.node.run(tool, "-w", "-t", "nat", "-F")


def spoil(net: Net) -> None:
    """Take the rules away, in whichever place they are. Nothing else has its turn meanwhile."""
    for command in (
        "nft flush map ip k8slite doors",
        "iptables-legacy -w -t nat -F KUBE-PORTALS-HOST",
    ):
        net.node.run(*command.split(), check=False)


def test_a_udp_flow_that_began_without_rules_meets_them_when_they_are_back(
    net: Net, either_mode: NewEdge
) -> None:
    async def story() -> None:
        async with (
            running(either_mode, look_every=LOOK) as world,
            udp_socket(local=(NODE, 0)) as server,
            udp_socket(remote=(PORTAL, 53)) as client,
        ):
            server.answer = lambda data: b"dns:" + data
            endpoint = server.transport.get_extra_info("sockname")
            await world.serve("dns", PORTAL, [endpoint], protocol="UDP", port=53)
            spoil(net)
            client.transport.sendto(b"lost")  # type: ignore[attr-defined]
            syncs = world.proxy.counters.rule_syncs
            await until(lambda: world.proxy.counters.rule_syncs > syncs)
            await until(lambda: world.proxy.settled)
            assert await asked(client) == b"dns:hello"

    net.node.do(story())


def test_a_client_that_connects_while_rules_are_missing_comes_through_all_the_same(
    net: Net, either_mode: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_mode, look_every=LOOK) as world, greeters(1, NODE) as endpoints:
            await world.serve("web", PORTAL, endpoints)
            # As a router takes and drops it, where there is one.
            nobody = (PORTAL, "lladdr", "02:00:00:00:00:01", "dev", "up0")
            net.node.ip("neigh", "replace", *nobody)
            spoil(net)
            early = socket.socket()
            early.setblocking(False)
            assert early.connect_ex((PORTAL, 80)) == errno.EINPROGRESS
            loop, came = asyncio.get_running_loop(), asyncio.Event()
            loop.add_writer(early, came.set)
            async with asyncio.timeout(10):
                await came.wait()  # the kernel asks again after a second
            loop.remove_writer(early)
            reader, writer = await asyncio.open_connection(sock=early)
            writer.write_eof()
            assert await reader.read() == b"0"
            writer.close()
            await writer.wait_closed()

    net.node.do(story())
