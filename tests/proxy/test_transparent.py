"""Transparent services: a pod sees the client's own address, and the way back is ours to keep.

    outside 192.168.7.99, .98 ── 192.168.7.10 node 172.16.5.1 (a bridge) ─┬─ 172.16.5.2 pod
                                                                          └─ 172.16.5.3 neighbour

With br_netfilter at work, as Docker has it: what passes over the bridge meets the node's rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.netfilter.sites import Site, cable
from tests.proxy.test_client_address import connectable
from tests.proxy.test_portals import from_site
from tests.proxy.world import BRIDGE, NODE, OUTSIDE, POD, World, ask, running, tcp_server, until

from k8slite.api.kinds.service.proxying import CLIENT_ADDRESS
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge, NotPermitted, Unsupported
from k8slite.network import transparent as network_transparent
from k8slite.network.transparent import TABLE, TransparentEdge
from k8slite.roles.proxy.tcp import transparent

PORTAL = "192.168.3.214"
NEIGHBOUR = "172.16.5.3"
ELSEWHERE = "192.168.7.98"  # a pod on another node
POD_NETWORK = "172.16.0.0/16"
NewEdge = Callable[[], Edge]
TRANSPARENT = {CLIENT_ADDRESS: "transparent"}


@dataclass
class Bridged:
    node: Site
    pod: Site
    neighbour: Site
    outside: Site


@pytest.fixture(scope="module")
def hosts() -> Iterator[Bridged]:
    with ExitStack() as stack:
        node, pod, neighbour, outside = (
            stack.enter_context(Site(name)) for name in ("node", "pod", "neighbour", "outside")
        )
        node.ip("link", "add", "pods", "type", "bridge")
        node.ip("link", "set", "pods", "up")
        node.ip("addr", "add", f"{BRIDGE}/24", "dev", "pods")
        for site, address, port in ((pod, POD, "pod0"), (neighbour, NEIGHBOUR, "pod1")):
            node.ip(
                *("link", "add", port, "type", "veth"),
                *("peer", "name", "eth0", "netns", site.name),
            )
            node.ip("link", "set", port, "master", "pods", "up")
            site.ip("addr", "add", f"{address}/24", "dev", "eth0")
            site.ip("link", "set", "eth0", "up")
            site.ip("route", "add", "default", "via", BRIDGE)
        cable(node, f"{NODE}/24", outside, f"{OUTSIDE}/24", "up0")
        outside.ip("addr", "add", f"{ELSEWHERE}/24", "dev", "eth0")
        node.ip("route", "add", "default", "dev", "up0")
        node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        outside.ip("route", "add", "default", "via", NODE)
        yield Bridged(node, pod, neighbour, outside)


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says who asks, once all was heard."""
    await reader.read()
    writer.write(writer.get_extra_info("peername")[0].encode())


@asynccontextmanager
async def teller(site: Site, address: str, port: int = 8080) -> AsyncIterator[tuple[str, int]]:
    """A server in ``site`` that tells its clients who they are."""
    started, over = asyncio.get_running_loop().create_future(), asyncio.Event()
    here = asyncio.get_running_loop()

    async def serve() -> None:
        async with tcp_server(tell, address, port):
            here.call_soon_threadsafe(started.set_result, None)
            await over.wait()

    served = site.begin(serve())
    await started
    try:
        yield address, port
    finally:
        site.begin(_set(over)).result()
        await asyncio.wrap_future(served)


async def _set(event: asyncio.Event) -> None:
    event.set()


@asynccontextmanager
async def transparently(
    new_edge: NewEdge, folder: Path, *endpoints: tuple[str, int]
) -> AsyncIterator[World]:
    """A transparent service; nothing of it is left behind."""
    async with running(new_edge, settings={"data_dir": folder}, bridge="pods") as world:
        await world.serve("web", PORTAL, list(endpoints), annotations=TRANSPARENT)
        await until(lambda: world.proxy.transparent.ready)
        yield world
    await transparent.remove(Settings(data_dir=folder))


def state(node: Site) -> tuple[str, ...]:
    return (
        node.run("nft", "list", "ruleset"),
        node.ip("rule"),
        node.ip("-4", "route", "show", "table", "all"),
    )


def test_a_pod_sees_a_client_from_outside_as_it_is(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path
) -> None:
    async def story() -> None:
        async with (
            teller(hosts.pod, POD) as endpoint,
            transparently(new_edge, tmp_path, endpoint) as world,
        ):
            answers = await asyncio.gather(
                *(from_site(hosts.outside, ask(PORTAL, 80, b"x" * size)) for size in (1, 300_000))
            )
            assert answers == [OUTSIDE.encode()] * 2
            # This host too has an address of its own.
            assert await ask(PORTAL, 80) == NODE.encode()
            counters = world.proxy.counters.ports["default/web:"]
            assert counters.total().failures == 0

    hosts.node.do(story())


@asynccontextmanager
async def by_the_kernel(*endpoints: tuple[str, int]) -> AsyncIterator[World]:
    """A service in the mode nft: nobody needs to ask for the client's address there."""

    def edge() -> Edge:
        return choose_edge(Clock(), kernel=True, pod_network=POD_NETWORK, bridge="pods")

    async with running(edge, bridge="pods") as world:
        await world.serve("web", PORTAL, list(endpoints))
        yield world


