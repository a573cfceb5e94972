"""How long the API takes to answer while the proxy in the same process is in bad company.

A whole agent (master and node) runs in a network namespace; its API is asked by a process of its
own, so many times a second whatever the answers take: time that a question waits counts. Bad
company comes from a neighbour's namespace, in processes of its own. Needs root and cc.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
from tests.proxy.world import NODE, OUTSIDE, POD, Net, built

from bench.table import Row

API = "http://127.0.0.1:8080"
ASKED = "/api/v1/namespaces/default/services/echo"
RATE, SECONDS, GOAL_MS = 200, 4.0, 50.0
MARGIN = 2.5  # in which the asking process starts
ECHO, SOURCE, DATAGRAMS = 9001, 9002, 9003
NOBODY = "172.16.5.77"
HELD = 9_000  # each is two descriptors of the agent, which has 20,000

#: What is done meanwhile: name, the service that it meets, trouble.c's mode and its amount.
FLOODS = (
    (f"{HELD:,} idle connections", "echo", "hold", HELD),
    ("200 readers of a byte now and then", "source", "slow", 200),
    ("200 readers that are gone without a word", "source", "vanish", 200),
    ("2,000 torn connections a second", "echo", "tear", 2_000),
    ("2,000 connections a second reset at once", "echo", "dial", 2_000),
    ("500 connections a second to an endpoint that is silent", "silent", "tear", 500),
    ("10,000 SYN a second of invented senders", "echo", "syn", 10_000),
    ("20,000 datagrams a second of invented senders", "dns", "udp", 20_000),
)
NO_RESETS = """
table inet quiet {
  chain output {
    type filter hook output priority 0
    tcp flags & rst == rst drop
  }
}
"""
#: Loads without limit: only as quick as they are answered.
LOADS = (
    ("small requests as fast as they go", "echo", ("load", "requests"), ("32",)),
    ("a connection per request as fast as they go", "echo", ("load", "connects"), ("32",)),
    ("bulk as fast as it goes", "source", ("load", "bulk"), ("1",)),
    ("datagrams as fast as they go", "dns", ("udp_load", "ask"), ("64", "4")),
)


async def probe(seconds: float) -> None:
    """Ask the API at a steady rate, on connections that are kept and every tenth time on a new one:
    nobody's question waits for another's answer. Prints the milliseconds of each as JSON; one that
    is not answered with 200 is null."""
    async with aiohttp.TCPConnector(limit=0) as kept, aiohttp.TCPConnector(force_close=True) as new:
        async with (
            aiohttp.ClientSession(API, connector=kept) as usual,
            aiohttp.ClientSession(API, connector=new) as fresh,
        ):
            await asyncio.gather(*(_asked(usual, 0.0) for _ in range(16)))
            start = asyncio.get_running_loop().time() + 0.1
            took = await asyncio.gather(*(
                _asked(usual if number % 10 else fresh, start + number / RATE)
                for number in range(int(seconds * RATE))
            ))  # fmt: skip
    print(json.dumps(took))


async def _asked(session: aiohttp.ClientSession, due: float) -> float | None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, due - loop.time()))
    try:
        async with session.get(ASKED, timeout=aiohttp.ClientTimeout(10)) as answer:
            await answer.read()
            return (loop.time() - due) * 1e3 if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one run."""

    p50: float
    p99: float
    most: float
    count: int
    failed: int

    def __str__(self) -> str:
        failed = f", {self.failed} of {self.count} not answered" if self.failed else ""
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms, longest {self.most:.0f} ms{failed}"


