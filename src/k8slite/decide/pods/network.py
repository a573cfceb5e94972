"""Which piece of the cluster's network is a node's own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def first_free(net: str, taken: Iterable[str], prefix: int = 24) -> str:
    """The first ``/prefix`` of ``net`` that overlaps none of ``taken``.

    Raises ValueError when none is left.
    """
    used = [ipaddress.IPv4Network(cidr, strict=False) for cidr in taken if ":" not in cidr]
    whole = ipaddress.IPv4Network(net, strict=False)
    pieces = [whole] if whole.prefixlen >= prefix else whole.subnets(new_prefix=prefix)
    for piece in pieces:
        if not any(piece.overlaps(other) for other in used):
            return str(piece)
    raise ValueError(f"no free /{prefix} is left in {net}: use a wider network for the pods")


def proposal(net: str, have: str, known: str, others: Iterable[str], host: Iterable[str]) -> str:
    """The CIDR that a node should ask the cluster for.

    ``have`` is that of the network that stands on the node ("": none), ``known`` what the cluster
    has for it ("": nothing), ``others`` are other nodes', ``host`` what else is routed on the host.
    What the cluster knows comes first, then what stands, then the first free piece. Raises
    ValueError when none is left.
    """
    others, host = list(others), list(host)
    for cidr in (known, have):
        if not cidr or not inside(cidr, net) or _overlaps(cidr, others):
            continue
        if cidr == have or not _overlaps(cidr, host):
            return cidr
    return first_free(net, [*others, *host])


def _overlaps(cidr: str, others: Iterable[str]) -> bool:
    mine = ipaddress.IPv4Network(cidr, strict=False)
    return any(
        mine.overlaps(ipaddress.IPv4Network(other, strict=False))
        for other in others
        if ":" not in other
    )


def inside(cidr: str, net: str) -> bool:
    return ":" not in cidr and ipaddress.IPv4Network(cidr, strict=False).subnet_of(
        ipaddress.IPv4Network(net, strict=False)
    )
