"""The API over HTTP: CREATE, GET, LIST, watch fan-out; the server in a process of its own.

The client is a bare protocol, so that the two processes share the cores fairly. Beside GET stands
a bare aiohttp handler that answers the same bytes, measured in the same run.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from bench.table import Row
from k8slite.api.kinds import SCHEME
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer
from k8slite.store.cache import WatchCache
from k8slite.store.sqlite import SqliteStore

PODS = "/api/v1/namespaces/default/pods"
LISTED, WATCHERS, EVENTS = 10_000, 1_000, 500
SECONDS = 4.0


# -- the server's process -------------------------------------------------------------------------


async def serve(folder: Path) -> None:
    """Serve from a durable store until the process is ended; print the ports."""
    clock = Clock()
    settings = Settings(
        node_name="127.0.0.1", node_ip="127.0.0.1", data_dir=folder,
        port=0, secure_port=0, read_only_port=0,
    )  # fmt: skip
    async with SqliteStore(folder / "store.db", clock) as store, asyncio.TaskGroup() as tasks:
        cache = WatchCache(store, SCHEME, clock)
        tasks.create_task(cache.run())
        await cache.wait_ready()
        chain = admission.chain(settings.admission_control, cache)
        server = ApiServer(
            settings, Registry(store, cache, SCHEME, clock, settings, chain), cache, clock
        )
        tasks.create_task(server.run())
        await server.started.wait()

        async def bare(request: web.BaseRequest) -> web.Response:
            return web.Response(body=pod("bare"), content_type="application/json")

        floor = await asyncio.get_running_loop().create_server(
            web.Server(bare, access_log=None), "127.0.0.1", 0
        )
        ports = (server.ports["insecure"], floor.sockets[0].getsockname()[1])
        gc.freeze()  # as the agent does when it has started
        print(json.dumps(ports), flush=True)


@contextmanager
def served() -> Iterator[tuple[int, int]]:
    """The ports of the API and of the bare handler."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "bench.api", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("["):
                        yield tuple(json.loads(line))
                        break
                else:
                    raise RuntimeError("the server did not start")
            finally:
                process.terminate()


# -- the client -----------------------------------------------------------------------------------


def pod(name: str) -> bytes:
    """A pod of about the size that a controller makes."""
    environment = [{"name": f"VARIABLE_{n}", "value": "some value of a variable"} for n in range(6)]
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}
    container = {
        "name": "main", "image": "registry.example/team/application:1.2.3", "env": environment,
        "ports": [{"containerPort": 8080, "name": "http"}], "resources": resources,
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    }  # fmt: skip
    labels = {"app": "application", "tier": "backend", "release": "stable"}
    document = {
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "nodeSelector": {"disk": "ssd"}},
    }  # fmt: skip
    return json.dumps(document, separators=(",", ":")).encode()


def head(method: str, path: str, body: bytes = b"") -> bytes:
    line = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\n"
    if body:
        line += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{line}\r\n".encode() + body


@dataclass
class Caller(asyncio.Protocol):
    """One connection that asks one thing after the other."""

    next_request: Callable[[], bytes]
    latencies: list[float]
    statuses: dict[int, int]
    transport: asyncio.Transport = field(init=False)
    buffer: bytearray = field(default_factory=bytearray)
    needed: int = -1
    sent: float = 0.0
    stopped: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.next_request())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.needed < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = bytes(self.buffer[:end]).lower().split(b"\r\n")
            status = int(lines[0][9:12])
            self.statuses[status] = self.statuses.get(status, 0) + 1
            length = next(line for line in lines if line.startswith(b"content-length:"))
            self.needed = end + 4 + int(length[15:])
        if len(self.buffer) >= self.needed:
            self.latencies.append(time.perf_counter() - self.sent)
            self.buffer.clear()
            self.needed = -1
            if not self.stopped:
                self.ask()


@dataclass
class Load:
    rate: float
    latencies: list[float]

    def quantile(self, part: float) -> float:
        return sorted(self.latencies)[int(part * (len(self.latencies) - 1))]