@pytest.mark.parametrize("mode", ["transparent", "nft"])
def test_nginx_logs_the_client(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path, mode: str
) -> None:
    config, log = tmp_path / "nginx.conf", tmp_path / "access.log"
    config.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}"
        f"http {{ access_log {log} combined; server {{ listen 8081; return 200 fine; }} }}"
    )
    nginx = hosts.pod.start("nginx", "-c", str(config), log=tmp_path / "log")

    async def story() -> None:
        endpoint = POD, 8081
        async with (
            transparently(new_edge, tmp_path, endpoint)
            if mode == "transparent"
            else by_the_kernel(endpoint)
        ):
            answer = await from_site(hosts.outside, ask(PORTAL, 80, b"GET / HTTP/1.0\r\n\r\n"))
            assert answer.endswith(b"fine")
            await until(lambda: f"{OUTSIDE} - - " in log.read_text())

    try:
        hosts.pod.do(connectable(POD, 8081))
        hosts.node.do(story())
    finally:
        nginx.terminate()
        nginx.wait()


def test_who_cannot_be_shown_is_served_all_the_same(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path
) -> None:
    async def story() -> None:
        async with (
            teller(hosts.pod, POD) as here,
            teller(hosts.outside, ELSEWHERE) as elsewhere,
            transparently(new_edge, tmp_path, here) as world,
        ):
            # Between two pods of one bridge, and from a pod to itself, the answer would not pass.
            assert await from_site(hosts.neighbour, ask(PORTAL, 80)) == BRIDGE.encode()
            assert await from_site(hosts.pod, ask(PORTAL, 80)) == BRIDGE.encode()
            # From another node the answer would go straight to the client.
            await world.serve("web", PORTAL, [elsewhere], annotations=TRANSPARENT)
            assert await from_site(hosts.outside, ask(PORTAL, 80)) == NODE.encode()

    hosts.node.do(story())


@pytest.mark.parametrize(
    "harm",
    [
        ("nft", "flush", "ruleset"),
        ("ip", "rule", "del", "fwmark", "0x2000/0x2000"),
        ("ip", "route", "flush", "table", str(TABLE)),
    ],
)
def test_a_way_back_that_somebody_removes_comes_back(
    hosts: Bridged,
    new_edge: NewEdge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: tuple[str, ...],
) -> None:
    mended: list[str] = []
    converge = TransparentEdge.converge

    async def noted(edge: TransparentEdge) -> list[str]:
        mended.extend(what := await converge(edge))
        return what

    async def story() -> None:
        async with (
            teller(hosts.pod, POD) as endpoint,
            transparently(new_edge, tmp_path, endpoint),
        ):
            before = state(hosts.node)
            mended.clear()
            hosts.node.run(*harm)
            await until(lambda: mended)  # sooner, perhaps, than anybody could see the harm
            await until(lambda: state(hosts.node) == before)
            assert await from_site(hosts.outside, ask(PORTAL, 80)) == OUTSIDE.encode()

    monkeypatch.setattr(TransparentEdge, "converge", noted)
    hosts.node.do(story())


@pytest.mark.parametrize("with_nft", [True, False])
def test_nothing_is_left_behind(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path, monkeypatch, with_nft: bool
) -> None:
    """With the program nft, and with iptables alone."""

    async def story() -> None:
        async with (
            teller(hosts.pod, POD) as endpoint,
            transparently(new_edge, tmp_path, endpoint),
        ):
            assert await from_site(hosts.outside, ask(PORTAL, 80)) == OUTSIDE.encode()
            assert state(hosts.node) != before

    def no_tool(variant: str, names: object) -> str:
        raise Unsupported("nft is not installed")

    if not with_nft:
        monkeypatch.setattr(network_transparent, "find_tool", no_tool)
    before = state(hosts.node)
    hosts.node.do(story())
    assert state(hosts.node) == before


def test_what_an_earlier_run_left_goes_unless_it_is_wanted(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path
) -> None:
    async def story() -> None:
        before = state(hosts.node)
        for wanted in (True, False):
            async with running(new_edge, settings={"data_dir": tmp_path}, bridge="pods") as world:
                if wanted:
                    await world.serve("web", PORTAL, [], annotations=TRANSPARENT)
                    await until(lambda: world.proxy.transparent.ready)
                else:
                    await until(lambda: not (tmp_path / "transparent").exists())
        assert state(hosts.node) == before

    hosts.node.do(story())


def test_a_host_that_cannot_says_so_on_the_service_and_serves_it(
    hosts: Bridged, new_edge: NewEdge, tmp_path: Path, monkeypatch
) -> None:
    able = False
    converge = TransparentEdge.converge

    async def unable(edge: TransparentEdge) -> list[str]:
        if not able:
            raise NotPermitted("transparent sockets need root or CAP_NET_ADMIN")
        return await converge(edge)

    async def story() -> None:
        nonlocal able
        async with (
            teller(hosts.pod, POD) as endpoint,
            running(new_edge, settings={"data_dir": tmp_path}, bridge="pods") as world,
        ):
            await world.serve("web", PORTAL, [endpoint], annotations=TRANSPARENT)
            await until(lambda: world.recorded.events)
            [(key, reason, message)] = world.recorded.events
            assert (key, reason) == ("default/web", "ClientAddressNotKept")
            assert "CAP_NET_ADMIN" in message
            assert await from_site(hosts.outside, ask(PORTAL, 80)) == BRIDGE.encode()
            able = True
            await until(lambda: world.proxy.transparent.ready)
            assert await from_site(hosts.outside, ask(PORTAL, 80)) == OUTSIDE.encode()
        await transparent.remove(Settings(data_dir=tmp_path))

    monkeypatch.setattr(TransparentEdge, "converge", unable)
    hosts.node.do(story())
