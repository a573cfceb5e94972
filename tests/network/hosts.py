"""Three hosts on a switch, each with an overlay at work and pods behind a bridge as Docker's.

    192.168.0.10 ──┐
    192.168.0.11 ──┼── switch ── 192.168.0.99 outside, which knows no way to pods
    192.168.0.12 ──┘

A pod is a network namespace. Sockets belong to the namespace they are made in, so one test thread
plays all sides of a conversation.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.lab.docker_host import inside
from tests.lab.network import Namespace, Switch
from tests.netfilter.sites import Site

from k8slite.api.kinds import NODE
from k8slite.api.kinds.endpoints.types import EndpointAddress, Endpoints, EndpointSubset
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeSpec, NodeStatus
from k8slite.api.meta import ObjectMeta
from k8slite.client.base import Handler
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.overlay import Overlay, remove

NET = "172.16.0.0/16"
OUTSIDE = "192.168.0.99"
PORT = 7000
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO = 10, 2


class Nodes:
    """An informer that is told by hand, on the loop that asks it. ``masters`` is the one of the
    API servers' endpoints."""

    kind = NODE
    synced = True

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {}
        self._handlers: list[Handler[Any]] = []

    def of(self, kind: Any) -> Any:
        return self if kind is NODE else self.masters

    @cached_property
    def masters(self) -> Nodes:
        return Nodes()

    async def wait_synced(self) -> None:
        return

    def get(self, key: str) -> Any:
        return self._nodes.get(key)

    def items(self) -> Iterable[Any]:
        return list(self._nodes.values())

    def subscribe(self, handler: Handler[Any]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    async def put(self, name: str, node: Any) -> None:
        old = self._nodes.pop(name, None)
        if node is not None:
            self._nodes[name] = node
        for handler in list(self._handlers):
            handler(old, node)


@dataclass
class Events:
    told: list[tuple[str, str]] = field(default_factory=list)

    def event(self, obj: Node, reason: str, message: str, type: str = "Normal") -> None:
        self.told.append((reason, message))


class Host:
    """A node: its namespace, its bridge, its overlay."""

    def __init__(self, number: int, site: Site, directory: Path, mode: str) -> None:
        self.name = f"n{number}"
        self.address = f"192.168.0.{10 + number}"
        self.cidr = f"172.16.{number}.0/24"
        self.site = site
        self.nodes = Nodes()
        self.events = Events()
        self.settings = Settings(
            node_name=self.name,
            node_ip=self.address,
            data_dir=directory / self.name,
            overlay=mode,
        )
        self._pods: list[Namespace] = []

    def address_in(self, host: int) -> str:
        return f"{self.cidr.removesuffix('0/24')}{host}"

    def bridge(self) -> None:
        """What Docker makes of a network: a bridge with the first address, and forwarding."""
        self.site.ip("link", "add", "k8slite0", "type", "bridge")
        self.site.ip("addr", "add", f"{self.address_in(1)}/24", "dev", "k8slite0")
        self.site.ip("link", "set", "k8slite0", "up")

    def pod(self, namespace: Namespace, host: int = 2, mtu: int = 1450) -> str:
        """Plug ``namespace`` into the bridge; its address."""
        port = f"pod{host}"
        self.site.ip(
            *("link", "add", port, "mtu", str(mtu), "type", "veth", "peer", "name", "eth0"),
            *("mtu", str(mtu), "netns", namespace.name),
        )
        self.site.ip("link", "set", port, "master", "k8slite0", "up")
        namespace.ip("addr", "add", f"{self.address_in(host)}/24", "dev", "eth0")
        namespace.ip("link", "set", "eth0", "up")
        namespace.ip("route", "add", "default", "via", self.address_in(1))
        return self.address_in(host)

    def node(self, cidr: str | None = None, address: str | None = None) -> Node:
        cidr = self.cidr if cidr is None else cidr
        where = (NodeAddress("InternalIP", self.address if address is None else address),)
        return Node(
            metadata=ObjectMeta(name=self.name),
            spec=NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,) if cidr else ()),
            status=NodeStatus(addresses=where),
        )

    def tell(self, other: Host, node: Node | None) -> None:
        """The API says that ``other`` is ``node`` (None: that it is gone)."""
        self.site.do(self.nodes.put(other.name, node))

    def tell_masters(self, *addresses: str) -> None:
        """The API says where its servers are."""
        subset = EndpointSubset(addresses=tuple(EndpointAddress(ip=ip) for ip in addresses))
        found = Endpoints(metadata=ObjectMeta(name="kubernetes"), subsets=(subset,))
        self.site.do(self.nodes.masters.put("default/kubernetes", found))

    def start(self) -> None:
        self.site.do(self._start())

    async def _start(self) -> None:
        self.overlay = Overlay(self.settings, self.nodes, self.events, Clock(), look_every=0.3)
        self._task = asyncio.create_task(self.overlay.run())

    def stop(self) -> None:
        self.site.do(self._stop())

    async def _stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    def remove(self) -> list[str]:
        return self.site.do(remove(self.settings))

    def views(self) -> dict[str, str]:
        """The host as an operator sees it, without counters and comments."""
        commands = {
            "links": ("ip", "-o", "link"),
            "addresses": ("ip", "-4", "-o", "addr"),
            "routes": ("ip", "-4", "route", "show", "table", "all"),
            "neighbours": ("ip", "neigh", "show", "nud", "permanent"),
            "nft": ("iptables-nft-save",),
            "forward": ("cat", "/proc/sys/net/ipv4/ip_forward"),
        }
        views = {}
        for name, words in commands.items():
            lines = self.site.run(*words).splitlines()
            kept = [line.split(" [")[0] for line in lines if not line.startswith("#")]
            # Numbers of interfaces, and the order that comes of them, are the kernel's affair.
            views[name] = "\n".join(kept if name == "nft" else sorted(map(_unnumbered, kept)))
        return views

    def routes(self) -> list[str]:
        """The routes of ours."""
        return [line.strip() for line in self.site.ip("route", "show", "proto", "107").splitlines()]


def _unnumbered(line: str) -> str:
    line = re.sub(r"^\d+: ", "", line)
    return re.sub(r"^(\S+): <.*> (mtu \d+) .*", r"\1 \2", line)


@dataclass
class World:
    hosts: list[Host]
    pods: list[Namespace]
    outside: Namespace

    def address(self, number: int) -> str:
        return self.hosts[number].address_in(2)

    def know_each_other(self) -> None:
        for host in self.hosts:
            for other in self.hosts:
                host.tell(other, other.node())

    def start(self) -> None:
        for host in self.hosts:
            host.start()
        self.know_each_other()


@contextmanager
def world(directory: Path, mode: str, *, count: int = 3, mtu: int = 1500) -> Iterator[World]:
    """Hosts with one pod each; no overlay yet. Docker's policy holds: FORWARD drops."""
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        outside = stack.enter_context(Namespace("outside"))
        switch.connect(outside, f"{OUTSIDE}/24")
        hosts, pods = [], []
        for number in range(count):
            site = stack.enter_context(Site(f"n{number}"))
            host = Host(number, site, directory, mode)
            switch.connect(site, f"{host.address}/24")
            site.ip("link", "set", "eth0", "mtu", str(mtu))
            host.bridge()
            pod = stack.enter_context(Namespace(f"pod{number}"))
            host.pod(pod, mtu=mtu - (50 if mode == "vxlan" else 0))
            # As strict as a distribution may be, and as Docker leaves it.
            site.run(
                "sh", "-c",
                "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; iptables -P FORWARD DROP; "
                "echo 1 > /proc/sys/net/ipv4/ip_forward",
            )  # fmt: skip
            hosts.append(host)
            pods.append(pod)
        made = World(hosts, pods, outside)
        yield made
        for host in hosts:
            if hasattr(host, "_task") and not host._task.done():
                host.stop()


# -- conversations -----------------------------------------------------------------------------


def talk(
    source: Namespace,
    target: Namespace,
    address: str,
    *,
    amount: int = 0,
    wait: float = 5,
    port: int = PORT,
) -> str:
    """A TCP connection from ``source`` to ``address`` in ``target``, ``amount`` bytes over it; the
    address from which ``target`` saw it come. Raises OSError when it cannot be made."""
    with inside(target):
        server = socket.create_server(("0.0.0.0", port))
    with inside(source):
        client = socket.socket()
    with server, client:
        try:
            client.settimeout(wait)
            client.connect((address, port))
            connection, (seen, _) = server.accept()
            with connection:
                connection.settimeout(30)
                if amount:
                    _transfer(client, connection, amount)
        finally:
            # A process that is just being started holds a copy of it: closing alone would leave
            # the port taken until that runs its program.
            server.shutdown(socket.SHUT_RDWR)
    return str(seen)


def _transfer(client: socket.socket, connection: socket.socket, amount: int) -> None:
    def send() -> None:
        piece = bytes(1 << 18)
        for _ in range(amount // len(piece)):
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)

    client.settimeout(30)
    sender = threading.Thread(target=send)
    sender.start()
    received = 0
    while data := connection.recv(1 << 20):
        received += len(data)
    sender.join()
    assert received == amount // (1 << 18) * (1 << 18)


def datagram(source: Namespace, target: Namespace, address: str, size: int) -> bool:
    """Whether an IP packet of ``size`` bytes that may not be fragmented gets there and back."""
    with inside(target):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(source):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        for sock in (server, client):
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            sock.settimeout(2)
        server.bind(("0.0.0.0", PORT))
        try:
            client.sendto(bytes(size - 28), (address, PORT))
            data, back = server.recvfrom(1 << 16)
            server.sendto(data, back)
            return len(client.recv(1 << 16)) == size - 28
        except OSError:
            return False


def echo(source: Namespace, address: str, *, wait: float = 1) -> bool:
    """Whether ``address`` answers an ICMP echo request (RFC 792)."""
    with inside(source):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        raw.settimeout(wait)
        request = struct.pack("!BBHHH", 8, 0, 0, 0x6B38, 1)
        total = sum(struct.unpack("!4H", request))
        request = struct.pack("!BBHHH", 8, 0, ~(total % 0xFFFF) & 0xFFFF, 0x6B38, 1)
        try:
            raw.sendto(request, (address, 0))
            while True:
                data, (seen, _) = raw.recvfrom(2048)
                if data[20] == 0 and seen == address:
                    return True
        except OSError:
            return False


def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.03)
