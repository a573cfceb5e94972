"""A bad cable: carries frames between two interfaces late, seldom or slowly.

    python -m tests.lab.slow_cable INTERFACE INTERFACE DELAY LOSS RATE

The kernel's netem would do, where a kernel has it; this needs none. Frames travel with the header
of virtio-net, so that what the senders left to the hardware (checksums, cutting of large
segments) stays left to it. Losses are drawn from a fixed seed.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import sys
import time

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_LARGEST = 10 + 65536 + 18


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    end.bind((interface, _ETH_P_ALL))
    return end


class Direction:
    """One way of the cable: frames on their way, in the order of their arrival."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self._line_free = 0.0  # when the last frame has left the sender

    def due(self, now: float, size: int, delay: float, rate: float) -> float:
        self._line_free = max(self._line_free, now) + (size / rate if rate else 0.0)
        return self._line_free + delay


def carry(one: str, other: str, delay: float, loss: float, rate: float) -> None:
    """Until killed."""
    ends = _open(one), _open(other)
    ways = {ends[0]: Direction(ends[0], ends[1]), ends[1]: Direction(ends[1], ends[0])}
    luck = random.Random(1)
    flying: list[tuple[float, int, socket.socket, bytes]] = []
    count = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, flying[0][0] - time.monotonic()) if flying else None
        readable, _, _ = select.select(ends, (), (), wait)
        now = time.monotonic()
        for end in readable:
            try:
                frame = end.recv(_LARGEST)
            except (BlockingIOError, OSError):  # nothing after all; or the interface is down
                continue
            if luck.random() >= loss:
                way = ways[end]
                count += 1
                heapq.heappush(
                    flying, (way.due(now, len(frame), delay, rate), count, way.sink, frame)
                )
        while flying and flying[0][0] <= now:
            _, _, sink, frame = heapq.heappop(flying)
            try:
                sink.send(frame)
            except OSError:  # the other end is down, or full: a frame lost
                continue


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], *(float(word) for word in sys.argv[3:6]))
