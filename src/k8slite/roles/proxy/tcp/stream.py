"""One TCP connection through the proxy: two sockets and a flow of bytes each way.

Bulk data never enters Python: it goes by splice(2) from socket to pipe to socket. Short messages
are cheaper by one read and one write, without a pipe; a flow begins that way and changes over when
a read fills its buffer. What a message costs beside these two calls is one call of ``on_event``.

What TCP promises is kept: a side that stops sending (FIN) is passed on as such while the other
goes on (half-close); a reset is passed on as a reset; a reader who is slow stops the reading on
the other side and nothing piles up here beyond one buffer or one pipe.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from socket import SocketType

from k8slite.roles.proxy.reactor import EDGES, READS, Reactor
from k8slite.roles.proxy.tcp.pipes import PIPE_BYTES, Pipe, Pipes
from k8slite.roles.proxy.telling.counters import EndpointCounters

#: A message up to this size is copied; more is spliced.
COPY_BYTES = 16_384

#: What one flow moves before others have their turn.
TURN_BYTES = 1_048_576

#: What goes through a pipe at once. More at once is cheaper as long as the sink keeps up; but it
#: is also what lies here when the sink comes to a stand.
_FIRST_BYTES = 131_072

SPARE_PIPES = 64
#: A peer that is silent for so many seconds is asked whether it is still there, again after so
#: many more, and taken for gone when it did not answer so many times.
KEEPALIVE = (60, 15, 5)

_NOW = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
_ENDING = select.EPOLLRDHUP | select.EPOLLHUP
_WRITABLE = select.EPOLLOUT
_PLAIN = select.EPOLLIN | select.EPOLLOUT  # no end, no trouble
_RESET = struct.pack("ii", 1, 0)

_read, _write, _splice = os.read, os.write, os.splice


def keep_watch(sock: SocketType) -> None:
    """Have the kernel find out that the peer is gone without a word (its host went down, a
    firewall forgot the connection): it breaks the connection then. Raises OSError."""
    idle, interval, count = KEEPALIVE
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)


def reset(sock: SocketType) -> None:
    """Make the coming ``close`` say RST instead of FIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # the socket is past caring


