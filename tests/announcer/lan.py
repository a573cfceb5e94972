"""A LAN of real kernels: nodes with a proxy and an announcer each, and a client.

    192.168.0.10 ──┐
    192.168.0.11 ──┼── switch ── 192.168.0.99 client
    192.168.0.12 ──┘

Every node has an endpoint at its own address, which says the node's name. A node is a network
namespace; its proxy and announcer run inside, told of objects by hand.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from simulated import Informers, Recorded, endpoints, node, service
from tests.lab.docker_host import inside
from tests.lab.network import Namespace, Switch
from tests.netfilter.sites import Site

from k8slite.api.meta import Object
from k8slite.config import Settings
from k8slite.decide import announcing
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.netfilter.choice import CHAIN_ROOM
from k8slite.netfilter.joined import JoinedEdge
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.restore import NftEdge
from k8slite.network.arp import ArpTongue
from k8slite.network.tongue import Tongue, spelt
from k8slite.roles.announcer import announcer
from k8slite.roles.proxy import Proxy

POOL = ("192.168.0.240/28", "fd00::f0/124")
ADDRESS6, CLIENT6 = "fd00::f0", "fd00::63"
ADDRESS = "192.168.0.240"
CLIENT = "192.168.0.99"
PORT, BEHIND = 80, 8000


class LanNode:
    def __init__(self, number: int, site: Site, directory: Path, **settings: Any) -> None:
        self.name = f"n{number}"
        self.address = f"192.168.0.{10 + number}"
        self.site = site
        self.port = ""  # of the switch
        self.recorded = Recorded()
        self.informers = Informers()
        self.settings = Settings(
            node_name=self.name, node_ip=self.address, data_dir=directory, address_pool=POOL,
            **settings,
        )  # fmt: skip
        self.folder = directory / f"bgp-{self.name}"
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.site.do(self._start())

    async def _start(self) -> None:
        clock = Clock()
        # python-iptables has one namespace a process, and is left out.
        edge = JoinedEdge(NftEdge(), TableEdge("", ""), CHAIN_ROOM)
        proxy = Proxy(self.settings, self.informers, self.recorded, clock, edge, health_port=None)
        run = announcer(
            self.settings, self.informers, self.recorded, clock, proxy, folder=self.folder
        )

        async def whole_proxy() -> None:
            try:
                await proxy.run()
            finally:
                await edge.remove()
                await edge.close()

        server = await asyncio.start_server(self._say, self.address, BEHIND)
        self._server = server
        self._tasks = [asyncio.create_task(whole_proxy()), asyncio.create_task(run())]

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.name.encode())
        writer.close()

    def stop(self) -> None:
        """In good order."""
        self.site.do(self._stop())

    async def _stop(self) -> None:
        for task in reversed(self._tasks):
            await stop(task)
        if self._tasks:
            self._server.close()
        self._tasks = []

    def tell(self, *objects: Object, gone: bool = False) -> None:
        async def told() -> None:
            for obj in objects:
                (self.informers.remove if gone else self.informers.put)(obj)

        self.site.do(told())


class Lan:
    def __init__(self, nodes: list[LanNode], client: Namespace, switch: Switch) -> None:
        self.nodes = nodes
        self.client = client
        self.switch = switch

    def tell(self, *objects: Object, gone: bool = False) -> None:
        for one in self.nodes:
            one.tell(*objects, gone=gone)

    def serve(self, *on: LanNode, address: str = ADDRESS, **spec: Any) -> None:
        """A service with an endpoint on each of these nodes."""
        ready = [(one.address, one.name) for one in on]
        self.tell(endpoints("web", *ready, port=BEHIND), service("web", address, **spec))

    def ranked(self, address: str = ADDRESS) -> list[LanNode]:
        offer = announcing.Offer(address, (), True)
        names = announcing.candidates(offer, [one.name for one in self.nodes])
        by_name = {one.name: one for one in self.nodes}
        return [by_name[name] for name in names]

    def cut(self, one: LanNode) -> None:
        self.switch.ip("link", "set", one.port, "down")

    def heal(self, one: LanNode) -> None:
        self.switch.ip("link", "set", one.port, "up")

    def who_answers(
        self, address: str = ADDRESS, wait: float = 0.5, tongue: Tongue | None = None
    ) -> set[str]:
        """The hardware addresses that answer a question of the client's, ARP or another."""
        tongue = tongue or ArpTongue()
        kind = tongue.ethertype
        with inside(self.client):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        found = set()
        with raw:
            raw.bind(("eth0", kind))
            mac = raw.getsockname()[4]
            raw.send(tongue.question(address, mac, CLIENT))
            end = time.monotonic() + wait
            while (left := end - time.monotonic()) > 0:
                raw.settimeout(left)
                try:
                    data = raw.recv(2048)
                except TimeoutError:
                    break
                said = tongue.hear(data, mac)
                found |= {spelt(h.mac) for h in said if h.claimed and h.address == address}
        return found

    def fetch(self, address: str = ADDRESS, wait: float = 1.0) -> str:
        """What a fresh connection from the client is told; "" when it fails."""
        return fetch(self.client, address, wait=wait)

    def believed(self, address: str = ADDRESS) -> str:
        """Where the client's kernel takes the address to be."""
        words = self.client.ip("neigh", "show", address).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def fetch(client: Namespace, address: str, port: int = PORT, wait: float = 1.0) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(client):
        sock = socket.socket(family)
    with sock:
        sock.settimeout(wait)
        try:
            sock.connect((address, port))
            return sock.recv(100).decode()
        except OSError:
            return ""


def mac(one: LanNode) -> str:
    """As the switch makes it of the address."""
    octets = [int(part) for part in one.address.split(".")]
    return ":".join(["02", "00", *(f"{octet:02x}" for octet in octets)])


def until(condition: Callable[[], Any], seconds: float = 20) -> float:
    """Wait; how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "it did not come about"
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def lan(directory: Path, count: int = 3, **settings: Any) -> Iterator[Lan]:
    """Nodes that know each other and run; no service yet."""
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        client = stack.enter_context(Namespace("client"))
        switch.connect(client, f"{CLIENT}/24")
        client.ip("addr", "add", f"{CLIENT6}/64", "dev", "eth0", "nodad")
        nodes = []
        for number in range(count):
            site = stack.enter_context(Site(f"n{number}"))
            one = LanNode(number, site, directory, **settings)
            one.port = switch.connect(site, f"{one.address}/24")
            site.ip("addr", "add", f"fd00::{10 + number:x}/64", "dev", "eth0", "nodad")
            # As strict as a distribution may be.
            site.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
            nodes.append(one)
        made = Lan(nodes, client, switch)
        made.tell(*(node(one.name, one.address) for one in nodes))
        # Every cluster has it; connection tracking sleeps in a namespace without rules.
        made.tell(service("kubernetes", cluster_ip="192.168.3.2"))
        try:
            for one in nodes:
                one.start()
            yield made
        finally:
            for one in nodes:
                one.stop()
