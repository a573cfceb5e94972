"""The configuration of ExaBGP: who we are, the routers, and the routes they are told of. Pure.

Routes stand in the configuration itself. ExaBGP compares when it is told to read it again, and
sends the difference over sessions that stay up; a child that starts anew tells all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address

from k8slite.decide.outside import Peer

#: Seconds of silence after which a router forgets our routes. It takes the smaller of its own and
#: ours, and RFC 4271 allows no less than 3; a keepalive goes out every third of it.
HOLD_SECONDS = 3


def configuration(
    router_id: str,
    number: int,
    peers: Iterable[Peer],
    local: Mapping[str, str],
    addresses: Collection[str],
) -> str:
    """``number``: our AS. ``local``: peer's address → ours on the way there; peers that have none
    are left out. A peer is told of the addresses of its own IP version, with us as next hop."""
    return "# Written by k8slite.\n" + "".join(
        _neighbour(router_id, number, peer, local[peer.address], addresses)
        for peer in peers
        if peer.address in local
    )


def _neighbour(
    router_id: str, number: int, peer: Peer, own: str, addresses: Collection[str]
) -> str:
    version = ip_address(peer.address).version
    told = sorted(
        (found for found in map(ip_address, addresses) if found.version == version), key=int
    )
    routes = "".join(f"        route {a}/{a.max_prefixlen} next-hop self;\n" for a in told)
    return f"""\
neighbor {peer.address} {{
    router-id {router_id};
    local-address {own};
    local-as {number};
    peer-as {peer.number};
    hold-time {HOLD_SECONDS};
    family {{
        ipv{version} unicast;
    }}
    static {{
{routes}    }}
}}
"""