class Flow:
    """One direction of a stream: bytes from ``source`` to ``sink``, both descriptors.

    ``easy`` says that there is nothing to mind but the next message: the flow copies, neither
    direction is blocked, and the source has not ended.
    """

    # What most flows never change stands in the class, so that a new one is made at less cost.
    easy = True
    pending = b""
    bulky = False  # goes by pipe
    pipe: Pipe | None = None
    in_pipe = 0
    gulp = _FIRST_BYTES  # goes through the pipe at once
    blocked = False  # the sink takes no more for now
    ended = False  # the source said all it had to say, and the sink got it
    queued = False  # a turn is coming
    back: Flow  # the other direction

    def __init__(self, stream: Stream, source: int, sink: int, upward: bool) -> None:
        self.stream = stream
        self.source = source
        self.sink = sink
        self.upward = upward  # from the client to the endpoint
        self.hears_room = upward  # the sink's descriptor reports when it takes more again
        self.counters = stream.counters

    def on_event(self, event: int) -> None:
        """What epoll says of the source."""
        if event | _PLAIN != _PLAIN or not self.easy:
            self._attend(event)
            return
        try:
            data = _read(self.source, COPY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.stream.abort(self)
            return
        try:
            count = _write(self.sink, data)
        except BlockingIOError:
            count = 0
        except OSError:
            self.stream.abort()
            return
        if self.upward:
            self.counters.received += count
        else:
            self.counters.sent += count
        if not (count == len(data) and 0 < count < COPY_BYTES):
            self._more(data, count)

    def went(self, words: bytes, count: int) -> None:
        """So much of ``words``, which were the first, went to the sink before the flow was made."""
        self._count(count)
        if not (count == len(words) < COPY_BYTES):
            self._more(words, count)

    def pump(self, *, ending: bool) -> None:
        """Move what can be moved now. ``ending``: the source may have announced its end, so that
        a short read is not the last."""
        if self.ended:
            return
        self.blocked = False
        try:
            if self.bulky:
                self._queue()
            elif not self.pending or self._give(self.pending):
                self._copy(ending)
        except OSError:
            self.stream.abort()
            return
        self._settle()

    def release(self) -> None:
        """Give the pipe back, if there is one."""
        if self.pipe is not None:
            self.stream.pipes.give(self.pipe, empty=not self.in_pipe)
            self.pipe = None

    def _attend(self, event: int) -> None:
        if event & select.EPOLLERR:
            self.stream.abort(self)
            return
        if event & _READABLE and not self.blocked:
            self.pump(ending=bool(event & _ENDING))
        if event & _WRITABLE and self.back.blocked:
            self.back.pump(ending=True)

    def _more(self, data: bytes, count: int) -> None:
        """A message was not all that there was to it: the end, more than the sink takes, or more
        than the buffer."""
        try:
            if not data:
                self._end()
            elif count < len(data):
                self._block(data[count:])
            else:
                self._grow()
        except OSError:
            self.stream.abort()
            return
        self._settle()

    def _copy(self, ending: bool) -> None:
        while True:
            try:
                data = _read(self.source, COPY_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._end()
                return
            if not self._give(data):
                return
            if len(data) == COPY_BYTES:
                self._grow()
                return
            if not ending:
                return  # read short: the next byte comes with an event

    def _give(self, data: bytes) -> bool:
        """Write to the sink; keep what it does not take. Returns whether it took all."""
        try:
            count = _write(self.sink, data)
        except BlockingIOError:
            count = 0
        self._count(count)
        if count < len(data):
            self._block(data[count:])
            return False
        self.pending = b""
        return True

    def _grow(self) -> None:
        """There is more than a message: go on with a pipe."""
        self.bulky = True
        self._queue()

    def _queue(self) -> None:
        if not self.queued:
            self.queued = True
            self.stream.reactor.again(self._turn)

    def _turn(self) -> None:
        self.queued = False
        if self.ended or self.blocked:
            return
        try:
            if self.pipe is None:
                self.pipe = self.stream.pipes.take()
            if self.pipe is not None:
                self._pour(self.pipe)
            else:
                self.bulky = False
                self._copy(ending=True)
        except OSError:
            self.stream.abort()
            return
        self._settle()

    def _pour(self, pipe: Pipe) -> None:
        """Move by pipe, and give it back when the source has no more for now: connections that
        are quiet hold none. One that brought little is copied from again."""
        moved = 0
        while moved < TURN_BYTES:
            if not self.in_pipe:
                try:
                    self.in_pipe = _splice(self.source, pipe.write, self.gulp, flags=_NOW)
                except BlockingIOError:
                    self.release()
                    self.bulky = moved >= COPY_BYTES
                    return
                if not self.in_pipe:
                    self._end()
                    return
            try:
                count = _splice(pipe.read, self.sink, self.in_pipe, flags=_NOW)
            except BlockingIOError:
                self.gulp = _FIRST_BYTES
                self._block(b"")
                return
            self.in_pipe -= count
            if not self.in_pipe and self.gulp < PIPE_BYTES and count == self.gulp:
                self.gulp *= 2
            moved += count
            self._count(count)
        self._queue()

    def _block(self, pending: bytes) -> None:
        self.pending = pending
        self.blocked = True
        if not self.hears_room:
            self.hears_room = True
            self.stream.reactor.modify(self.sink, EDGES)

    def _count(self, count: int) -> None:
        if self.upward:
            self.counters.received += count
        else:
            self.counters.sent += count

    def _end(self) -> None:
        self.ended = True
        self.release()
        self.stream.finish(self)

    def _settle(self) -> None:
        back = self.back
        free = not (self.blocked or back.blocked)
        self.easy = free and not (self.bulky or self.ended)
        back.easy = free and not (back.bulky or back.ended)


class Stream:
    """A connection that came about on both sides, until both have said all or one breaks."""

    __slots__ = (
        "_closed", "_down", "_on_end", "_up", "client", "counters", "pipes", "reactor", "server",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        pipes: Pipes,
        client: SocketType,
        server: SocketType,
        counters: EndpointCounters,
        on_end: Callable[[Stream], None],
    ) -> None:
        self.reactor = reactor
        self.pipes = pipes
        self.client = client
        self.server = server
        self.counters = counters
        self._on_end = on_end
        here, there = client.fileno(), server.fileno()
        self._up = Flow(self, here, there, True)
        self._down = Flow(self, there, here, False)
        self._up.back, self._down.back = self._down, self._up
        self._closed = False

    def start(self, event: int, words: bytes = b"", count: int = 0) -> None:
        """Begin. ``event`` is what the server's descriptor, in the reactor already, reported when
        it was connected; its events are ours from now on. ``words`` are the first that go to the
        server; it took ``count`` bytes of them already."""
        self.reactor.replace(self._down.source, self._down.on_event)
        self.reactor.add(self._up.source, self._up.on_event, READS)
        if words:
            self._up.went(words, count)
        else:
            self._up.on_event(select.EPOLLIN)  # it may have spoken by now
        if event & _READABLE:
            self._down.on_event(event)

    def finish(self, flow: Flow) -> None:
        """``flow`` brought all there was: say so to its sink; with both done, close. Raises
        OSError when the sink is broken."""
        if self._up.ended and self._down.ended:
            self._close()
            return
        sink = self.server if flow is self._up else self.client
        sink.shutdown(socket.SHUT_WR)

    def abort(self, broken: Flow | None = None) -> None:
        """Break off both sides with a reset, as one of them did: the source of ``broken``, which
        needs to be told nothing."""
        if not self._closed:
            if broken is not self._up:
                reset(self.client)
            if broken is not self._down:
                reset(self.server)
            self._close()

    def _close(self) -> None:
        self._closed = True
        reactor = self.reactor
        for flow, sock in ((self._up, self.client), (self._down, self.server)):
            flow.easy, flow.ended = False, True  # a turn that comes yet finds nothing to do
            flow.release()
            reactor.remove(flow.source)
            reactor.close(sock)
        self._on_end(self)
