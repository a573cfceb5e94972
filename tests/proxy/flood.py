"""Packets of invented senders, from a namespace that the test made: run in there as a process.

    python -m tests.proxy.flood udp ADDRESS PORT COUNT

The senders are of 10.0.0.0/8, each another. Ends after COUNT packets, and says how many went out.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

_MOST = 1_000_000


def datagram(source: int, target: bytes, port: int) -> bytes:
    """An IPv4 header and a UDP datagram of one byte. The kernel fills in length and checksum of the
    header; UDP may go without one."""
    size = 20 + 8 + 1
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, socket.IPPROTO_UDP, 0)
    udp = struct.pack("!HHHH", 1_024 + source % 60_000, port, 9, 0)
    return head + struct.pack("!I", source) + target + udp + b"?"


def flood(address: str, port: int, count: int) -> int:
    target = ipaddress.IPv4Address(address).packed
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(count):
            # A step that visits addresses far from each other, and none twice.
            source = (10 << 24) + number * 7_919 % (1 << 24)
            try:
                raw.sendto(datagram(source, target, port), (address, 0))
                sent += 1
            except OSError:
                pass  # the queue is full: a flood has no patience
    return sent


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] != "udp":
        sys.exit(__doc__)
    print(flood(sys.argv[2], int(sys.argv[3]), min(int(sys.argv[4]), _MOST)))
