"""Minutes of mixed traffic through the portals of a whole agent, with endpoints coming and going.

Every second an endpoint process goes: taken off the Endpoints objects first and ended then, or
killed first and taken off later. Another takes its place. Meanwhile clients in a neighbour's
namespace move bulk, ask small questions on kept connections and on a connection each, half-close,
and send datagrams; each byte is checked. A failure that no death explains (``soak_history``) is an
error of ours. The agent's descriptors and memory are looked at every second.

``SOAK_SECONDS`` says how long (600), ``SOAK_MODE`` the proxy's mode (userspace, or nft: then the
memory and descriptors are those of an agent whose kernel forwards). Needs root and cc.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.proxy import soak_programs
from tests.proxy.soak_history import Failure, Life, nearest_death, unexplained
from tests.proxy.world import POD

from bench.floods import API, Site, site
from bench.table import Row
from k8slite.roles.proxy.tcp.stream import SPARE_PIPES

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
MODE = os.environ.get("SOAK_MODE", "userspace")
ENDPOINTS, FIRST_PORT = 6, 9_200
PROGRAMS = str(Path(soak_programs.__file__))
METRICS = "http://127.0.0.1:10249/metrics"
ACTIVE = re.compile(r"^k8slite_proxy_service_connections_active\{.*\} (\S+)$", re.MULTILINE)
#: Sockets that a proxy keeps once it was used: for connection tracking, for the next connection.
SPARE_SOCKETS = 4
#: A proxy's memory settles in this part of the time; its slope is taken of the rest.
WARM_UP = 0.3
#: Bytes a minute that memory may grow by and still be called steady.
STEADY = 1_048_576
#: Changes that store and watch cache remember.
HISTORY = 11_000
#: Seconds that are enough to tell.
LONG = 300.0


@dataclass
class Sample:
    at: float
    memory: int  # bytes resident
    descriptors: Counter[str]


@dataclass
class Soaked:
    """What came of it."""

    mode: str
    seconds: float
    done: Counter[str]
    failures: list[Failure]
    lives: dict[str, Life]
    samples: list[Sample]
    before: Counter[str]
    after: Counter[str]
    active: float  # connections and sessions that the proxy counts when all is over
    complaints: list[str] = field(default_factory=list)  # of the agent's log

    @property
    def unexplained(self) -> list[Failure]:
        return unexplained(self.failures, self.lives, kernel=self.mode == "nft")

    @property
    def clean(self) -> bool:
        """Nothing of it is open, but pipes that are kept for the next."""
        left = self.after - self.before
        return (
            not self.active and left["socket"] <= SPARE_SOCKETS and left["pipe"] <= 2 * SPARE_PIPES
        )

    @property
    def slope(self) -> float:
        """Bytes a minute that memory grew by after the warm-up; 0 without enough samples."""
        settled = self.samples[int(len(self.samples) * WARM_UP) :]
        if len(settled) < 10:
            return 0.0
        times = [sample.at / 60 for sample in settled]
        return statistics.linear_regression(times, [s.memory for s in settled]).slope


class Endpoints:
    """The endpoint processes, and what the Endpoints objects say of them."""

    def __init__(self, made: Site, session: aiohttp.ClientSession) -> None:
        self.lives: dict[str, Life] = {}
        self._made = made
        self._session = session
        self._random = random.Random(7)
        self._names: dict[int, str] = {}  # by port, of the process there
        self._listed: set[int] = set()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._writing = asyncio.Lock()

    async def begin(self) -> None:
        await asyncio.gather(*(self._come(FIRST_PORT + n) for n in range(ENDPOINTS)))

    async def churn(self, until: float) -> None:
        """One goes every second, each another, for about two seconds."""
        going: set[asyncio.Task[None]] = set()
        ports = sorted(self._processes)
        turn = 0
        while time.monotonic() < until:
            port = ports[turn % len(ports)]
            way = self._drain if self._random.random() < 0.5 else self._crash
            going.add(asyncio.create_task(self._replace(port, way)))
            turn += 1
            await asyncio.sleep(1.0)
            for task in [task for task in going if task.done()]:
                task.result()
                going.discard(task)
        await asyncio.gather(*going)

    async def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            await process.wait()

    async def _replace(self, port: int, way) -> None:  # type: ignore[no-untyped-def]
        await way(port)
        await self._come(port)

    async def _come(self, port: int) -> None:
        name = self._names[port] = f"e{len(self.lives):0{soak_programs.NAME_BYTES - 1}}"
        life = self.lives[name] = Life()
        process = await asyncio.create_subprocess_exec(
            *self._made.net.pod.inside(sys.executable, PROGRAMS, "endpoint", str(port), name),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the endpoint at {port} did not start")
        self._processes[port] = process
        life.listed = time.monotonic()
        self._listed.add(port)
        await self._write()

    async def _drain(self, port: int) -> None:
        await self._unlist(port)
        await asyncio.sleep(self._random.uniform(0.3, 0.8))
        await self._kill(port)

    async def _crash(self, port: int) -> None:
        await self._kill(port)
        await asyncio.sleep(self._random.uniform(0.0, 0.4))
        await self._unlist(port)

    async def _kill(self, port: int) -> None:
        life = self.lives[self._names[port]]
        life.died = time.monotonic()
        self._processes[port].kill()
        await self._processes[port].wait()
        life.gone = time.monotonic()

    async def _unlist(self, port: int) -> None:
        self._listed.discard(port)
        await self._write()
        self.lives[self._names[port]].unlisted = time.monotonic()

    async def _write(self) -> None:
        async with self._writing:
            for name, protocol in (("web", "TCP"), ("chat", "UDP")):
                await put_endpoints(self._session, name, protocol, sorted(self._listed))


async def put_endpoints(
    session: aiohttp.ClientSession, name: str, protocol: str, ports: list[int], method: str = "PUT"
) -> None:
    subsets = [
        {"addresses": [{"ip": POD}], "ports": [{"port": port, "protocol": protocol}]}
        for port in ports
    ]
    body = {
        "kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": name}, "subsets": subsets,
    }  # fmt: skip
    path = "/api/v1/namespaces/default/endpoints" + ("" if method == "POST" else f"/{name}")
    async with session.request(method, path, json=body) as answer:
        if answer.status not in (200, 201):
            raise RuntimeError(f"endpoints {name}: {await answer.text()}")


async def make_service(session: aiohttp.ClientSession, name: str, protocol: str) -> str:
    """Returns its address."""
    body = {
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80, "protocol": protocol}]},
    }  # fmt: skip
    async with session.post("/api/v1/namespaces/default/services", json=body) as answer:
        made = await answer.json()
    await put_endpoints(session, name, protocol, [], "POST")
    return str(made["spec"]["clusterIP"])


def sample(made: Site, start: float) -> Sample:
    pid = made.agent.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    kinds: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds[os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0]] += 1
        except FileNotFoundError:
            continue  # closed in this moment
    return Sample(time.monotonic() - start, pages * os.sysconf("SC_PAGE_SIZE"), kinds)


async def fill_history(session: aiohttp.ClientSession) -> None:
    """As many changes as are kept for watches that resume: from now on memory has no reason to grow
    with what is changed."""

    async def change(first: int) -> None:
        name = f"filler-{first}"
        await put_endpoints(session, name, "TCP", [1], "POST")
        for number in range(first, HISTORY, 16):
            await put_endpoints(session, name, "TCP", [1 + number % 60_000 + n for n in range(5)])

    await asyncio.gather(*(change(first) for first in range(16)))


async def soak(made: Site, seconds: float) -> Soaked:
    """Runs in the node's namespace."""
    async with aiohttp.ClientSession(API) as session:
        if seconds >= LONG:
            await fill_history(session)
        addresses = [
            await make_service(session, name, protocol)
            for name, protocol in (("web", "TCP"), ("chat", "UDP"))
        ]
        endpoints = Endpoints(made, session)
        await endpoints.begin()
        before = sample(made, 0.0).descriptors
        clients = await asyncio.create_subprocess_exec(
            *made.net.outside.inside(sys.executable, PROGRAMS, "clients", *addresses, str(seconds)),
            stdout=asyncio.subprocess.PIPE, limit=1 << 20,
        )  # fmt: skip
        assert clients.stdout is not None
        start = json.loads(await clients.stdout.readline())["ready"]
        samples: list[Sample] = []
        watching = asyncio.create_task(_watch(made, start, samples))
        hearing = asyncio.create_task(_hear(clients))
        try:
            await endpoints.churn(start + seconds)
            done, failures = await hearing
        finally:
            watching.cancel()
            if clients.returncode is None:
                clients.kill()
            await clients.wait()
        active = await _quiet(made, before, session)
        await endpoints.end()
        after = sample(made, start).descriptors
        log = (made.folder / "agent.log").read_text(errors="replace").splitlines()
        complaints = [line for line in log if "Traceback" in line or "handler failed" in line]
        return Soaked(
            made.mode,
            seconds,
            done,
            failures,
            endpoints.lives,
            samples,
            before,
            after,
            active,
            complaints,
        )


