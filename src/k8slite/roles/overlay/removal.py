"""Leaving no trace of the pod network between hosts."""

from __future__ import annotations

from collections.abc import Sequence

from k8slite.config import Settings
from k8slite.netfilter.edge import Unsupported
from k8slite.netfilter.nft.layout import OURS
from k8slite.network import firewall
from k8slite.network.edge import NetworkEdge
from k8slite.network.routes import BRIDGE
from k8slite.network.tables import Tables
from k8slite.network.traces import Traces


def chains(
    net: str, masters: Sequence[str] = (), port: int = 0, *, by_kernel: bool = False
) -> tuple[firewall.Chain, ...]:
    """The chains that a node with pods in ``net`` has; by way of it nobody gets to ``port`` of
    ``masters``. ``by_kernel``: the kernel serves portals."""
    mark = OURS if by_kernel else 0
    return firewall.forward(net, masters, port, mark), firewall.masquerade(net, BRIDGE)


async def remove(settings: Settings) -> list[str]:
    """Take away links, routes and chains of ours and put forwarding back; says what went.

    Raises NetworkError, NetfilterError.
    """
    removed = []
    edge, tables = NetworkEdge(), Tables()
    try:
        for what in await edge.remove():
            removed.append(what.removesuffix(" removed"))
        gone = await tables.remove(chains(settings.flannel_net))
        if gone:
            removed.append(f"chains {' and '.join(gone)}")
    except Unsupported:
        pass  # no tools, no chains
    finally:
        await edge.close()
        await tables.close()
    traces = Traces(settings.data_dir)
    if traces.put_back():
        removed.append("forwarding between interfaces")
    traces.forget()
    return removed
