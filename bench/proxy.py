"""The proxy's data path beside a direct connection and HAProxy (tcp mode, splice-auto, one thread).

Everything runs in a network namespace of its own, on loopback. Clients reach k8slite through the
portal with its real rules, and HAProxy on its port. Needs root, cc and haproxy.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.lab.network import Namespace
from tests.proxy.world import NODE, running

from bench.table import Row
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.netfilter.choice import choose_edge

ECHO, SOURCE = 9001, 9002
PORTAL_ECHO, PORTAL_SOURCE = "192.168.3.10", "192.168.3.11"
SECONDS, ROUNDS, CONNECTIONS = 1.5, 3, 32

HAPROXY = f"""
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
  server one 127.0.0.1:{ECHO}
listen source
  bind 127.0.0.1:9102
  server one 127.0.0.1:{SOURCE}
"""

#: What is measured: load's mode, then its arguments; the server's port, HAProxy's, our portal.
MODES = {
    "bulk": ("bulk, one stream", "Gbit/s", 1.5, (), (SOURCE, 9102, PORTAL_SOURCE)),
    "requests": (
        f"small requests on {CONNECTIONS} kept connections", "/s", 1.0,
        (str(CONNECTIONS),), (ECHO, 9101, PORTAL_ECHO),
    ),
    "connects": (
        "a connection per request", "/s", 0.9,
        (str(CONNECTIONS),), (ECHO, 9101, PORTAL_ECHO),
    ),
}  # fmt: skip


async def serve() -> None:
    """The proxy in a process of its own; says a line when the portals are there, and ends with
    its standard input."""
    async with running(lambda: choose_edge(Clock()), look_every=60.0) as world:
        await world.serve("echo", PORTAL_ECHO, [("127.0.0.1", ECHO)])
        await world.serve("source", PORTAL_SOURCE, [("127.0.0.1", SOURCE)])
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def rows() -> Iterator[Row]:
    missing = [name for name in ("cc", "haproxy") if not shutil.which(name)]
    if missing:
        yield Row("proxy data path", "not measured", f"needs {', '.join(missing)}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = str(folder / "load")
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", load, str(source)], check=True)
        site = stack.enter_context(Namespace("bench"))
        site.ip("addr", "add", f"{NODE}/24", "dev", "lo")
        site.ip("route", "add", "default", "dev", "lo")
        log = folder / "log"
        for mode, port in (("echo", ECHO), ("source", SOURCE)):
            site.start(load, mode, str(port), log=log)
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY)
        site.start("haproxy", "-db", "-f", str(config), log=log)
        proxy = subprocess.Popen(
            site.inside(sys.executable, "-m", "bench.proxy"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert proxy.stdout is not None
            while (line := proxy.stdout.readline()) and line != "ready\n":
                pass
            for mode in MODES:
                yield _row(site, load, mode)
        finally:
            proxy.communicate("")


def _row(site: Namespace, load: str, mode: str) -> Row:
    what, unit, goal, arguments, (direct, haproxy, portal) = MODES[mode]
    targets = {
        "direct": ("127.0.0.1", str(direct)),
        "haproxy": ("127.0.0.1", str(haproxy)),
        "k8slite": (portal, "80"),
    }
    figures: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(ROUNDS):  # in turns, so that a noisy second hits all alike
        for name, target in targets.items():
            said = site.run(load, mode, *target, *arguments, str(SECONDS)).split()
            if said[1] != "0":
                raise RuntimeError(f"{mode} through {name}: {said[1]} broken connections")
            figures[name].append(float(said[0]))
    best = {name: statistics.median(values) for name, values in figures.items()}
    ratio = best["k8slite"] / best["haproxy"]
    return Row(
        f"proxy, {what}",
        f"{best['k8slite']:,.1f} {unit} = {ratio:.2f} × HAProxy",
        f"HAProxy {best['haproxy']:,.1f}, direct {best['direct']:,.1f}",
        f"≥ {goal} × HAProxy",
        ratio >= goal,
    )


if __name__ == "__main__":
    run_shared(serve())
