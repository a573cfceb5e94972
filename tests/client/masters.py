"""Several real API servers over one store, each behind a wire that can be frozen or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from k8slite.api.kinds import SCHEME
from k8slite.api.meta import Object
from k8slite.api.scheme import Kind
from k8slite.client.access import Access
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.pki.files import Pki
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.authority import SharedAuthority
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.store.base import Store
from k8slite.store.cache import Table, WatchCache
from k8slite.store.memory import MemoryStore

LOOPBACK = "127.0.0.1"

T = TypeVar("T", bound=Object)


class Wire:
    """A relay to a server. Frozen, it takes connections and bytes and brings nothing back, as a
    machine that stopped does; dead, it refuses and cuts."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._streams: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        #: Connections that were opened, and bytes that arrived from clients.
        self.connections = 0
        self.received = bytearray()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def die(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._streams):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            inner, outer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._streams |= {writer, outer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, outer, self.received))
                group.create_task(self._pump(inner, writer, bytearray()))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._streams -= {writer, outer}
            writer.transport.abort()
            outer.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray
    ) -> None:
        while data := await source.read(1 << 16):
            seen += data
            await self._thawed.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # one side is done: so is the other


class Master:
    """``wire`` leads to the plain port."""

    def __init__(
        self, server: ApiServer, registry: Registry, nodes: Holders, pki: Pki, wire: Wire
    ) -> None:
        self.server = server
        self.registry = registry
        self.nodes = nodes
        self.pki = pki
        self.wire = wire

    @property
    def secure(self) -> str:
        return f"https://{LOOPBACK}:{self.server.ports['secure']}"

    def table(self, kind: Kind[T]) -> Table[T]:
        return self.registry.cache.table(kind)

    def admin(self) -> Access:
        """The way in at the secure port, as admin."""
        return Access(
            server=self.secure,
            authority=self.pki.certificate("ca").read_bytes(),
            certificate=self.pki.certificate("admin").read_bytes(),
            key=self.pki.key("admin").read_bytes(),
        )


@asynccontextmanager
async def master_on(
    store: Store, data_dir: Path, clock: Clock | None = None, **more: Any
) -> AsyncIterator[Master]:
    """One API server with a cache of its own; ``more`` are settings."""
    chosen = Settings(
        node_name=LOOPBACK, node_ip=LOOPBACK, data_dir=data_dir,
        port=0, secure_port=0, read_only_port=0,
    )  # fmt: skip
    settings = replace(chosen, **more)
    clock = clock or Clock()
    pki = Pki(data_dir, clock)
    authority = SharedAuthority(store, pki)
    await authority.settle()
    cache = WatchCache(store, SCHEME, clock)
    nodes = Holders(store, cache, "nodes", settings.node_grace)
    following = asyncio.create_task(cache.run(), name="cache")
    await cache.wait_ready()
    chain = admission.chain(("NamespaceAutoProvision",), cache)
    registry = Registry(store, cache, SCHEME, clock, settings, chain)
    server = ApiServer(settings, registry, cache, clock, pki=pki, nodes=nodes, authority=authority)
    running = asyncio.create_task(server.run(), name="server")
    try:
        await asyncio.wait_for(server.started.wait(), 20)
        wire = Wire(server.ports["insecure"])
        await wire.open()
        try:
            yield Master(server, registry, nodes, pki, wire)
        finally:
            wire.thaw()
            wire.die()
    finally:
        await stop(running)
        await stop(following)


@asynccontextmanager
async def masters(data_dir: Path, count: int = 3, **more: Any) -> AsyncIterator[list[Master]]:
    async with MemoryStore(Clock()) as store, AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(master_on(store, data_dir / str(number), **more))
            for number in range(count)
        ]