async def load(port: int, connections: int, request: Callable[[], bytes], wanted: int) -> Load:
    """Ask for ``SECONDS``; every answer must be ``wanted``."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    callers = [Caller(request, latencies, statuses) for _ in range(connections)]
    started = time.perf_counter()
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)
    await asyncio.sleep(SECONDS)
    rate = len(latencies) / (time.perf_counter() - started)
    for caller in callers:
        caller.stopped = True
    await asyncio.sleep(0.2)
    for caller in callers:
        caller.transport.close()
    if set(statuses) != {wanted}:
        raise RuntimeError(f"answers were {statuses}, expected {wanted}")
    return Load(rate, latencies)


class Watching(asyncio.Protocol):
    """A watcher that counts the events it is sent; ``stalled`` reads nothing at all."""

    MARK = b'{"type":"ADDED"'

    def __init__(self, stalled: bool = False) -> None:
        self.stalled = stalled
        self.events = 0
        self.open = asyncio.Event()
        self.complete = asyncio.Event()
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(head("GET", f"{PODS}?watch=1&resourceVersion={self.version}"))
        if self.stalled:
            transport.pause_reading()
            self.open.set()

    version = "0"

    def data_received(self, data: bytes) -> None:
        self.open.set()
        data = self.tail + data
        self.events += data.count(self.MARK)
        if self.events >= EVENTS:
            self.complete.set()
        self.tail = data[-len(self.MARK) + 1 :]


def namer(prefix: str) -> Callable[[], bytes]:
    number = iter(range(10**9))

    def request() -> bytes:
        return head("POST", PODS, pod(f"{prefix}-{next(number)}"))

    return request


async def ask_once(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(request)
    top = await reader.readuntil(b"\r\n\r\n")
    at = top.lower().index(b"content-length:") + 15
    body = await reader.readexactly(int(top[at : top.index(b"\r\n", at)]))
    writer.close()
    return body


async def fan_out(port: int) -> float:
    """Events delivered a second to all watchers but the stalled one."""
    loop = asyncio.get_running_loop()
    listing = json.loads(await ask_once(port, head("GET", f"{PODS}?limit=1")))
    version = listing["metadata"]["resourceVersion"]
    watchers = [Watching(stalled=number == 0) for number in range(WATCHERS)]
    for watcher in watchers:
        watcher.version = version
        await loop.create_connection(lambda watcher=watcher: watcher, "127.0.0.1", port)
    for watcher in watchers:
        await watcher.open.wait()
    started = time.perf_counter()
    await fill(port, EVENTS, "watched")
    for watcher in watchers[1:]:
        await watcher.complete.wait()
    elapsed = time.perf_counter() - started
    for watcher in watchers:
        watcher.transport.abort()
    return EVENTS * (WATCHERS - 1) / elapsed


async def fill(port: int, count: int, prefix: str = "listed") -> None:
    request = namer(prefix)
    todo = iter(range(count))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in todo:
            writer.write(request())
            top = await reader.readuntil(b"\r\n\r\n")
            at = top.lower().index(b"content-length:") + 15
            await reader.readexactly(int(top[at : top.index(b"\r\n", at)]))
        writer.close()

    await asyncio.gather(*(work() for _ in range(32)))


async def list_times(port: int) -> list[float]:
    times = []
    for _ in range(9):
        started = time.perf_counter()
        body = await ask_once(port, head("GET", PODS))
        times.append(time.perf_counter() - started)
        assert len(body) > LISTED * 1000
    return times


def rows() -> Iterator[Row]:
    with served() as (port, bare):
        yield from get_rows(port, bare)
    with served() as (port, _):
        made = asyncio.run(load(port, 32, namer("created"), 201))
        p99 = made.quantile(0.99) * 1000
        yield Row(
            "CREATE pod, 32 connections, durable",
            f"{made.rate:,.0f}/s, p50 {made.quantile(0.5) * 1000:.1f} ms, p99 {p99:.1f} ms",
            goal="≥ 4,000/s, p99 ≤ 25 ms",
            reached=made.rate >= 4000 and p99 <= 25,
        )
    with served() as (port, _):
        asyncio.run(fill(port, LISTED))
        middle = statistics.median(asyncio.run(list_times(port))) * 1000
        yield Row(f"LIST {LISTED:,} pods", f"{middle:.0f} ms", "", "≤ 40 ms", middle <= 40)
    with served() as (port, _):
        rate = asyncio.run(fan_out(port))
        yield Row(
            f"{WATCHERS:,} watchers of one resource, one of them stalled",
            f"{rate:,.0f} events/s",
            goal="≥ 40,000/s",
            reached=rate >= 40_000,
        )


def get_rows(port: int, bare: int) -> Iterator[Row]:
    async def both() -> tuple[Load, Load]:
        await ask_once(port, head("POST", PODS, pod("read")))
        request = head("GET", f"{PODS}/read")
        floor = await load(bare, 16, lambda: request, 200)
        return await load(port, 16, lambda: request, 200), floor

    ours, floor = asyncio.run(both())
    yield Row(
        "GET pod, 16 connections",
        f"{ours.rate:,.0f}/s, p99 {ours.quantile(0.99) * 1000:.1f} ms",
        f"bare aiohttp {floor.rate:,.0f}/s",
        "≥ 10,000/s",
        ours.rate >= 10_000,
    )


if __name__ == "__main__":
    run_shared(serve(Path(sys.argv[1])))
