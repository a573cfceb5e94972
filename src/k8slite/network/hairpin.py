"""Letting a pod's packets come back to it by the port of the bridge that they left by.

A portal that the kernel serves may lead a pod to itself. Where bridged packets meet the rules, the
bridge forwards such a one itself, and a port gives nothing back to whom it took it from unless it
is in hairpin mode (IFLA_BRPORT_MODE). Docker sets that for a daemon without userland proxy alone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

from k8slite.network.netlink import NetworkError

_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_REQUEST, _DUMP = 1, 0x300
_AF_BRIDGE = 7
_LINKS = 1  # RTMGRP_LINK
_MASTER, _PROTINFO, _BRPORT_MODE = 10, 12, 4
_NESTED = 0x8000


class Hairpins:
    """Sets the mode of every port of ``bridge`` that there is and that comes; made within the loop
    that it works in. A port's mode goes with the port. Raises NetworkError."""

    def __init__(self, bridge: str) -> None:
        self._bridge = bridge
        try:
            self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._link.bind((0, _LINKS))
        except OSError as error:
            raise NetworkError(f"no netlink here: {error.strerror}") from error
        self._link.setblocking(False)
        self._ask()
        asyncio.get_running_loop().add_reader(self._link, self._hear)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._link)
        self._link.close()

    def _ask(self) -> None:
        """For all ports; the answers come as news do."""
        self._link.send(_message(_GETLINK, _REQUEST | _DUMP, 0, b""))

    def _hear(self) -> None:
        while True:
            try:
                data = self._link.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # more than fits: look at all
                self._ask()
                return
            for port in _plain_ports(data, self._bridge):
                mode = struct.pack("=HHB3x", 5, _BRPORT_MODE, 1)
                body = struct.pack("=HH", 4 + len(mode), _PROTINFO | _NESTED) + mode
                # A port that is gone by now needs nothing; the refusal is no news of ours.
                self._link.send(_message(_SETLINK, _REQUEST, port, body))


def _message(kind: int, flags: int, port: int, attributes: bytes) -> bytes:
    """struct nlmsghdr, struct ifinfomsg, attributes."""
    size = 32 + len(attributes)
    return (
        struct.pack("=IHHIIBxHiII", size, kind, flags, 0, 0, _AF_BRIDGE, 0, port, 0, 0) + attributes
    )


def _plain_ports(data: bytes, bridge: str) -> Iterator[int]:
    """The ports of ``bridge`` that are told of and not in hairpin mode."""
    at = 0
    while at + 32 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind == _NEWLINK and data[at + 16] == _AF_BRIDGE:
            (port,) = struct.unpack_from("=i", data, at + 20)
            parts = dict(_attributes(data[at + 32 : at + size]))
            info = dict(_attributes(parts.get(_PROTINFO, b"")))
            if info.get(_BRPORT_MODE) == b"\0" and _name(parts.get(_MASTER, b"")) == bridge:
                yield port
        at += max(16, (size + 3) & ~3)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _name(index: bytes) -> str:
    try:
        return socket.if_indextoname(int(struct.unpack("=I", index)[0]))
    except (OSError, struct.error):
        return ""
