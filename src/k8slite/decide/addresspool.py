"""The pool of addresses that services of type LoadBalancer get: ranges, of IPv4 and of IPv6."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_EXAMPLE = "write it as 192.168.0.240/28 or 192.168.0.240-192.168.0.250"


class Range(NamedTuple):
    """From the first address to the last, both of one version."""

    first: Address
    last: Address
    text: str

    def __contains__(self, address: object) -> bool:
        return (
            isinstance(address, IPv4Address | IPv6Address)
            and address.version == self.first.version
            and int(self.first) <= int(address) <= int(self.last)
        )

    def overlaps(self, network: Network) -> bool:
        if network.version != self.first.version:
            return False
        return int(self.first) <= int(network.broadcast_address) and int(
            network.network_address
        ) <= int(self.last)


def read_range(text: str) -> Range:
    """A CIDR (all addresses of it, the first and the last too) or FROM-TO. Raises ValueError with
    what is wrong."""
    if "-" in text:
        first, _, last = text.partition("-")
        found = Range(_address(first, text), _address(last, text), text)
        if found.first.version != found.last.version:
            raise ValueError(f"{text!r} begins and ends in different families: {_EXAMPLE}")
        if int(found.first) > int(found.last):
            raise ValueError(f"{text!r} ends before it begins: {last}-{first}")
    else:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}; {_EXAMPLE}") from None
        found = Range(network.network_address, network.broadcast_address, text)
    for address in (found.first, found.last):
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            raise ValueError(f"{text!r}: {address} is nothing to give to a service; {_EXAMPLE}")
    return found


def _address(word: str, text: str) -> Address:
    try:
        return ip_address(word.strip())
    except ValueError:
        raise ValueError(f"{text!r}: {word.strip()!r} is no address; {_EXAMPLE}") from None


class Pool:
    """All ranges of a pool; false when there are none."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.ranges = tuple(ranges)
        #: The IP versions that it has addresses of, 4 and 6.
        self.versions = frozenset(found.first.version for found in self.ranges)

    @classmethod
    def read(cls, texts: Iterable[str]) -> Pool:
        """Raises ValueError as ``read_range`` does."""
        return cls(read_range(text) for text in texts)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __str__(self) -> str:
        return ", ".join(found.text for found in self.ranges)

    def __contains__(self, text: object) -> bool:
        """Is this address (as text) one of the pool's?"""
        try:
            address = ip_address(str(text))
        except ValueError:
            return False
        return any(address in found for found in self.ranges)

    def addresses(self, version: int) -> Iterator[str]:
        """In the order of the ranges, from the lowest of each."""
        for found in self.ranges:
            if found.first.version == version:
                make = type(found.first)
                for number in range(int(found.first), int(found.last) + 1):
                    yield str(make(number))
