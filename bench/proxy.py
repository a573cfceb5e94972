"""The proxy's TCP data path beside a direct connection, HAProxy and nginx stream, one thread each.

Everything runs in network namespaces of its own, on loopback. Clients reach k8slite through the
portal with its real rules, and the others on their ports. HAProxy has splice-auto, nginx the
buffers that it comes with; neither logs. The kernel's mode has a namespace to itself. Needs root,
cc, haproxy and nginx with its stream module.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.lab.network import Namespace
from tests.proxy.world import NODE, running

import k8slite.roles.proxy
from bench.loopback import (
    STREAM_MODULE,
    child,
    compiled,
    cpu_seconds,
    kernel_memory,
    missing,
    node,
    resident,
    serving,
)
from bench.table import Row
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge

T = TypeVar("T")

SERVERS = {"echo": 9001, "source": 9002}
PORTALS = {"echo": "192.168.3.10", "source": "192.168.3.11"}
HAPROXY_PORTS = {"echo": 9101, "source": 9102}
NGINX_PORTS = {"echo": 9201, "source": 9202}

SECONDS, ROUNDS, CONNECTIONS, RATE, IDLE = 1.0, 3, 32, 1_000, 1_000

HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen echo
  bind 127.0.0.1:9101
  server one 127.0.0.1:9001
listen source
  bind 127.0.0.1:9102
  server one 127.0.0.1:9002
"""

NGINX = f"""
load_module {STREAM_MODULE};
daemon off;
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log;
events {{ worker_connections 16000; }}
stream {{
  server {{ listen 127.0.0.1:9201; proxy_pass 127.0.0.1:9001; tcp_nodelay on; }}
  server {{ listen 127.0.0.1:9202; proxy_pass 127.0.0.1:9002; tcp_nodelay on; }}
}}
"""


@dataclass(frozen=True)
class Way:
    """One way from a client to a server: where it is, its process, and where clients connect to
    for each server."""

    site: Namespace
    pid: int | None
    doors: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Load:
    """What ``load.c`` does: its mode, what for, and the goal in ratio to HAProxy."""

    mode: str
    server: str
    what: str
    unit: str
    goal: float | None
    connections: int = CONNECTIONS


LOADS = (
    Load("bulk", "source", "bulk, one stream", "Gbit/s", 1.5, 1),
    Load("bulk", "source", f"bulk, {CONNECTIONS} streams", "Gbit/s", None),
    Load("requests", "echo", f"small requests on {CONNECTIONS} kept connections", "/s", 1.0),
    Load("connects", "echo", "a connection per request", "/s", 0.9),
)


async def serve(mode: str) -> None:
    """The proxy in a process of its own; says a line when the portals are there, and ends with
    its standard input."""

    def edge() -> Edge:
        return choose_edge(
            Clock(), kernel=mode == "nft", pod_network="172.16.0.0/16", bridge="pod0"
        )

    settings = {"proxy_mode": mode}
    async with running(edge, look_every=60.0, settings=settings) as world:
        for name, portal in PORTALS.items():
            # The kernel does not send to loopback what it took for another address.
            endpoint = "127.0.0.1" if mode == "userspace" else NODE
            await world.serve(name, portal, [(endpoint, SERVERS[name])])
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def modes() -> list[str]:
    """The proxy's modes that are there to be measured."""
    package = Path(k8slite.roles.proxy.__path__[0])
    return ["userspace"] + (["nft"] if any(package.glob("kernel*.py")) else [])


