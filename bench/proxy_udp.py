"""Small datagrams through the proxy beside nginx stream (one worker) and a direct socket.

Everything runs in a network namespace of its own, on loopback. Clients reach k8slite through the
portal with its real rules, and nginx on its port. Needs root, cc and nginx with its stream module.
"""

from __future__ import annotations

import asyncio
import os
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

ECHO, NGINX, PORTAL = 9003, 9103, "192.168.3.12"
SECONDS, ROUNDS = 1.0, 5
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

#: What is measured: how many clients, and datagrams that each has in flight.
LOADS = ((1, 64), (64, 4))

# multi_accept: nginx reads all datagrams that are there, not one an event: its better side.
CONFIG = f"""
load_module {STREAM_MODULE};
daemon off;
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log;
events {{ worker_connections 4096; multi_accept on; }}
stream {{
  server {{
    listen 127.0.0.1:{NGINX} udp;
    proxy_pass 127.0.0.1:{ECHO};
    proxy_timeout 10s;
  }}
}}
"""


async def serve() -> None:
    """The proxy in a process of its own; says a line when the portal is there, and ends with its
    standard input."""
    async with running(lambda: choose_edge(Clock()), look_every=60.0) as world:
        await world.serve("echo", PORTAL, [("127.0.0.1", ECHO)], protocol="UDP")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def rows() -> Iterator[Row]:
    missing = [name for name in ("cc", "nginx") if not shutil.which(name)]
    missing += [] if STREAM_MODULE.exists() else ["libnginx-mod-stream"]
    if missing:
        yield Row("proxy, UDP", "not measured", f"needs {', '.join(missing)}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = str(folder / "load")
        source = Path(__file__).with_name("udp_load.c")
        subprocess.run(["cc", "-O2", "-o", load, str(source)], check=True)
        site = stack.enter_context(Namespace("bench"))
        site.ip("addr", "add", f"{NODE}/24", "dev", "lo")
        site.ip("route", "add", "default", "dev", "lo")
        log = folder / "log"
        site.start(load, "echo", str(ECHO), log=log)
        config = folder / "nginx.conf"
        config.write_text(CONFIG % {"folder": folder})
        site.start("nginx", "-c", str(config), "-p", str(folder), log=log)
        proxy = subprocess.Popen(
            site.inside(sys.executable, "-m", "bench.proxy_udp"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert proxy.stdout is not None
            while (line := proxy.stdout.readline()) and line != "ready\n":
                pass
            processes = {"k8slite": proxy.pid, "nginx": _worker(site)}
            for clients, each in LOADS:
                yield _row(site, load, clients, each, processes)
        finally:
            proxy.communicate("")


def _worker(site: Namespace) -> int:
    """nginx's one worker. Raises StopIteration when there is none."""
    return next(
        pid for pid in site.pids() if b"worker process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _row(site: Namespace, load: str, clients: int, each: int, processes: dict[str, int]) -> Row:
    targets = {
        "direct": ("127.0.0.1", str(ECHO)),
        "nginx": ("127.0.0.1", str(NGINX)),
        "k8slite": (PORTAL, "80"),
    }
    rates: dict[str, list[float]] = {name: [] for name in targets}
    lost, sent = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0)
    before = {name: _cpu_seconds(pid) for name, pid in processes.items()}
    for _ in range(ROUNDS):  # in turns, so that a noisy second hits all alike
        for name, target in targets.items():
            said = site.run(load, "ask", *target, str(clients), str(each), str(SECONDS)).split()
            rates[name].append(float(said[0]))
            lost[name] += int(said[1])
            sent[name] += int(said[2])
    best = {name: statistics.median(values) for name, values in rates.items()}
    ratio = best["k8slite"] / best["nginx"]

    def said_of(name: str) -> str:
        cpu = (_cpu_seconds(processes[name]) - before[name]) / sent[name] * 1e6
        rate = f"{best[name]:,.0f}/s at {cpu:.1f} µs of CPU each"
        return f"{rate}, lost {lost[name]:,} of {sent[name]:,}"

    who = "one client" if clients == 1 else f"{clients} clients"
    return Row(
        f"proxy, datagrams of {who} echoed",
        f"{said_of('k8slite')} = {ratio:.2f} × nginx",
        f"nginx stream {said_of('nginx')}; direct {best['direct']:,.0f}/s",
        "≥ 1.0 × nginx stream",
        ratio >= 1.0,
    )


if __name__ == "__main__":
    run_shared(serve())
