"""A real API server on loopback, on the memory store, for tests that talk HTTP to it."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from k8slite.api.kinds import SCHEME
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.dispatch import no_components
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

DEFAULTS = Settings(
    node_name="127.0.0.1",
    node_ip="127.0.0.1",
    port=0,
    secure_port=0,
    read_only_port=0,
    admission_control=("NamespaceLifecycle", "NamespaceAutoProvision"),
)


@dataclass
class Answer:
    """An answer read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """The server under test and a client of its plain port."""

    def __init__(self, server: ApiServer, registry: Registry, session: aiohttp.ClientSession):
        self.server = server
        self.registry = registry
        self.cache = registry.cache
        self.session = session

    def url(self, path: str, door: str = "insecure") -> str:
        return f"http://127.0.0.1:{self.server.ports[door]}{path}"

    async def ask(
        self, method: str, path: str, body: Any = None, *, door: str = "insecure", **options: Any
    ) -> Answer:
        """``body``: bytes as they are, anything else as JSON."""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = options.setdefault("headers", {})
            headers.setdefault("Content-Type", "application/json")
            options["data"] = io.BytesIO(data)
        async with self.session.request(
            method, URL(self.url(path, door), encoded=True), **options
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.ask("POST", path, body, **options)

    async def create_pod(self, name: str, **meta: Any) -> Any:
        answer = await self.post("/api/v1/namespaces/default/pods", pod(name, **meta))
        assert answer.status == 201, answer.body
        return answer.json

    @asynccontextmanager
    async def watching(self, path: str, **options: Any) -> AsyncIterator[Watch]:
        async with self.session.get(self.url(path), **options) as response:
            assert response.status == 200, await response.read()
            yield Watch(response)


class Watch:
    """The lines of a watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        """The next event. Raises EOFError at the end."""
        async with asyncio.timeout(10):
            line = await self.response.content.readuntil(b"\n")
        if not line:
            raise EOFError
        return json.loads(line)

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next ``count`` events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.001)


def pod(name: str, **meta: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, **meta},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }


@asynccontextmanager
async def serving(
    data_dir: Path, *, health: Any = None, components: Any = no_components, **settings: Any
) -> AsyncIterator[Served]:
    """Everything from store to socket, on free ports."""
    clock = Clock()
    chosen = replace(DEFAULTS, data_dir=data_dir, **settings)
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        following = asyncio.create_task(cache.run(), name="cache")
        await cache.wait_ready()
        chain = admission.chain(chosen.admission_control, cache)
        registry = Registry(store, cache, SCHEME, clock, chosen, chain)
        server = ApiServer(chosen, registry, cache, clock, health=health, components=components)
        running = asyncio.create_task(server.run(), name="server")
        started = asyncio.create_task(server.started.wait())
        await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if running.done():
            running.result()
        try:
            async with aiohttp.ClientSession(read_bufsize=1 << 20) as session:
                yield Served(server, registry, session)
        finally:
            await stop(running)
            await stop(following)
