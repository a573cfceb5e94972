"""The header that tells a server who its client is: the PROXY protocol of HAProxy. Pure.

The rules are those of doc/proxy-protocol.txt in HAProxy's source. The header is the first that the
server hears on a connection. It tells the client's address and port, then those that the client
asked for. Version 1 is a line of text, version 2 is binary; a server must be told to expect either
(nginx: ``listen 80 proxy_protocol``).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

#: Begins every header of version 2.
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

_PROXIED = 0x21  # version 2, command PROXY
_TCP4, _TCP6 = 0x11, 0x21  # AF_INET and AF_INET6, each with STREAM


class Side(NamedTuple):
    """One end of a connection: an IPv4 or IPv6 address as text, and a port."""

    address: str
    port: int


def version_1(client: Side, target: Side) -> bytes:
    """The line of text. Both addresses are of one family; raises ValueError when not."""
    source, destination = _parsed(client.address, target.address)
    line = f"PROXY TCP{source.version} {source} {destination} {client.port} {target.port}\r\n"
    return line.encode()


def version_2(client: Side, target: Side) -> bytes:
    """The binary form. Both addresses are of one family; raises ValueError when not."""
    source, destination = _parsed(client.address, target.address)
    addresses = source.packed + destination.packed
    ports = struct.pack("!HH", client.port, target.port)
    family = _TCP4 if source.version == 4 else _TCP6
    head = struct.pack("!BBH", _PROXIED, family, len(addresses) + len(ports))
    return SIGNATURE + head + addresses + ports


#: By the value of the annotation k8slite.io/client-address.
HEADERS = {"proxy-v1": version_1, "proxy-v2": version_2}


def _parsed(client: str, target: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    source, destination = (
        ipaddress.ip_address(text.partition("%")[0]) for text in (client, target)
    )
    if source.version != destination.version:
        raise ValueError(f"a client at {client} cannot have asked for {target}")
    return source, destination
