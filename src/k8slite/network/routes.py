"""Which links, neighbours and routes a node needs to reach the pods of the others. Pure.

- ``vxlan``: one link of kind vxlan on each node. Its address is the network address of the node's
  podCIDR and its MAC is derived from the node's address, so that every node can work out the link
  address of any other from the Node object alone: nothing is learned, nothing is asked.
- ``host-gw``: a route by way of the other node itself; needs all nodes on one link.
- ``none``: somebody else sees to it.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

VXLAN, HOST_GW, NONE = MODES = ("vxlan", "host-gw", "none")

#: The bridge of this node's pods, which Docker makes.
BRIDGE = "k8slite0"
#: The vxlan link of ours, and what it speaks: flannel's network identifier and port.
LINK = "k8slite-vx"
VNI, PORT = 1, 8472
#: The route protocol (rtm_protocol) that marks a route as ours; 0x6b is "k", and free in iproute2.
PROTOCOL = 0x6B
#: Bytes that vxlan puts before a packet: outer IPv4 20, UDP 8, vxlan 8, inner Ethernet 14.
OVERHEAD = 50
#: The largest MTU that links of pods can have.
_LARGEST = 65535
#: A MAC of ours: locally administered, unicast; then the four bytes of the node's address.
_MAC = (0x0E, 0x6B)


class Peer(NamedTuple):
    """A node: its name, its IPv4 address and its podCIDR, as the Node object has them."""

    name: str
    address: str
    cidr: str


class Uplink(NamedTuple):
    """The interface that has the node's own address (``192.168.0.10/24``)."""

    name: str
    address: str
    mtu: int


class Link(NamedTuple):
    """The vxlan link: its own address (a /32), and the node's address it sends from."""

    address: str
    mac: str
    local: str
    mtu: int


class Neighbour(NamedTuple):
    """Whom the vxlan link knows: link address and MAC of a node, and the node's address."""

    address: str
    mac: str
    host: str


class Route(NamedTuple):
    cidr: str
    via: str
    device: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All there should be of ours, and what cannot be (``trouble``, a line each)."""

    link: Link | None = None
    neighbours: tuple[Neighbour, ...] = ()
    routes: tuple[Route, ...] = ()
    trouble: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self.link is None and not self.routes


def pod_mtu(mode: str, uplink_mtu: int) -> int:
    """The MTU of pods, end to end, where nodes are joined by links of ``uplink_mtu`` bytes."""
    return min(uplink_mtu, _LARGEST) - (OVERHEAD if mode == VXLAN else 0)


def mac_of(address: str) -> str:
    """The MAC of the vxlan link of the node at ``address``."""
    return ":".join(f"{byte:02x}" for byte in (*_MAC, *IPv4Address(address).packed))


def plan(own: Peer, others: Iterable[Peer], mode: str, net: str, uplink: Uplink) -> Plan:
    """What ``own`` needs to reach the pods of ``others`` within the pod network ``net``.

    A node without an address or CIDR is not reached yet; one whose address or CIDR cannot be right
    is left out and said. Raises ValueError when ``own`` itself cannot be right: its link would take
    an address that is somebody else's.
    """
    if mode == NONE or not own.cidr:
        return Plan()
    if not IPv4Network(own.cidr).subnet_of(IPv4Network(net)):
        raise ValueError(f"this node's podCIDR {own.cidr} lies outside of {net}")
    accepted = _Accepted(own, net)
    neighbours: list[Neighbour] = []
    routes: list[Route] = []
    trouble: list[str] = []
    for peer in sorted(peer for peer in others if peer.address and peer.cidr):
        wrong = accepted.refusal(peer)
        if mode == HOST_GW and not wrong:
            wrong = _out_of_reach(peer, uplink)
        if wrong:
            trouble.append(f"node {peer.name} is left out of the pod network: {wrong}")
            continue
        accepted.put(peer)
        if mode == HOST_GW:
            routes.append(Route(peer.cidr, peer.address, uplink.name))
            continue
        far_end = _network_address(peer.cidr)
        neighbours.append(Neighbour(far_end, mac_of(peer.address), peer.address))
        routes.append(Route(peer.cidr, far_end, LINK))
    link = None
    if mode == VXLAN and routes:
        mtu = pod_mtu(mode, uplink.mtu)
        link = Link(_network_address(own.cidr), mac_of(own.address), own.address, mtu)
    return Plan(link, tuple(neighbours), tuple(routes), tuple(trouble))


def _is_a_hosts(address: IPv4Address) -> bool:
    """Whether it can be that of another machine."""
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_reserved  # 240.0.0.0/4, with the broadcast
    )


def _network_address(cidr: str) -> str:
    return str(IPv4Network(cidr).network_address)


class _Accepted:
    """The nodes so far, so that each further one is compared with all of them at once."""

    def __init__(self, own: Peer, net: str) -> None:
        self._net = IPv4Network(net)
        self._names: dict[IPv4Address, str] = {}  # address → node
        self._starts: list[int] = []  # sorted; the networks do not overlap
        self._networks: list[tuple[IPv4Network, str]] = []
        self.put(own)

    def put(self, peer: Peer) -> None:
        network = IPv4Network(peer.cidr)
        self._names[IPv4Address(peer.address)] = peer.name
        at = bisect(self._starts, int(network.network_address))
        self._starts.insert(at, int(network.network_address))
        self._networks.insert(at, (network, peer.name))

    def refusal(self, peer: Peer) -> str:
        """Why ``peer`` cannot be as it says; "" when it can."""
        try:
            address = IPv4Address(peer.address)
        except ValueError:
            return f"its address {peer.address!r} is no IPv4 address"
        if not _is_a_hosts(address):
            return f"its address {address} is no host's"
        try:
            cidr = IPv4Network(peer.cidr)
        except ValueError:
            return f"its podCIDR {peer.cidr!r} is no IPv4 network"
        if not cidr.subnet_of(self._net):
            return f"its podCIDR {cidr} lies outside of {self._net}"
        if address in self._net:
            return f"its address {address} lies in the pod network {self._net}"
        if address in self._names:
            return f"its address {address} is that of node {self._names[address]}"
        at = bisect(self._starts, int(cidr.network_address))
        for other, name in self._networks[max(at - 1, 0) : at + 1]:
            if cidr.overlaps(other):
                return f"its podCIDR {cidr} overlaps {other} of node {name}"
        return ""


def _out_of_reach(peer: Peer, uplink: Uplink) -> str:
    link = IPv4Interface(uplink.address).network
    if IPv4Address(peer.address) in link:
        return ""
    return (
        f"{peer.address} is not on the link {uplink.name} ({link}), which host-gw needs; "
        "use --overlay vxlan on all nodes"
    )
