"""A node with the proxy on it, a pod behind a bridge address, and somebody outside.

    outside 192.168.7.99 ── 192.168.7.10 node 172.16.5.1 ── 172.16.5.2 pod

Each is a network namespace. The objects live in a real memory store and reach the proxy through
the real watch cache.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from tests.netfilter.sites import Site, cable

from k8slite.api import codec
from k8slite.api.kinds import ENDPOINTS, SCHEME, SERVICE
from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import Object, ObjectMeta
from k8slite.api.user import User
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.netfilter.edge import Edge
from k8slite.roles.apiserver.admission import chain
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.proxy import Proxy
from k8slite.store.base import Delete, Put
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

NODE = "192.168.7.10"
BRIDGE = "172.16.5.1"
POD = "172.16.5.2"
OUTSIDE = "192.168.7.99"


@dataclass
class Net:
    node: Site
    pod: Site
    outside: Site


@contextmanager
def built() -> Iterator[Net]:
    with ExitStack() as stack:
        node = stack.enter_context(Site("node"))
        pod = stack.enter_context(Site("pod"))
        outside = stack.enter_context(Site("outside"))
        cable(node, f"{BRIDGE}/24", pod, f"{POD}/24", "pod0")
        cable(node, f"{NODE}/24", outside, f"{OUTSIDE}/24", "up0")
        node.ip("route", "add", "default", "dev", "up0")
        pod.ip("route", "add", "default", "via", BRIDGE)
        outside.ip("route", "add", "default", "via", NODE)
        yield Net(node, pod, outside)


@dataclass
class Recorded:
    """An event recorder that remembers."""

    events: list[tuple[str, str, str]] = field(default_factory=list)

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None:
        self.events.append((obj.key, reason, message))


@dataclass
class World:
    """The proxy at work; used from inside the node's loop."""

    store: MemoryStore
    cache: WatchCache
    proxy: Proxy
    recorded: Recorded
    edge: Edge

    async def put(self, *objects: Object) -> None:
        for obj in objects:
            kind = SCHEME.of(obj)
            key = kind.store_key(obj.metadata.namespace, obj.metadata.name)
            revision = await self.store.commit([Put(key, codec.encode_stored(obj))])
            await self.cache.wait_for(revision)

    def service(self, name: str) -> Service:
        entry = self.cache.table(SERVICE).get(f"default/{name}")
        assert entry is not None
        return entry.object

    async def delete(self, name: str) -> None:
        for kind in (SERVICE, ENDPOINTS):
            key = kind.store_key("default", name)
            if await self.store.get(key):
                await self.cache.wait_for(await self.store.commit([Delete(key)]))

    async def gone(self, name: str) -> None:
        """Delete a service and wait until the kernel knows nothing of it."""
        await self.delete(name)
        await until(lambda: f"default/{name}:" not in self.proxy.portals and self.proxy.settled)

    async def serve(
        self,
        name: str,
        ip: str,
        endpoints: list[tuple[str, int]],
        *,
        protocol: str = "TCP",
        port: int = 80,
        node_port: int = 0,
        annotations: dict[str, str] | None = None,
        **spec: object,
    ) -> None:
        """A service with its endpoints, up to its rules in the kernel."""
        ports = (ServicePort(port=port, protocol=protocol, node_port=node_port),)
        await self.put(
            endpoints_object(name, endpoints, protocol),
            service_object(name, ip, ports, annotations, **spec),
        )
        await until(lambda: f"default/{name}:" in self.proxy.portals and self.proxy.settled)


def service_object(
    name: str,
    ip: str,
    ports: tuple[ServicePort, ...],
    annotations: dict[str, str] | None = None,
    **spec: object,
) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", annotations=annotations or {}),
        spec=ServiceSpec(cluster_ip=ip, ports=ports, **spec),  # type: ignore[arg-type]
    )


def endpoints_object(
    name: str, endpoints: list[tuple[str, int]], protocol: str = "TCP", port_name: str = ""
) -> Endpoints:
    return Endpoints(
        metadata=ObjectMeta(name=name, namespace="default"),
        subsets=tuple(
            EndpointSubset(
                addresses=(EndpointAddress(ip=ip),),
                ports=(EndpointPort(name=port_name, port=port, protocol=protocol),),
            )
            for ip, port in endpoints
        ),
    )


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the condition belongs to others)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    new_edge: Callable[[], Edge], *, leaves_rules: bool = False, **options: object
) -> AsyncIterator[World]:
    """Store, cache, informers and proxy in this loop's namespace. The rules go at the end, unless
    it ``leaves_rules`` to the next, as an agent that ends."""
    clock = Clock()
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        informers = CacheInformers(cache)
        recorded = Recorded()
        edge = new_edge()
        options.setdefault("look_every", 0.2)
        options.setdefault("health_port", None)
        settings = Settings(node_name=NODE, node_ip=NODE, **options.pop("settings", {}))  # type: ignore[arg-type]
        options.setdefault("client", node_client(store, cache, clock, settings))
        proxy = Proxy(settings, informers, recorded, clock, edge, **options)  # type: ignore[arg-type]
        jobs = [asyncio.create_task(cache.run()), asyncio.create_task(proxy.run())]
        world = World(store, cache, proxy, recorded, edge)
        try:
            await cache.wait_ready()
            # Every cluster has it. It also keeps connection tracking awake: the kernel ends that
            # with a namespace's last rule that needs it, and every rewritten connection with it.
            await world.serve("kubernetes", "192.168.3.2", [], port=443)
            yield world
        finally:
            for job in jobs:
                await stop(job)
            if not leaves_rules:
                await edge.remove()
            await edge.close()


def node_client(
    store: MemoryStore, cache: WatchCache, clock: Clock, settings: Settings
) -> LocalClient:
    """The API as this node reaches it: what it may not write is refused."""
    registry = Registry(store, cache, SCHEME, clock, settings, chain((), cache))
    nodes = Holders(store, cache, "nodes", settings.node_grace)
    return LocalClient(registry, nodes, User(f"system:node:{NODE}", ("system:nodes",)))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(handler: Handler, host: str = "0.0.0.0", port: int = 0) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ask(address: str, port: int, text: bytes = b"", timeout: float = 10) -> bytes:
    """Connect, say ``text``, say no more, and hear everything."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(text)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket as a queue."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()
        self.answer: Callable[[bytes], bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.put_nowait((data, addr))
        if self.answer is not None:
            self.transport.sendto(self.answer(data), addr)  # type: ignore[attr-defined]

    def error_received(self, exc: Exception) -> None:
        self.heard.put_nowait((repr(exc).encode(), ("", 0)))


@asynccontextmanager
async def udp_socket(
    local: tuple[str, int] | None = None, remote: tuple[str, int] | None = None
) -> AsyncIterator[Datagrams]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        Datagrams, local_addr=local, remote_addr=remote
    )
    try:
        yield protocol
    finally:
        transport.close()
