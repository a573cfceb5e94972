"""Changing one of 5,000 services in the kernel, beside ``iptables-restore`` of all of them."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.netfilter.sites import Site

from bench.table import Row
from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.netfilter.choice import choose_edge
from k8slite.netfilter.edge import Edge, NetfilterError
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.portals import DesiredRules, Portal
from k8slite.netfilter.restore import NftEdge
from k8slite.netfilter.rules import CHAINS

SERVICES, CHANGES = 5_000, 15
GOAL_MS = 5.0


def portal(number: int, *, kernel: bool = False, changed: bool = False) -> Portal:
    """A service with ten endpoints, or, before it is ``changed``, nine; in userspace what changes
    is its listener."""
    address = f"10.{number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
    name = f"default/service-{number}:"
    if not kernel:
        return Portal(name, "tcp", (address,), 80, (50_000 if changed else 20_000) + number)
    ends = tuple(Endpoint(f"172.16.{number // 250}.{n}", 8000) for n in range(1, 10 + changed))
    return Portal(name, "tcp", (address,), 80, inside=ends, outside=ends)


async def room(edge: Edge) -> int | None:
    return edge.chain_room


async def change_one(edge: Edge, desired: DesiredRules, *, kernel: bool) -> list[float]:
    """Milliseconds of each change, from the desired set to the kernel."""
    await edge.sync(desired.all())
    await edge.sync(desired.all())  # taking away what the peer wrote was a lot of news
    desired.take()
    took = []
    for turn in range(CHANGES):
        start = time.perf_counter()
        desired.put(portal(turn * 331 % SERVICES, kernel=kernel, changed=True))
        await edge.change(desired.take())
        took.append(1e3 * (time.perf_counter() - start))
    return took


def restore_all(site: Site, tool: str, desired: DesiredRules) -> float:
    """Milliseconds that the tool takes to load the same rules whole."""
    text = "*nat\n" + "".join(f":{chain} - [0:0]\n" for chain in CHAINS)
    text += (
        "".join(f"{rule}\n" for rules in desired.all().chains.values() for rule in rules)
        + "COMMIT\n"
    )
    command = site.inside(f"{tool}-restore", "--noflush")
    took = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)
        took.append(1e3 * (time.perf_counter() - start))
    return statistics.median(took)


def rows() -> Iterator[Row]:
    around = {"pod_network": "172.16.0.0/16", "bridge": "k8slite0"}
    edges: tuple[tuple[str, str, Edge], ...] = (
        ("iptables-legacy", "mode userspace", choose_edge(Clock(), **around)),
        ("iptables-nft", "mode nft", choose_edge(Clock(), kernel=True, **around)),
        ("iptables-legacy", "all in chains, iptables-legacy", LegacyEdge(Clock())),
        ("iptables-nft", "all in chains, iptables-nft", NftEdge()),
    )
    for tool, what, edge in edges:
        chains = DesiredRules("172.16.67.69")
        for number in range(SERVICES):
            chains.put(portal(number))
        with Site("rules") as site, suppress(NetfilterError):
            site.do(edge.probe())
            desired = DesiredRules("172.16.67.69", site.do(room(edge)))
            for number in range(SERVICES):
                desired.put(portal(number, kernel=what == "mode nft"))
            peer = restore_all(site, tool, chains)
            ours = statistics.median(site.do(change_one(edge, desired, kernel=what == "mode nft")))
            site.do(edge.close())
            yield Row(
                f"portal rules, change one of {SERVICES:,} services, {what}",
                f"{ours:.1f} ms",
                f"{tool}-restore of all: {peer:.0f} ms",
                f"≤ {GOAL_MS:.0f} ms",
                ours <= GOAL_MS,
            )
