"""Several real API servers over one store, each behind a wire that can be frozen or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from k8slite.api.kinds import SCHEME
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.store.base import Store
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

LOOPBACK = "127.0.0.1"


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
    def __init__(self, server: ApiServer, registry: Registry, wire: Wire) -> None:
        self.server = server
        self.registry = registry
        self.wire = wire


@asynccontextmanager
async def master_on(store: Store, data_dir: Path, **more: object) -> AsyncIterator[Master]:
    """One API server with a cache of its own."""
    settings = Settings(
        node_name=LOOPBACK, node_ip=LOOPBACK, data_dir=data_dir,
        port=0, secure_port=0, read_only_port=0,
    )  # fmt: skip
    clock = Clock()
    cache = WatchCache(store, SCHEME, clock)
    following = asyncio.create_task(cache.run(), name="cache")
    await cache.wait_ready()
    chain = admission.chain(("NamespaceAutoProvision",), cache)
    registry = Registry(store, cache, SCHEME, clock, settings, chain)
    server = ApiServer(settings, registry, cache, clock, **more)  # type: ignore[arg-type]
    running = asyncio.create_task(server.run(), name="server")
    try:
        await asyncio.wait_for(server.started.wait(), 20)
        wire = Wire(server.ports["insecure"])
        await wire.open()
        try:
            yield Master(server, registry, wire)
        finally:
            wire.thaw()
            wire.die()
    finally:
        await stop(running)
        await stop(following)


@asynccontextmanager
async def masters(data_dir: Path, count: int = 3) -> AsyncIterator[list[Master]]:
    async with MemoryStore(Clock()) as store, AsyncExitStack() as stack:
        yield [await stack.enter_async_context(master_on(store, data_dir)) for _ in range(count)]