async def _hear(clients: asyncio.subprocess.Process) -> tuple[Counter[str], list[Failure]]:
    assert clients.stdout is not None
    failures = []
    async for line in clients.stdout:
        said = json.loads(line)
        if "done" in said:
            return Counter(said["done"]), failures
        failures.append(Failure(**said))
    raise RuntimeError("the clients ended before their time")


async def _watch(made: Site, start: float, samples: list[Sample]) -> None:
    while True:
        await asyncio.sleep(1.0)
        samples.append(sample(made, start))


async def _quiet(made: Site, before: Counter[str], session: aiohttp.ClientSession) -> float:
    """Until sessions and connections that ended are gone, or half a minute. Returns how many the
    proxy still counts as open."""
    active = 0.0
    for _ in range(60):
        async with session.get(METRICS) as answer:
            active = sum(map(float, ACTIVE.findall(await answer.text())))
        sockets = sample(made, 0.0).descriptors["socket"]
        if not active and sockets <= before["socket"] + SPARE_SOCKETS:
            break
        await asyncio.sleep(0.5)
    return active


def rows() -> Iterator[Row]:
    if not shutil.which("cc"):
        yield Row("soak", "not measured", "needs cc")
        return
    with site(MODE) as made:
        soaked = made.net.node.do(soak(made, SECONDS), timeout=SECONDS + 120)
    yield from table(soaked)


