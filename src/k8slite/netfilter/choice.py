"""Which edge writes the portal rules on this host: found out by trying, once.

python-iptables on the legacy tables comes first: it needs no program on the host, and it is the
edge that the article's chains were built with. Where the kernel has no legacy tables (distributions
begin to leave them out), iptables-nft takes over; its listing is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from k8slite.kit.clock import Clock
from k8slite.netfilter.edge import Edge, NetfilterError, Unsupported
from k8slite.netfilter.iptables import LegacyEdge
from k8slite.netfilter.joined import JoinedEdge
from k8slite.netfilter.nft.edge import TableEdge
from k8slite.netfilter.portals import Change, Desired
from k8slite.netfilter.restore import NftEdge

log = structlog.get_logger()


class ChosenEdge:
    """An ``Edge`` that is the first of several that works; it keeps trying while none does."""

    chain_room = None

    def __init__(self, candidates: Sequence[Edge]) -> None:
        self._candidates = candidates
        self._chosen: Edge | None = None

    @property
    def name(self) -> str:
        return self._chosen.name if self._chosen else "undecided"

    async def probe(self) -> None:
        await self._edge()

    async def sync(self, desired: Desired) -> Change:
        return await (await self._edge()).sync(desired)

    async def change(self, change: Change) -> None:
        await (await self._edge()).change(change)

    async def intact(self) -> bool:
        return await (await self._edge()).intact()

    async def remove(self) -> list[str]:
        """Remove our rules wherever an earlier run may have put them."""
        left = []
        for edge in self._candidates:
            try:
                left += await edge.remove()
            except Unsupported:
                continue
        return left

    async def close(self) -> None:
        for edge in self._candidates:
            await edge.close()

    async def _edge(self) -> Edge:
        if self._chosen is not None:
            return self._chosen
        refusals = []
        for edge in self._candidates:
            try:
                await edge.probe()
            except NetfilterError as error:
                refusals.append(error)
            else:
                log.info("netfilter edge chosen", role="proxy", edge=edge.name)
                self._chosen = edge
                return edge
        told = next((e for e in refusals if not isinstance(e, Unsupported)), None)
        raise told or Unsupported("; ".join(dict.fromkeys(map(str, refusals))))


#: So many claims stand in the article's chains where there is a table for the others: a chain is
#: walked rule by rule, and a legacy table is written whole.
CHAIN_ROOM = 256


def choose_edge(
    clock: Clock, *, kernel: bool = False, pod_network: str = "", bridge: str = ""
) -> JoinedEdge:
    """The edge for this host: legacy tables when they work, else iptables-nft; and a table of our
    own in nftables for what goes beyond, or, with ``kernel``, for all. ``pod_network`` and
    ``bridge`` are that table's ``Surroundings``."""
    chains = ChosenEdge((LegacyEdge(clock), NftEdge()))
    return JoinedEdge(chains, TableEdge(pod_network, bridge), 0 if kernel else CHAIN_ROOM)