def ask_api(net: Net, seconds: float = SECONDS) -> Times:
    said = net.node.run(sys.executable, "-m", "bench.floods", "probe", str(seconds))
    took = json.loads(said)
    good = sorted(value for value in took if value is not None)
    if not good:
        raise RuntimeError("the API answered nothing")
    quantile = good[len(good) // 2], good[len(good) * 99 // 100]
    return Times(*quantile, good[-1], len(took), len(took) - len(good))


class Site:
    """The namespaces, the agent in one of them, and its services."""

    def __init__(self, net: Net, folder: Path, agent: subprocess.Popen[bytes], mode: str) -> None:
        self.net = net
        self.mode = mode
        self.folder = folder
        self.agent = agent
        self.portals: dict[str, tuple[str, str]] = {}
        self.at_first = 0  # descriptors of the agent when all is quiet

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Something in the neighbour's namespace; returned when it is at work."""
        process = subprocess.Popen(
            self.net.outside.inside(*words), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if words[0].endswith("trouble"):
            process.stdout.readline()
        return process

    def trouble(
        self, mode: str, service: str, amount: int, seconds: float
    ) -> subprocess.Popen[str]:
        """One of trouble.c's modes against a service."""
        # Who is gone resets nothing. All others may.
        self.net.outside.run("nft", "flush", "ruleset")
        if mode == "vanish":
            self.net.outside.run("nft", "-f", "-", input=NO_RESETS)
        tool = str(self.folder / "trouble")
        return self.start([tool, mode, *self.portals[service], str(amount), str(seconds)])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.agent.pid}/fd"))

    def settled(self) -> int:
        """How many there are when what ended has gone."""
        count, before = self.descriptors(), -1
        for _ in range(30):
            if count == before:
                break
            time.sleep(0.5)
            count, before = self.descriptors(), count
        return count

    async def publish(self) -> None:
        """Make the services and wait until their portals are open."""
        behind = {
            "echo": ("TCP", POD, ECHO),
            "source": ("TCP", POD, SOURCE),
            "silent": ("TCP", NOBODY, 80),
            "dns": ("UDP", POD, DATAGRAMS),
        }
        async with aiohttp.ClientSession(API) as session:
            await _until_answered(session, "/healthz")
            for name, (protocol, ip, port) in behind.items():
                made = await self._create(session, name, protocol, ip, port)
                self.portals[name] = (made["spec"]["clusterIP"], "80")
            await asyncio.to_thread(self._wait_for_portals)

    async def _create(
        self, session: aiohttp.ClientSession, name: str, protocol: str, ip: str, port: int
    ) -> dict[str, dict[str, str]]:
        service = {
            "kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
            "spec": {"ports": [{"port": 80, "protocol": protocol}]},
        }  # fmt: skip
        endpoints = {
            "kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": name},
            "subsets": [
                {"addresses": [{"ip": ip}], "ports": [{"port": port, "protocol": protocol}]}
            ],
        }  # fmt: skip
        made = {}
        for path, body in (("services", service), ("endpoints", endpoints)):
            async with session.post(f"/api/v1/namespaces/default/{path}", json=body) as answer:
                made[path] = await answer.json()
                if answer.status != 201:
                    raise RuntimeError(f"{path} {name}: {made[path]}")
        return made["services"]

    def _wait_for_portals(self) -> None:
        for _ in range(200):
            said = self.net.outside.run(
                str(self.folder / "load"), "requests", *self.portals["echo"], "1", "0.05",
                check=False,
            )  # fmt: skip
            if said and said.split()[1] == "0":
                return
            time.sleep(0.05)
        raise RuntimeError("the portals did not open")


async def _until_answered(session: aiohttp.ClientSession, path: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(path) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


@contextmanager
def site(mode: str = "userspace") -> Iterator[Site]:
    """``mode`` is the proxy's."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("load", "udp_load", "trouble"):
            source = Path(__file__).with_name(f"{name}.c")
            subprocess.run(["cc", "-O2", "-o", str(folder / name), str(source)], check=True)
        started: list[subprocess.Popen[bytes]] = []
        stack.callback(lambda: [process.wait() for process in started])
        net = stack.enter_context(built())
        net.node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")  # as every node's
        # The way back to invented senders ends at the neighbour.
        net.node.ip("route", "add", "10.0.0.0/8", "via", OUTSIDE)
        net.outside.ip("route", "add", "blackhole", "10.0.0.0/8")
        log = folder / "log"
        for words in (
            ("load", "echo", str(ECHO)), ("load", "source", str(SOURCE)),
            ("udp_load", "echo", str(DATAGRAMS)),
        ):  # fmt: skip
            started.append(net.pod.start(str(folder / words[0]), *words[1:], log=log))
        agent = net.node.start(
            str(Path(sys.executable).with_name("k8slite")), "agent", "--node-ip", NODE,
            "--data-dir", str(folder / "data"), "--store", "memory",
            "--docker-host", f"unix://{folder}/none.sock", "--proxy-mode", mode,
            log=folder / "agent.log",
        )  # fmt: skip
        started.append(agent)
        made = Site(net, folder, agent, mode)
        net.node.do(made.publish())
        made.at_first = made.descriptors()
        yield made


def rows() -> Iterator[Row]:
    if not shutil.which("cc"):
        yield Row("API in bad company", "not measured", "needs cc")
        return
    with site() as made:
        rest = ask_api(made.net)
        yield Row("GET of the API, nothing else going on", str(rest))
        for what, service, mode, amount in FLOODS:
            begin = partial(made.trouble, mode, service, amount, SECONDS + MARGIN)
            yield _row(made, what, begin, rest)
        for what, service, (tool, mode), arguments in LOADS:
            words = [str(made.folder / tool), mode, *made.portals[service], *arguments]
            begin = partial(made.start, [*words, str(SECONDS + MARGIN)])
            yield _row(made, what, begin, rest)


def _row(made: Site, what: str, begin: Callable[[], subprocess.Popen[str]], rest: Times) -> Row:
    before = made.settled()
    process = begin()
    times = ask_api(made.net)
    most = made.descriptors()
    said = process.communicate()[0].split()
    return Row(
        f"GET of the API during {what}",
        str(times),
        f"at rest p99 {rest.p99:.1f} ms; {said[0] if said else '?'} of them; "
        f"{most - before:+,} descriptors",
        f"p99 ≤ {GOAL_MS:.0f} ms",
        times.p99 <= GOAL_MS and not times.failed,
    )


if __name__ == "__main__":
    asyncio.run(probe(float(sys.argv[2])))
