"""What all attempts to connect share: sockets that are ready, and one timer."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from socket import SocketType
from typing import Protocol

from k8slite.decide.balancing import Endpoint
from k8slite.kit.clock import Clock
from k8slite.roles.proxy.descriptors import ceiling

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_NEVER = float("inf")


class Upstreams:
    """What the attempts of all listeners share: a socket ready for the next connection, so that a
    client is only taken out of the kernel's queue when there is a descriptor to serve it with; and
    one timer for all that are under way. ``leads(client, endpoint)``: would the endpoint's answer
    to the client's address come to us?"""

    def __init__(self, clock: Clock, leads: Callable[[str, Endpoint], bool]) -> None:
        self.leads = leads
        self._ceiling = ceiling()
        self.deadlines = Deadlines(clock)
        self._ready: SocketType | None = None

    def take(self) -> SocketType:
        """Raises OSError when there are no descriptors left for clients."""
        ready, self._ready = self._ready, None
        if ready is None:
            ready = _upstream_socket()
            if ready.fileno() >= self._ceiling:
                ready.close()
                raise OSError(errno.EMFILE, "the last descriptors are not for clients")
        return ready

    def give(self, unused: SocketType) -> None:
        self.close()
        self._ready = unused

    def swap_for_ipv6(self, unused: SocketType) -> SocketType:
        """Raises OSError, and leaves ``unused`` to the caller, when there is none to be had."""
        swapped = _upstream_socket(socket.AF_INET6)
        self.give(unused)
        return swapped

    def close(self) -> None:
        if self._ready is not None:
            self._ready.close()
            self._ready = None

    def shut(self) -> None:
        self.close()
        self.deadlines.shut()


class Patient(Protocol):
    """What has only so much time."""

    def late(self) -> None:
        """The time is over."""


class Deadlines:
    """When attempts are given up: one timer for all of them, armed for the first to end.

    Nearly every attempt ends long before its time, so beginning and ending must cost next to
    nothing: a dictionary for each length of time keeps its attempts in the order of their ends.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[float, dict[Patient, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER

    def begin(self, attempt: Patient, now: float, seconds: float) -> None:
        """Call ``attempt.late`` in so many seconds."""
        end = now + seconds
        queue = self._waiting.get(seconds)
        if queue is None:
            queue = self._waiting[seconds] = {}
        queue[attempt] = end
        if end < self._due:
            self._arm(now, end)

    def end(self, attempt: Patient, seconds: float) -> None:
        """Do not; unknown attempts are no error."""
        self._waiting[seconds].pop(attempt, None)

    def shut(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, now: float, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer, self._due = loop.call_later(due - now, self._sweep), due

    def _sweep(self) -> None:
        self._timer, self._due = None, _NEVER
        now = self._clock.monotonic()
        late = []
        for queue in self._waiting.values():
            for attempt, end in queue.items():
                if end > now:
                    break
                late.append(attempt)
        for attempt in late:
            attempt.late()
        firsts = [next(iter(queue.values())) for queue in self._waiting.values() if queue]
        if firsts and min(firsts) < self._due:
            self._arm(now, min(firsts))


def _upstream_socket(family: int = socket.AF_INET) -> SocketType:
    sock = SocketType(family, _STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock
