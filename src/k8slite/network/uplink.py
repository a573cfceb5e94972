"""Which interface has the node's own address, and its MTU: a few ioctls, no netlink library."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from k8slite.network.routes import Uplink

_SIOCGIFCONF, _SIOCGIFNETMASK, _SIOCGIFMTU = 0x8912, 0x891B, 0x8921
_IFREQ = 40  # bytes of struct ifreq; the name's are the first 16
_ROUTES = Path("/proc/thread-self/net/route")
_BY_GATEWAY = 0x2  # RTF_GATEWAY
#: Addresses that one host may have; the answer is cut off there.
_MOST = 4096


class NoUplink(Exception):
    """No interface of this host has the node's address."""


def find_uplink(address: str) -> Uplink:
    """The interface that has ``address``. Raises NoUplink."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, found in _addresses(sock):
            if found != address:
                continue
            mask = _ask(sock, _SIOCGIFNETMASK, name, address)[20:24]
            mtu: int = struct.unpack_from("i", _ask(sock, _SIOCGIFMTU, name, address), 16)[0]
            length = int(IPv4Address(mask)).bit_count()
            return Uplink(name.partition(":")[0], f"{address}/{length}", mtu)
    raise NoUplink(f"no interface has the node's address {address}: give it back, or --node-ip")


def network_at(interface: str) -> IPv4Network | None:
    """The network that the interface's (first) address is in; None when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, found in _addresses(sock):
            if name == interface:
                mask = _ask(sock, _SIOCGIFNETMASK, name, found)[20:24]
                return IPv4Network((found, socket.inet_ntoa(mask)), strict=False)
    return None


def not_for_services(address: str, routes: Path = _ROUTES) -> frozenset[str]:
    """What no host of the LAN can have that this host's own ``address`` is in: the first and the
    last address of it, which are its name and everybody's, and routers. Nothing where there is no
    such LAN."""
    try:
        network = IPv4Network(find_uplink(address).address, strict=False)
        lines = routes.read_text().splitlines()[1:]
    except (NoUplink, OSError):
        return frozenset()
    found = (
        {network.network_address, network.broadcast_address} if network.num_addresses > 2 else set()
    )
    for row in map(str.split, lines):
        # Interface, destination, gateway, flags …; numbers are as in memory.
        gateway = IPv4Address(int(row[2], 16).to_bytes(4, sys.byteorder))
        if int(row[3], 16) & _BY_GATEWAY:
            found.add(gateway)
    return frozenset(map(str, found))


def ipv6_is_on(interface: str) -> bool:
    """Does the kernel speak IPv6 on it?"""
    try:
        text = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").read_text()
    except OSError:
        return False
    return text.strip() == "0"


def _addresses(sock: socket.socket) -> list[tuple[str, str]]:
    """Interface (or label) and address, secondary addresses too."""
    # struct ifconf holds a pointer: the array outlives the call.
    buffer = array.array("B", bytes(_IFREQ * _MOST))
    head = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
    size = struct.unpack("iP", fcntl.ioctl(sock, _SIOCGIFCONF, head))[0]
    data = buffer.tobytes()[:size]
    found = []
    for at in range(0, size, _IFREQ):
        name = data[at : at + 16].partition(b"\0")[0].decode()
        found.append((name, socket.inet_ntoa(data[at + 20 : at + 24])))
    return found


def _ask(sock: socket.socket, request: int, name: str, address: str) -> bytes:
    """An ioctl about an interface, or about that address of it (an interface may have many)."""
    where = struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address))
    asked = name.encode().ljust(16, b"\0") + where
    return fcntl.ioctl(sock, request, asked.ljust(_IFREQ, b"\0"))
