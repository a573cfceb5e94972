"""The data path in the kernel (``--proxy-mode nft``): which ports it takes, and what it is told.

The kernel forwards a packet to an endpoint and never sees a connection as such: it knows of no
endpoint that refuses, of none that warms up, and counts what comes in alone. A port whose endpoints
shall hear of the client by the PROXY protocol keeps its listener, for somebody has to say it; so
does one with an address of a family that none of its endpoints has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from k8slite.api.kinds import NODE
from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide.balancing import Endpoint
from k8slite.netfilter.edge import Edge, NetfilterError
from k8slite.netfilter.joined import JoinedEdge
from k8slite.netfilter.portals import Portal
from k8slite.network.hairpin import Hairpins
from k8slite.roles.proxy.ports import PortalPort
from k8slite.roles.proxy.telling.troubles import EventRecorder

log = structlog.get_logger()

_LISTENED = ("proxy-v1", "proxy-v2")


class KernelPath:
    """``wanted``: the settings ask for it; it is taken when the edge has a table for all."""

    def __init__(
        self,
        settings: Settings,
        edge: Edge,
        informers: Informers,
        recorder: EventRecorder,
        bridge: str,
    ) -> None:
        self.wanted = settings.proxy_mode == "nft"
        self.works = edge.chain_room == 0
        self._node = settings.node_name
        self._joined = edge if isinstance(edge, JoinedEdge) else None
        self._informers = informers
        self._recorder = recorder
        self._bridge = bridge

    def heed(self, disturbed: Callable[[], None]) -> None:
        """Have ``disturbed`` called when others changed nftables, in either mode."""
        if self._joined is not None:
            self._joined.heed(disturbed)

    def takes(self, port: PortalPort, endpoints: Iterable[Endpoint]) -> bool:
        """Whether the kernel serves a port. It leads IPv4 to IPv4 and IPv6 to IPv6 alone."""
        if not self.works or port.client_address in _LISTENED:
            return False
        there = {":" in endpoint.ip for endpoint in endpoints}
        return not there or {":" in address for address in port.addresses} <= there

    def portal(
        self, port: PortalPort, endpoints: tuple[Endpoint, ...], local: tuple[Endpoint, ...]
    ) -> Portal:
        """What is wanted of the kernel for a port that it takes."""
        return Portal(
            port.name,
            port.protocol,
            port.addresses,
            port.port,
            0,
            port.node_port,
            local if port.inside_local else endpoints,
            local if port.outside_local else endpoints,
            port.affinity,
            port.ranges,
            port.guarded,
        )

    async def connections(self) -> Mapping[str, int]:
        """How many connections (UDP: flows) each portal of the kernel's had so far."""
        if self._joined is None:
            return {}
        try:
            return await self._joined.connections()
        except NetfilterError as error:
            log.warning("connections not counted", role="proxy", error=str(error))
            return {}

    async def run(self) -> None:
        """Let pods reach themselves; or say on the node, once it is known, that the kernel cannot
        do what the settings ask."""
        if self.wanted and not self.works:
            trouble = self._joined.table_trouble if self._joined else ""
            said = f"--proxy-mode nft is not possible here, userspace goes on: {trouble}"
            log.warning(said, role="proxy")
            await self._tell(said)
        hairpins = Hairpins(self._bridge) if self.works else None
        try:
            await asyncio.Event().wait()
        finally:
            if hairpins is not None:
                hairpins.close()

    async def _tell(self, said: str) -> None:
        nodes = self._informers.of(NODE)
        await nodes.wait_synced()
        known = asyncio.Event()
        leave = nodes.subscribe(lambda old, new: known.set())
        try:
            while (node := nodes.get(self._node)) is None:
                known.clear()
                await known.wait()
        finally:
            leave()
        self._recorder.event(node, "KernelModeUnavailable", said, "Warning")
