"""Hearing from the kernel that a link, an address, a neighbour or a route changed.

Only whether it concerns us is read (rtnetlink.h): a route of our protocol, or anything about the
interfaces that matter. What is missed because too much happened at once counts as a change.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from k8slite.network.routes import PROTOCOL

_LINK, _NEIGHBOUR, _ADDRESS, _ROUTE = 0x1, 0x4, 0x10, 0x40  # RTMGRP_*
_NEW_ROUTE, _DEL_ROUTE = 24, 25
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_INDEX = struct.Struct("=i")


class Watch:
    """A netlink socket in this network namespace; ``fileno`` is readable when there is news."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _LINK | _NEIGHBOUR | _ADDRESS | _ROUTE))
        self._indexes: set[int] = set()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def mind(self, names: Iterable[str]) -> None:
        """The interfaces that matter from now on."""
        known = {name: index for index, name in socket.if_nameindex()}
        self._indexes = {known[name] for name in names if name in known}

    def disturbed(self) -> bool:
        """Read all news; whether any concerns us."""
        found = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
                continue
            found = self._concerns_us(data) or found

    def _concerns_us(self, data: bytes) -> bool:
        at = 0
        while at + _HEADER.size + 8 <= len(data):
            size, kind, *_ = _HEADER.unpack_from(data, at)
            body = at + _HEADER.size
            if kind in (_NEW_ROUTE, _DEL_ROUTE):
                if data[body + 5] == PROTOCOL:  # rtm_protocol
                    return True
            # ifi_index, ndm_ifindex and ifa_index all lie at the same place.
            elif _INDEX.unpack_from(data, body + 4)[0] in self._indexes:
                return True
            at += max((size + 3) & ~3, _HEADER.size)
        return False
