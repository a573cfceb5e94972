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


def inside(cidr: str, net: str) -> bool:
    return ipaddress.IPv4Network(cidr, strict=False).subnet_of(
        ipaddress.IPv4Network(net, strict=False)
    )