def rows() -> Iterator[Row]:
    absent = missing("cc", "haproxy", "nginx")
    if absent:
        yield Row("proxy data path", "not measured", f"needs {', '.join(absent)}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = compiled("load.c", folder)
        ways = dict(_ways(stack, folder, load))
        idle = list(_idle(load, ways))  # first: later there is freed memory to fill
        for kind in LOADS:
            yield from _throughput(load, kind, ways)
        yield _latency(load, ways)
        yield from idle


def _ways(stack: ExitStack, folder: Path, load: str) -> Iterator[tuple[str, Way]]:
    log = folder / "log"
    portals = {name: (portal, "80") for name, portal in PORTALS.items()}
    for mode in modes():
        site = stack.enter_context(node("bench"))
        for server, port in SERVERS.items():
            site.start(load, server, str(port), log=log)
        pid = stack.enter_context(serving(site, "bench.proxy", mode))
        if mode != "userspace":
            yield f"k8slite {mode}", Way(site, pid, portals)
            continue
        (folder / "haproxy.cfg").write_text(HAPROXY)
        (folder / "nginx.conf").write_text(NGINX % {"folder": folder})
        haproxy = site.start("haproxy", "-db", "-f", str(folder / "haproxy.cfg"), log=log)
        nginx = site.start("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), log=log)
        _listen(site)
        yield "k8slite", Way(site, pid, portals)
        yield "HAProxy", Way(site, haproxy.pid, _doors(HAPROXY_PORTS))
        yield "nginx", Way(site, child(nginx.pid), _doors(NGINX_PORTS))
        yield "direct", Way(site, None, _doors(SERVERS))


def _doors(ports: dict[str, int]) -> dict[str, tuple[str, str]]:
    return {name: ("127.0.0.1", str(port)) for name, port in ports.items()}


def _listen(site: Namespace) -> None:
    """Wait until both peers listen on their ports."""
    ports = {f":{port}" for port in (*HAPROXY_PORTS.values(), *NGINX_PORTS.values())}
    for _ in range(100):
        if all(port in site.run("ss", "-ltn") for port in ports):
            return
        time.sleep(0.05)
    raise RuntimeError(f"haproxy or nginx does not listen on all of {', '.join(sorted(ports))}")


def _throughput(load: str, kind: Load, ways: dict[str, Way]) -> Iterator[Row]:
    figures: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name, way in ways.items() if way.pid}
    for _ in range(ROUNDS):  # in turns, so that a noisy second hits all alike
        for name, way in ways.items():
            before = cpu_seconds(way.pid) if way.pid else 0.0
            said = way.site.run(
                load, kind.mode, *way.doors[kind.server], str(kind.connections), str(SECONDS)
            ).split()
            if said[-1] != "0":
                raise RuntimeError(f"{kind.mode} through {name}: {said[-1]} broken connections")
            figures[name].append(float(said[0]))
            if way.pid:
                costs[name].append((cpu_seconds(way.pid) - before) / (float(said[0]) * SECONDS))
    best = {name: statistics.median(values) for name, values in figures.items()}
    ratio = best["k8slite"] / best["HAProxy"]
    digits = 1 if kind.unit == "Gbit/s" else 0
    yield Row(
        f"proxy, {kind.what}",
        _said(best, lambda value: f"{value:,.{digits}f}", f" {kind.unit} = {ratio:.2f} × HAProxy"),
        _beside(best, lambda value: f"{value:,.{digits}f}"),
        f"≥ {kind.goal} × HAProxy" if kind.goal else "",
        ratio >= kind.goal if kind.goal else None,
    )
    bulk = kind.mode == "bulk"
    scale, unit = (8.0, "s for 1 GB") if bulk else (1e6, "µs each")
    cost = {name: statistics.median(values) * scale for name, values in costs.items()}
    ratio = cost["k8slite"] / cost["HAProxy"]
    yield Row(
        f"proxy, {kind.what}: CPU of its process",
        _said(cost, lambda value: f"{value:.2f}", f" {unit} = {ratio:.2f} × HAProxy"),
        _beside(cost, lambda value: f"{value:.2f}"),
    )


def _latency(load: str, ways: dict[str, Way]) -> Row:
    """One kept connection, a question of 64 bytes every millisecond: from when it was due until
    it was answered. What is shown is what a way adds to a direct connection."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            said = way.site.run(load, "paced", *way.doors["echo"], str(RATE), str(SECONDS)).split()
            figures[name].append((float(said[0]), float(said[1])))
    middle = {
        name: (statistics.median(p50 for p50, _ in all_), statistics.median(p99 for _, p99 in all_))
        for name, all_ in figures.items()
    }
    direct = middle.pop("direct")

    def added(value: tuple[float, float]) -> str:
        return f"p50 {value[0] - direct[0]:+.0f}, p99 {value[1] - direct[1]:+.0f}"

    beside = _beside(middle, added)
    return Row(
        f"proxy, µs added to a question's way and back, {RATE:,} a second",
        _said(middle, added, ""),
        f"{beside}; direct {direct[0]:.0f} and {direct[1]:.0f}",
    )


def _idle(load: str, ways: dict[str, Way]) -> Iterator[Row]:
    """Connections that asked once and are silent: what the process holds for them, and the kernel
    with both ends of the client and of the server."""
    own: dict[str, float] = {}
    kernel: dict[str, float] = {}
    for name, way in reversed(ways.items()):  # direct first: it fills the kernel's caches
        before = resident(way.pid) if way.pid else 0
        slabs = kernel_memory()
        words = way.site.inside(load, "held", *way.doors["echo"], str(IDLE))
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
            assert held.stdout is not None
            if held.stdout.readline() != b"held\n":
                raise RuntimeError(f"{IDLE} connections through {name} were not held")
            kernel[name] = (kernel_memory() - slabs) / 1e6
            if way.pid:
                own[name] = (resident(way.pid) - before) / 1e6
            held.communicate(b"")
    for what, figures in (("its process", own), ("the kernel, for all ends", kernel)):
        yield Row(
            f"proxy, MB for {IDLE:,} idle connections: {what}",
            _said(figures, lambda value: f"{value:.1f}", ""),
            _beside(figures, lambda value: f"{value:.1f}"),
        )


def _said(figures: dict[str, T], show: Callable[[T], str], more: str) -> str:
    others = [name for name in figures if name.startswith("k8slite ")]
    said = show(figures["k8slite"]) + more
    return "; ".join([said, *(f"{name[8:]} {show(figures[name])}" for name in others)])


def _beside(figures: dict[str, T], show: Callable[[T], str]) -> str:
    names = [name for name in figures if not name.startswith("k8slite")]
    return ", ".join(f"{name} {show(figures[name])}" for name in names)


if __name__ == "__main__":
    run_shared(serve(sys.argv[1]))
