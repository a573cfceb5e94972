"""The pod network between two hosts beside the bare link between them: one TCP stream, ping-pong.

For vxlan and for host-gw a pair of hosts (network namespaces on a switch, the overlay at work on
each as the agent runs it) stands at the same time; every round measures the bare link and the pods
of either pair in turn, so that a noisy second hits all alike; ratios are taken within a round, and
the median of the rounds is printed. A ping-pong is one byte over TCP there and
back, both ends in one thread: the way through the kernel, without anybody's turn on a processor.
Needs root and iperf3; all traffic stays in the namespaces, and nothing is left.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import structlog
from tests.lab.docker_host import inside
from tests.lab.network import Namespace
from tests.network.hosts import echo, until, world

from bench.table import Row

MODES = ("vxlan", "host-gw")
ROUNDS, SECONDS, PINGS = 7, 1, 2000
PORT, PING_PORT = 5201, 7001

#: Where a measurement begins, where it ends, and the address there.
Way = tuple[Namespace, Namespace, str]


def rows() -> Iterator[Row]:
    if not shutil.which("iperf3"):
        yield Row("overlay", "not measured", "needs iperf3: apt install iperf3")
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways: dict[str, Way] = {}
        for mode in MODES:
            made = stack.enter_context(world(folder / mode, mode, count=2))
            made.start()
            until(lambda made=made: echo(made.pods[0], made.address(1)))
            one, other = made.hosts
            ways.setdefault("link", (one.site, other.site, other.address))
            ways[mode] = (made.pods[0], made.pods[1], made.address(1))
        for _, target, _ in ways.values():
            server = target.start("iperf3", "-s", "-p", str(PORT), log=folder / "iperf3.log")
            stack.callback(_end, server)
        until(lambda: all(_listens(target) for _, target, _ in ways.values()))
        yield from _measured(ways)


def _measured(ways: dict[str, Way]) -> Iterator[Row]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(_bandwidth(way))
            times[name].append(_round_trips(way))
    for mode in MODES:
        ratio = statistics.median(map(_over, rates[mode], rates["link"]))
        yield Row(
            f"pods across hosts, {mode}, one TCP stream",
            f"{statistics.median(rates[mode]):.1f} Gbit/s = {ratio:.2f} × bare link",
            f"bare link {statistics.median(rates['link']):.1f}",
        )
    for mode in MODES:
        pods, link = ([statistics.median(p) for p in zip(*times[n], strict=True)]
                      for n in (mode, "link"))  # fmt: skip
        halves = ([p50 for p50, _ in times[name]] for name in (mode, "link"))
        ratio = statistics.median(map(_over, *halves))
        yield Row(
            f"pods across hosts, {mode}, ping-pong p50 / p99",
            f"{pods[0]:.1f} / {pods[1]:.1f} µs = {ratio:.2f} × bare link",
            f"bare link {link[0]:.1f} / {link[1]:.1f}",
        )


def _over(one: float, other: float) -> float:
    return one / other


def _bandwidth(way: Way) -> float:
    """Gbit/s of one TCP stream, as its receiver counted."""
    source, _, address = way
    said = source.run("iperf3", "-J", "-c", address, "-p", str(PORT), "-t", str(SECONDS))
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _round_trips(way: Way) -> tuple[float, float]:
    """µs there and back, half of the time and 99 times of 100."""
    source, target, address = way
    with inside(target):
        server = socket.create_server(("0.0.0.0", PING_PORT))
    with inside(source):
        client = socket.socket()
    with server, client:
        client.connect((address, PING_PORT))
        far, _ = server.accept()
        with far:
            for end in (client, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found = []
            for _ in range(PINGS):
                began = time.perf_counter_ns()
                client.send(b"x")
                far.recv(1)
                far.send(b"x")
                client.recv(1)
                found.append((time.perf_counter_ns() - began) / 1000)
    found.sort()
    return found[PINGS // 2], found[PINGS * 99 // 100]


def _listens(target: Namespace) -> bool:
    return f":{PORT} " in target.run("ss", "-ltnH")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
