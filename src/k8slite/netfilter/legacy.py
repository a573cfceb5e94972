"""What the kernel says about its legacy tables, asked without any library (ip_tables.h).

A legacy table has no number that grows with every change. What tells one state from another is
what the table consists of: its description (hooks, number of rules, size), and, where that is the
same, the rules themselves without their counters. Both cost two questions to the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from k8slite.netfilter.edge import Drifted, NetfilterError

#: The legacy tables that exist in this network namespace, a name a line. Reading makes none.
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")

_IPT_SO_GET_INFO, _IPT_SO_GET_ENTRIES = 64, 65
_INFO_BYTES = 84  # struct ipt_getinfo: name, hooks, number of entries, size
_COUNTS = struct.Struct("=II")  # its last two fields
_REQUEST_BYTES = 40  # struct ipt_get_entries before the entries: name, size

#: Bytes of a table whose rules are not read at every turn (some 500 rules).
_LARGE = 1 << 18

IP_BYTES = 84  # struct ipt_ip, the head of struct ipt_entry
ENTRY_BYTES = 112  # struct ipt_entry; its last 16 bytes are the counters
_COUNTERS = slice(96, 112)
_NEXT_OFFSET = struct.Struct("=H")
_NEXT_OFFSET_AT = 90


def legacy_table_exists(name: str) -> bool:
    """Whether this network namespace has the legacy table already; asking makes none."""
    try:
        return name in _LEGACY_TABLES.read_text().split()
    except OSError:
        return False


def table_info(libc: ctypes.CDLL, raw: socket.socket, table: str) -> bytes:
    """A legacy table's hooks, number of rules and size, asked over a raw socket. A foreign change
    that keeps all of these is not seen in it. Makes a table that is not there."""
    buffer = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
    size = ctypes.c_uint32(_INFO_BYTES)
    if libc.getsockopt(raw.fileno(), socket.SOL_IP, _IPT_SO_GET_INFO, buffer, ctypes.byref(size)):
        raise NetfilterError(f"cannot read the {table} table: errno {ctypes.get_errno()}")
    return buffer.raw


class State:
    """A legacy table as it is at one moment, to be compared with another moment.

    Reading the rules of a large table takes a while (a few ms for 1,000). So a ``brief`` state of
    one is its description alone: enough right before and after a write, and the next full state
    that it is compared with lends it its rules. Raises NetfilterError, and Drifted when the table
    changes while it is read.
    """

    def __init__(
        self, libc: ctypes.CDLL, raw: socket.socket, table: str, *, brief: bool = False
    ) -> None:
        self.info = table_info(libc, raw, table)
        #: How many entries the table has, and how many bytes they take.
        self.counts: tuple[int, int] = _COUNTS.unpack_from(self.info, _INFO_BYTES - _COUNTS.size)
        self._entries: bytes | None = None
        if not brief or self.counts[1] <= _LARGE:
            self._entries = _entries(libc, raw, table, self.counts[1])
        self._parts: list[slice] | None = None

    def same(self, now: State) -> bool:
        """Whether the table is ``now`` as it was, but for what was counted."""
        if self.info != now.info:
            return False
        if self._entries is None or now._entries is None:
            self._entries = self._entries or now._entries
            return True
        if self._entries == now._entries:
            return True
        if self._parts is None:
            self._parts = _between_counters(self._entries)
        one, other = memoryview(self._entries), memoryview(now._entries)
        return all(one[part] == other[part] for part in self._parts)


def _entries(libc: ctypes.CDLL, raw: socket.socket, table: str, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(_REQUEST_BYTES + size)
    struct.pack_into("=32sI", buffer, 0, table.encode(), size)
    length = ctypes.c_uint32(len(buffer))
    asked = (raw.fileno(), socket.SOL_IP, _IPT_SO_GET_ENTRIES, buffer, ctypes.byref(length))
    if libc.getsockopt(*asked):
        code = ctypes.get_errno()
        if code == errno.EAGAIN:
            raise Drifted(f"the {table} table changes while it is read")
        raise NetfilterError(f"cannot read the {table} table: {os.strerror(code)}")
    return buffer.raw[_REQUEST_BYTES:]


def _between_counters(entries: bytes) -> list[slice]:
    """Everything but the counters."""
    parts, start, at = [], 0, 0
    while at + ENTRY_BYTES <= len(entries):
        parts.append(slice(start, at + _COUNTERS.start))
        start = at + _COUNTERS.stop
        (size,) = _NEXT_OFFSET.unpack_from(entries, at + _NEXT_OFFSET_AT)
        if size < ENTRY_BYTES:
            break
        at += size
    parts.append(slice(start, len(entries)))
    return parts
