"""Changing one of 5,000 services in the kernel, beside ``iptables-restore`` of all of them."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.netfilter.sites import Site

from bench.table import Row
from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import Edge, NetfilterError
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.portals import DesiredRules, Portal
from k8slite.netfilter.restore import NftEdge
from k8slite.netfilter.rules import CHAINS

SERVICES, CHANGES = 5_000, 15
GOAL_MS = 5.0


def portal(number: int, listener: int) -> Portal:
    address = f"10.{number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
    return Portal(f"default/service-{number}:", "tcp", (address,), 80, listener)


async def change_one(edge: Edge, desired: DesiredRules) -> list[float]:
    """Milliseconds of each change, from the desired set to the kernel."""
    await edge.sync(desired.all())
    desired.take()
    took = []
    for turn in range(CHANGES):
        start = time.perf_counter()
        desired.put(portal(turn * 331 % SERVICES, 50_000 + turn))
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
    edges: tuple[tuple[str, Edge], ...] = (
        ("iptables-legacy", LegacyEdge(Clock())),
        ("iptables-nft", NftEdge()),
        ("iptables-nft", TableEdge("172.16.0.0/16", "k8slite0")),
    )
    for tool, edge in edges:
        desired = DesiredRules("172.16.67.69", edge.chain_room)
        for number in range(SERVICES):
            desired.put(portal(number, 20_000 + number))
        chains = DesiredRules("172.16.67.69")
        for number in range(SERVICES):
            chains.put(portal(number, 20_000 + number))
        with Site("rules") as site, suppress(NetfilterError):
            site.do(edge.probe())
            peer = restore_all(site, tool, chains)
            ours = statistics.median(site.do(change_one(edge, desired)))
            site.do(edge.close())
            yield Row(
                f"portal rules, change one of {SERVICES:,} services, {edge.name}",
                f"{ours:.1f} ms",
                f"{tool}-restore of all: {peer:.0f} ms",
                f"≤ {GOAL_MS:.0f} ms",
                ours <= GOAL_MS,
            )