def table(soaked: Soaked) -> Iterator[Row]:
    minutes = soaked.seconds / 60
    deaths = sum(life.died < float("inf") for life in soaked.lives.values())
    done = ", ".join(f"{count:,} {kind}" for kind, count in sorted(soaked.done.items()))
    what = f"soak of {minutes:.1f} minutes, mode {soaked.mode}, exchanges that were right"
    yield Row(what, done)
    failed = Counter(failure.kind for failure in soaked.failures)
    cut = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items()))
    yield Row(
        "soak, endpoints that came and went",
        f"{deaths:,}",
        f"exchanges cut by that: {cut or 'none'}",
    )
    errors = soaked.unexplained
    said = "; ".join(
        f"{error.kind} {error.error} after {error.end - error.start:.3f} s, served by "
        f"{error.server or 'nobody'}, {nearest_death(error, soaked.lives):.2f} s from a death"
        for error in errors[:5]
    )
    yield Row(
        "soak, errors that no death explains",
        f"{len(errors)}" + (f": {said}" if errors else ""),
        "", "0", not errors,
    )  # fmt: skip
    growth = soaked.after - soaked.before
    yield Row(
        "soak, descriptors left over",
        ", ".join(f"{count} {kind}" for kind, count in growth.items()) or "none",
        f"before {soaked.before.total()}, after {soaked.after.total()}; "
        f"{soaked.active:.0f} connections and sessions counted as open",
        "none but spare ones", soaked.clean,
    )  # fmt: skip
    memory = [sample.memory / 1e6 for sample in soaked.samples]
    yield Row(
        "soak, memory of the agent",
        f"{soaked.slope / 1e6:+.2f} MB a minute after the warm-up",
        f"{memory[0]:.0f} MB at first, {memory[-1]:.0f} MB at last, {max(memory):.0f} MB at most",
        f"≤ {STEADY / 1e6:.0f} MB a minute",
        soaked.slope <= STEADY if soaked.seconds >= LONG else None,
    )
    if soaked.complaints:
        yield Row("soak, complaints in the log", soaked.complaints[0], "", "none", False)
