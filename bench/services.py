"""5,000 services with 50,000 endpoints on one node, in each mode of the proxy.

Objects are written to a store; the proxy hears of them through the watch cache, as in a master.
Measured: how long a proxy takes that starts into all of this, what it holds in memory, what one
change of a service's ten endpoints costs in CPU (store and watch included), and how long after the
write the first connection obeys it. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.proxy.world import NODE, Recorded, service_object, until

from bench.loopback import node, resident
from bench.table import Row
from k8slite.api import codec
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.endpoints.types import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
)
from k8slite.api.kinds.service.types import ServicePort
from k8slite.api.meta import Object, ObjectMeta
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.netfilter.choice import choose_edge
from k8slite.roles.proxy import Proxy
from k8slite.store.base import Put
from k8slite.store.cache import WatchCache
from k8slite.store.memory import MemoryStore

SERVICES, EACH, CHANGES = 5_000, 10, 40
MODES = ("userspace", "nft")
#: Ports of this node whose server says a, and those whose server says b.
SAYS = {b"a": range(21_000, 21_000 + EACH), b"b": range(22_000, 22_000 + EACH)}


def address(number: int) -> str:
    return f"10.{number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def endpoints(number: int, places: list[tuple[str, int]]) -> Endpoints:
    subsets: dict[int, list[EndpointAddress]] = {}
    for ip, port in places:
        subsets.setdefault(port, []).append(EndpointAddress(ip=ip))
    return Endpoints(
        metadata=ObjectMeta(name=f"service-{number}", namespace="default"),
        subsets=tuple(
            EndpointSubset(
                addresses=tuple(addresses), ports=(EndpointPort(port=port, protocol="TCP"),)
            )
            for port, addresses in subsets.items()
        ),
    )


def objects() -> Iterator[Object]:
    for number in range(SERVICES):
        first = number * EACH
        places = [
            (f"172.16.{n // 250 % 250}.{n % 250 + 1}", 8000 + n // 62_500)
            for n in range(first, first + EACH)
        ]
        yield endpoints(number, places)
        ports = (ServicePort(port=80, protocol="TCP"),)
        yield service_object(f"service-{number}", address(number), ports)


def put(obj: Object) -> Put:
    kind = SCHEME.of(obj)
    key = kind.store_key(obj.metadata.namespace, obj.metadata.name)
    return Put(key, codec.encode_stored(obj))


# -- the proxy's process ---------------------------------------------------------------------------


async def measured(mode: str) -> dict[str, Any]:
    clock = Clock()
    settings = Settings(node_name=NODE, node_ip=NODE, proxy_mode=mode)
    async with MemoryStore(clock) as store:
        cache = WatchCache(store, SCHEME, clock)
        caching = asyncio.create_task(cache.run())
        await cache.wait_ready()
        everything = [put(obj) for obj in objects()]
        for start in range(0, len(everything), 500):
            revision = await store.commit(everything[start : start + 500])
        del everything
        await cache.wait_for(revision)
        before = resident(os.getpid())
        edge = choose_edge(
            clock, kernel=mode == "nft", pod_network=settings.flannel_net, bridge="k8slite0"
        )
        start = time.monotonic()
        informers = CacheInformers(cache)
        proxy = Proxy(settings, informers, Recorded(), clock, edge, health_port=None)
        running = asyncio.create_task(proxy.run())
        await until(lambda: len(proxy.portals) == SERVICES and proxy.settled, 120)
        found = {"start": time.monotonic() - start, "memory": resident(os.getpid()) - before}
        found["cost"] = await cost(store, proxy)
        found["obeyed"] = await obeyed(store)
        for task in (running, caching):
            task.cancel()
        await asyncio.wait({running, caching})
        await edge.remove()
        await edge.close()
        return found


async def cost(store: MemoryStore, proxy: Proxy) -> float:
    """CPU seconds of one change, the smallest set of endpoints that can change: one of ten."""
    changes = [
        put(endpoints(turn * 97, [(f"172.17.{turn}.{n}", 8000) for n in range(1, EACH + turn % 2)]))
        for turn in range(CHANGES)
    ]
    before = time.process_time()
    for change in changes:
        await store.commit([change])
        await asyncio.sleep(0.005)
        await until(lambda: proxy.settled)
    return (time.process_time() - before) / len(changes)


async def obeyed(store: MemoryStore) -> list[float]:
    """Seconds from each write to the beginning of the first connection that obeys it."""
    took = []
    client = subprocess.Popen(  # noqa: ASYNC220 (there is nobody else here)
        (sys.executable, "-m", "bench.services", "client", address(0)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    for turn in range(1 + CHANGES):
        says = (b"a", b"b")[turn % 2]
        change = put(endpoints(0, [(NODE, port) for port in SAYS[says]]))
        client.stdin.write(says.decode() + "\n")
        await asyncio.to_thread(client.stdout.readline)  # it asks by now
        written = time.monotonic()
        await store.commit([change])
        took.append(float(await asyncio.to_thread(client.stdout.readline)) - written)
    client.communicate()
    return took[1:]  # before the first it asked endpoints that do not exist


# -- those who ask and those who answer, in processes of their own ---------------------------------


def ask(host: str) -> None:
    """For each line of standard input: connect until that is the answer, and say when."""
    for line in sys.stdin:
        print("asking", flush=True)
        while True:
            began = time.monotonic()
            with suppress(OSError), socket.create_connection((host, 80), 0.2) as sock:
                if sock.recv(1) == line.strip().encode():
                    break
            time.sleep(0.0005)
        print(began, flush=True)


def answer() -> None:
    """Say a or b to whoever connects, until standard input ends."""
    selector = selectors.DefaultSelector()
    for says, ports in SAYS.items():
        for port in ports:
            listening = socket.create_server((NODE, port), backlog=512)
            selector.register(listening, selectors.EVENT_READ, says)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
            with connection, suppress(OSError):
                connection.send(key.data)


def rows() -> Iterator[Row]:
    found = {}
    for mode in MODES:
        with node("services") as site:
            module = (sys.executable, "-m", "bench.services")
            server = subprocess.Popen(
                site.inside(*module, "server"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert server.stdout is not None
            server.stdout.readline()
            told = subprocess.run(
                site.inside(*module, mode), check=True, capture_output=True, text=True
            )
            server.communicate()
        found[mode] = json.loads(told.stdout.splitlines()[-1])
    what = f"{SERVICES:,} services, {SERVICES * EACH:,} endpoints"

    def both(text: str, shown: str, **of: float) -> Row:
        userspace, nft = (shown.format(of[mode]) for mode in MODES)
        return Row(f"{what}: {text}", f"userspace {userspace}, nft {nft}")

    for text, shown, pick in (
        ("a proxy starts, all rules written", "{:.1f} s", lambda f: f["start"]),
        ("memory of the proxy's part", "{:.0f} MB", lambda f: f["memory"] / 1e6),
        ("CPU of a change, store and watch included", "{:.1f} ms", lambda f: 1e3 * f["cost"]),
        ("write to first connection that obeys, p50", "{:.1f} ms",
         lambda f: 1e3 * statistics.median(f["obeyed"])),
        ("the same, the slowest of " + str(CHANGES), "{:.1f} ms",
         lambda f: 1e3 * max(f["obeyed"])),
    ):  # fmt: skip
        yield both(text, shown, **{mode: pick(found[mode]) for mode in MODES})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", host]:
            ask(host)
        case ["server"]:
            answer()
        case [mode]:
            print(json.dumps(run_shared(measured(mode))))
