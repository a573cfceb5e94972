"""May this machine join as that node, and which certificate does it get?"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from k8slite.api.kinds.node.types import Node, NodeAddress, NodeSpec, NodeStatus
from k8slite.api.meta import ObjectMeta
from k8slite.api.validation import dns_subdomain

#: A node's certificate bears this before its name, and its group.
USER_PREFIX = "system:node:"
GROUP = "system:nodes"

#: A common name has room for 64 characters.
LONGEST_NAME = 64 - len(USER_PREFIX)
MOST_ADDRESSES = 16

#: What a node's name must not be: it would speak for the API server, or for everybody's own host.
RESERVED = frozenset(("kubernetes", "localhost"))

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants to join: the node's name, its addresses (the first is its own), its machine."""

    name: str
    addresses: tuple[str, ...]
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node's certificate says."""

    common_name: str
    organizations: tuple[str, ...]
    names: tuple[str, ...]
    serial: str


def identity(wish: Wish, uid: str) -> Identity:
    """``uid`` is the Node object's: with the object goes the certificate."""
    names = tuple(dict.fromkeys((*wish.addresses, wish.name)))
    return Identity(USER_PREFIX + wish.name, (GROUP,), names, uid)


def node_name(user: str, groups: Iterable[str]) -> str:
    """The node that a user is; "" for one that is none."""
    if GROUP in groups and user.startswith(USER_PREFIX):
        return user.removeprefix(USER_PREFIX)
    return ""


def malformed(wish: Wish, portals: Network) -> str:
    """What is wrong with a wish in itself, in one line; "" when nothing is. ``portals`` holds the
    portal IPs."""
    name = wish.name
    if wrong := dns_subdomain(name):
        return f"node name {name[:80]!r} {wrong}"
    if len(name) > LONGEST_NAME:
        return f"node name {name[:80]!r} is longer than {LONGEST_NAME} characters"
    if name in RESERVED or name.startswith("kubernetes."):
        return f"node name {name!r} is the API server's own: choose another (--node-name)"
    if not 0 < len(wish.addresses) <= MOST_ADDRESSES:
        return (
            f"node {name} says {len(wish.addresses)} addresses: 1 to {MOST_ADDRESSES} are allowed"
        )
    for text in wish.addresses:
        if wrong := _bad_address(text, portals):
            return f"node {name} cannot have the address {text[:50]!r}: {wrong}"
    if _is_address(name) and name not in wish.addresses:
        return f"node {name} is named by an address that is not among its own"
    return ""


def _bad_address(text: str, portals: Network) -> str:
    if not _is_address(text):
        return "it is none"
    address = ipaddress.ip_address(text)
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved:
        return "nobody else can reach it"
    if address in portals:
        return f"it lies among the portal IPs, {portals}"
    return ""


def refused(
    wish: Wish,
    node: Node | None,
    others: Iterable[Node],
    masters: Collection[str],
    *,
    alive: bool,
    peer: str,
    beats: bool = False,
) -> str:
    """Why ``wish`` is not granted, in one line; "" when it is.

    ``node`` is the Node of that name, if there is one, and ``alive`` whether it gave a sign of life
    lately; ``others`` are all Nodes, ``masters`` the addresses of the API servers; ``peer`` is
    where the wish came from. ``beats``: somebody else gives signs of life as that node just now.
    """
    own = set(wish.addresses)
    for other in others:
        theirs = own & addresses(other)
        if theirs and other.metadata.name != wish.name:
            return _not_yours(wish, theirs, f"node {other.metadata.name}'s")
    # Its certificate would let it pass for a master: only who speaks from there may have it.
    foreign = (own & set(masters)) - {peer}
    if foreign and not _is_loopback(peer):
        return _not_yours(wish, foreign, "a master's")
    if node is None:
        return ""
    if node.metadata.deletion_timestamp is not None:
        return f"node {wish.name} is being deleted: wait until it is gone"
    known = addresses(node)
    if alive and known and not known & own:
        return (
            f"node {wish.name} is alive at {', '.join(sorted(known))}: give this machine another "
            "name (--node-name), or delete that node first"
        )
    if beats and known and peer not in known and not _is_loopback(peer):
        return (
            f"node {wish.name} is alive at {', '.join(sorted(known))}, and this wish comes from "
            f"{peer}: give this machine another name (--node-name), or stop that node first"
        )
    return ""


def _not_yours(wish: Wish, found: Iterable[str], whose: str) -> str:
    return f"node {wish.name} cannot have the address {min(found)}: it is {whose}"


def newborn(wish: Wish) -> Node:
    """The Node object of who joins for the first time; its kubelet will say more."""
    labels = {"kubernetes.io/hostname": wish.name, "kubernetes.io/os": "linux"}
    if wish.architecture:
        labels["kubernetes.io/arch"] = wish.architecture
    places = (
        NodeAddress(type="InternalIP", address=wish.addresses[0]),
        NodeAddress(type="Hostname", address=wish.name),
    )
    return Node(
        metadata=ObjectMeta(name=wish.name, labels=labels),
        spec=NodeSpec(external_id=wish.name),
        status=NodeStatus(addresses=places),
    )


def addresses(node: Node) -> set[str]:
    """The IPs of a node."""
    return {place.address for place in node.status.addresses if _is_address(place.address)}


def _is_address(text: str) -> bool:
    """An IP in its usual spelling."""
    try:
        return str(ipaddress.ip_address(text)) == text
    except ValueError:
        return False


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback
