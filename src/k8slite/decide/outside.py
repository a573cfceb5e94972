"""What the settings of addresses for the outside must fulfil: pool, way of announcing, BGP peers.

The agent's flags and the installer's file say the same things under different names; ``Named`` is
how the reader of a fault knows a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from k8slite.decide.addresspool import Network, read_range

WAYS = ("arp", "bgp", "none")
#: AS numbers have four octets (RFC 6793); 0 and the last are not for use (RFC 7607, RFC 7300).
LAST_AS = (1 << 32) - 2

#: Name of a field of ``Settings`` → what the reader calls it.
Named = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A router that is told of our addresses."""

    address: str
    number: int  # of its AS


@dataclass(frozen=True, slots=True)
class Outside:
    """The settings, as ``Settings`` has them."""

    address_pool: Sequence[str] = ()
    announce: str = "arp"
    bgp_as: int = 64512
    bgp_peer: Sequence[str] = ()


DEFAULT = Outside()


def read_peer(text: str, own: int) -> Peer:
    """``ADDRESS`` (of our own AS) or ``ADDRESS=AS``. Raises ValueError with what is wrong."""
    address, given, number = text.partition("=")
    try:
        found = ip_address(address)
    except ValueError:
        raise ValueError(f"{text!r}: write a router as 192.168.0.1 or 192.168.0.1=64513") from None
    if found.is_loopback or found.is_multicast or found.is_unspecified:
        raise ValueError(f"{text!r}: no router is at {found}")
    if given and not (number.isdecimal() and 1 <= int(number) <= LAST_AS):
        raise ValueError(f"{text!r}: an AS number is from 1 to {LAST_AS}")
    return Peer(str(found), int(number) if given else own)


def faults(outside: Outside, nets: Mapping[str, Network], named: Named) -> Iterator[str]:
    """What is wrong, each with its setting and the mend. ``nets``: the cluster's own networks by
    the reader's names for them, and nodes' addresses as networks of one."""
    yield from _pool_faults(outside, nets, named)
    if outside.announce not in WAYS:
        yield f"{named('announce')} {outside.announce!r}: {', '.join(WAYS[:-1])} or {WAYS[-1]}"
    if not 1 <= outside.bgp_as <= LAST_AS:
        yield f"{named('bgp_as')} {outside.bgp_as}: an AS number is from 1 to {LAST_AS}"
    yield from _peer_faults(outside, named)


def _pool_faults(outside: Outside, nets: Mapping[str, Network], named: Named) -> Iterator[str]:
    name = named("address_pool")
    for text in outside.address_pool:
        try:
            found = read_range(text)
        except ValueError as error:
            yield f"{name} {error}"
            continue
        for what, net in nets.items():
            if not found.overlaps(net):
                continue
            if net.prefixlen == net.max_prefixlen:
                yield f"{name} {text} holds {what}: leave it out"
            else:
                yield f"{name} {text} overlaps {what} {net}: choose addresses apart"


def _peer_faults(outside: Outside, named: Named) -> Iterator[str]:
    name, way = named("bgp_peer"), named("announce")
    for text in outside.bgp_peer:
        try:
            read_peer(text, outside.bgp_as)
        except ValueError as error:
            yield f"{name} {error}"
    if outside.announce == "bgp" and outside.address_pool and not outside.bgp_peer:
        yield f"{way} bgp: to which routers? give {name}, as 192.168.0.1=64513"
    if outside.announce != "bgp" and outside.bgp_peer:
        yield f"{name} {outside.bgp_peer[0]}: a router is told nothing without {way} bgp"
