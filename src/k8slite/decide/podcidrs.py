"""Which node holds which piece of the pod network, and whether another piece overlaps one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from k8slite.api.kinds.node.types import Node

Network = IPv4Network | IPv6Network


class Holding(NamedTuple):
    cidr: str
    node: str


def held(node: Node) -> frozenset[str]:
    """The CIDRs that ``node`` has, in their usual spelling."""
    cidrs = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    return frozenset(str(ip_network(cidr)) for cidr in cidrs)


class Holdings:
    """CIDR → node, for many nodes: to find an overlap costs a look for each prefix length in use,
    and a scan only when there are pieces smaller than the one that is asked for."""

    def __init__(self) -> None:
        self._owners: dict[Network, Counter[str]] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()  # (IP version, prefix length)

    def put(self, node: Node) -> None:
        for cidr in held(node):
            network = ip_network(cidr)
            if network not in self._owners:
                self._lengths[network.version, network.prefixlen] += 1
            self._owners.setdefault(network, Counter())[node.metadata.name] += 1

    def remove(self, node: Node) -> None:
        for cidr in held(node):
            network = ip_network(cidr)
            owners = self._owners.get(network)
            if owners is None:
                continue
            owners[node.metadata.name] -= 1
            owners += Counter()  # without those that are at zero
            if not owners:
                del self._owners[network]
                self._lengths[network.version, network.prefixlen] -= 1

    def overlapping(self, cidr: str, node: str) -> Holding | None:
        """A piece of another node than ``node`` that overlaps ``cidr``; None when there is none."""
        wanted = ip_network(cidr)
        for found in self._candidates(wanted):
            for owner in self._owners.get(found, ()):
                if owner != node:
                    return Holding(str(found), owner)
        return None

    def _candidates(self, wanted: Network) -> Iterator[Network]:
        smaller = False
        for (version, length), count in self._lengths.items():
            if version != wanted.version or not count:
                continue
            if length <= wanted.prefixlen:
                yield wanted.supernet(new_prefix=length)
            else:
                smaller = True
        if smaller:
            yield from (other for other in self._owners if _lies_in(other, wanted))


def _lies_in(smaller: Network, wider: Network) -> bool:
    if smaller.version != wider.version or smaller.prefixlen <= wider.prefixlen:
        return False
    return smaller.supernet(new_prefix=wider.prefixlen) == wider
