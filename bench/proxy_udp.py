"""Small datagrams through the proxy beside nginx stream (one worker) and a direct socket.

Everything runs in network namespaces of its own, on loopback. Clients reach k8slite through the
portal with its real rules, and nginx on its port. The kernel's mode has a namespace to itself, and
no process whose time could be told. Needs root, cc and nginx with its stream module.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.network import Namespace
from tests.proxy.world import NODE, running

from bench.loopback import STREAM_MODULE, child, compiled, cpu_seconds, missing, node, serving
from bench.table import Row
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge

ECHO, NGINX_PORT, PORTAL = 9003, 9103, "192.168.3.12"
SECONDS, ROUNDS = 1.0, 5

#: What is measured: how many clients, datagrams that each has in flight, and the goal in ratio to
#: nginx. One in flight is what batches can do least about.
LOADS = ((1, 64, 1.0), (64, 4, 1.0), (64, 1, None))

# multi_accept: nginx reads all datagrams that are there, not one an event: its better side.
NGINX = f"""
load_module {STREAM_MODULE};
daemon off;
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log;
events {{ worker_connections 4096; multi_accept on; }}
stream {{
  server {{
    listen 127.0.0.1:{NGINX_PORT} udp;
    proxy_pass 127.0.0.1:{ECHO};
    proxy_timeout 10s;
  }}
}}
"""


@dataclass
class Way:
    """One way from clients to the server, and what came of it."""

    site: Namespace
    door: tuple[str, str]
    pid: int | None = None
    rates: list[float] = field(default_factory=list)
    lost: int = 0
    sent: int = 0
    cpu: float = 0.0

    def measure(self, load: str, clients: int, each: int) -> None:
        before = cpu_seconds(self.pid) if self.pid else 0.0
        said = self.site.run(load, "ask", *self.door, str(clients), str(each), str(SECONDS))
        rate, lost, sent = said.split()
        self.rates.append(float(rate))
        self.lost += int(lost)
        self.sent += int(sent)
        self.cpu += cpu_seconds(self.pid) - before if self.pid else 0.0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def __str__(self) -> str:
        cost = f" at {self.cpu / self.sent * 1e6:.1f} µs of CPU each" if self.pid else ""
        loss = f", lost {self.lost:,} of {self.sent:,}" if self.lost else ""
        return f"{self.rate:,.0f}/s{cost}{loss}"


async def serve(mode: str) -> None:
    """The proxy in a process of its own; says a line when the portal is there, and ends with its
    standard input."""

    def edge() -> Edge:
        return choose_edge(
            Clock(), kernel=mode == "nft", pod_network="172.16.0.0/16", bridge="pod0"
        )

    settings = {"proxy_mode": mode}
    async with running(edge, look_every=60.0, settings=settings) as world:
        # The kernel does not send to loopback what it took for another address.
        endpoint = "127.0.0.1" if mode == "userspace" else NODE
        await world.serve("echo", PORTAL, [(endpoint, ECHO)], protocol="UDP")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def rows() -> Iterator[Row]:
    if absent := missing("cc", "nginx"):
        yield Row("proxy, UDP", "not measured", f"needs {', '.join(absent)}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = compiled("udp_load.c", folder)
        sites = _sites(stack, folder, load)
        for clients, each, goal in LOADS:
            ways = {name: Way(*site) for name, site in sites.items()}
            for _ in range(ROUNDS):  # in turns, so that a noisy second hits all alike
                for way in ways.values():
                    way.measure(load, clients, each)
            yield _row(ways, clients, each, goal)


def _sites(
    stack: ExitStack, folder: Path, load: str
) -> dict[str, tuple[Namespace, tuple[str, str], int | None]]:
    """By name: where the clients are, what they ask, and the process between."""
    log = folder / "log"
    (folder / "nginx.conf").write_text(NGINX % {"folder": folder})
    ours, kernel = (stack.enter_context(node("bench")) for _ in range(2))
    for site in (ours, kernel):
        site.start(load, "echo", str(ECHO), log=log)
    nginx = ours.start("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), log=log)
    proxy = stack.enter_context(serving(ours, "bench.proxy_udp", "userspace"))
    stack.enter_context(serving(kernel, "bench.proxy_udp", "nft"))
    return {
        "k8slite": (ours, (PORTAL, "80"), proxy),
        "nginx": (ours, ("127.0.0.1", str(NGINX_PORT)), child(nginx.pid)),
        "nft": (kernel, (PORTAL, "80"), None),
        "direct": (ours, ("127.0.0.1", str(ECHO)), None),
    }


def _row(ways: dict[str, Way], clients: int, each: int, goal: float | None) -> Row:
    who = "one client" if clients == 1 else f"{clients} clients"
    ratio = ways["k8slite"].rate / ways["nginx"].rate
    return Row(
        f"proxy, datagrams of {who} echoed, {each} in flight each",
        f"{ways['k8slite']} = {ratio:.2f} × nginx",
        f"nginx stream {ways['nginx']}; mode nft {ways['nft']}; direct {ways['direct']}",
        f"≥ {goal} × nginx stream" if goal else "",
        ratio >= goal if goal else None,
    )


if __name__ == "__main__":
    run_shared(serve(sys.argv[1]))
