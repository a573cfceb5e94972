"""One TCP connection through the proxy: two sockets and a flow of bytes each way.

Bulk data never enters Python: it goes by splice(2) from socket to pipe to socket. Short messages
are cheaper by one read and one write, without a pipe; a flow begins that way and changes over when
a read fills its buffer.

What TCP promises is kept: a side that stops sending (FIN) is passed on as such while the other
goes on (half-close); a reset is passed on as a reset; a reader who is slow stops the reading on
the other side and nothing piles up here beyond one buffer or one pipe.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from socket import SocketType

from k8slite.roles.proxy.counters import EndpointCounters
from k8slite.roles.proxy.reactor import EDGES, Reactor

#: A message up to this size is copied; more is spliced.
COPY_BYTES = 16_384

#: What a pipe holds, and what one flow moves before others have their turn.
PIPE_BYTES = 262_144
TURN_BYTES = 4 * 1_048_576

_SPARE_PIPES = 64
_NOW = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
_ENDING = select.EPOLLRDHUP | select.EPOLLHUP
_RESET = struct.pack("ii", 1, 0)


def reset(sock: SocketType) -> None:
    """Make the coming ``close`` say RST instead of FIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # the socket is past caring


class Pipe:
    """The kernel buffer between two sockets."""

    __slots__ = ("read", "write")

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # over the user's share of pipe memory: the default size does

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


class Pipes:
    """Empty pipes kept for the next flow that needs one."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def take(self) -> Pipe | None:
        """A pipe, or None when there is no descriptor left for one."""
        if self._spare:
            return self._spare.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give(self, pipe: Pipe, *, empty: bool) -> None:
        if empty and len(self._spare) < _SPARE_PIPES:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()


class Flow:
    """One direction of a stream: bytes from ``source`` to ``sink``, both descriptors."""

    __slots__ = ("blocked", "ended", "in_pipe", "moved", "pending", "pipe", "sink", "source")

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.pending = b""
        self.pipe: Pipe | None = None
        self.in_pipe = 0
        self.moved = 0
        self.blocked = False  # the sink takes no more for now
        self.ended = False  # the source said all it had to say, and the sink got it

    def pump(self, pipes: Pipes, ending: bool) -> bool:
        """Move what can be moved now. ``ending``: the source has announced its end, so that a
        short read is not the last. Returns True when the turn is over before the work is.

        Raises OSError when either side is broken.
        """
        self.blocked = False
        if self.pipe is not None:
            return self._splice(pipes)
        if self.pending and not self._write(self.pending):
            return False
        while True:
            try:
                data = os.read(self.source, COPY_BYTES)
            except BlockingIOError:
                return False
            if not data:
                self.ended = True
                return False
            if not self._write(data):
                return False
            if len(data) == COPY_BYTES:
                self.pipe = pipes.take()
                if self.pipe is not None:
                    return self._splice(pipes)
            elif not ending:
                return False  # read short: the next byte comes with an event

    def _write(self, data: bytes) -> bool:
        """Write to the sink; keep what it does not take. Returns whether it took all."""
        try:
            count = os.write(self.sink, data)
        except BlockingIOError:
            count = 0
        self.moved += count
        self.pending = data[count:]
        self.blocked = count < len(data)
        return not self.blocked

    def _splice(self, pipes: Pipes) -> bool:
        """Move by pipe. A turn that moved little gives the pipe back, so that connections which
        have fallen quiet hold none."""
        pipe = self.pipe
        assert pipe is not None
        budget = TURN_BYTES
        while budget > 0:
            if not self.in_pipe:
                try:
                    self.in_pipe = os.splice(self.source, pipe.write, PIPE_BYTES, flags=_NOW)
                except BlockingIOError:
                    if budget > TURN_BYTES - PIPE_BYTES:
                        self.release(pipes)
                    return False
                if not self.in_pipe:
                    self.ended = True
                    return False
            try:
                count = os.splice(pipe.read, self.sink, self.in_pipe, flags=_NOW)
            except BlockingIOError:
                self.blocked = True
                return False
            self.in_pipe -= count
            self.moved += count
            budget -= count
        return True

    def release(self, pipes: Pipes) -> None:
        if self.pipe is not None:
            pipes.give(self.pipe, empty=not self.in_pipe)
            self.pipe = None


class Stream:
    """A connection that came about on both sides, until both have said all or one breaks."""

    __slots__ = (
        "_closed", "_down", "_on_end", "_pipes", "_reactor", "_up", "client", "counters",
        "server",
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
        self._reactor = reactor
        self._pipes = pipes
        self.client = client
        self.server = server
        self.counters = counters
        self._on_end = on_end
        self._up = Flow(client.fileno(), server.fileno())
        self._down = Flow(server.fileno(), client.fileno())
        self._closed = False

    def start(self, event: int) -> None:
        """Begin. ``event`` is what the server's descriptor, in the reactor already, reported when
        it was connected; its events are ours from now on."""
        self._reactor.replace(self._down.source, self.on_server)
        self._reactor.add(self._up.source, self.on_client, EDGES)
        # The client mostly speaks first, and mostly has spoken by now.
        self._pump(self._up, ending=False)
        if event & _READABLE:
            self._pump(self._down, bool(event & _ENDING))

    def greet(self, data: bytes) -> None:
        """Before ``start``: say ``data`` to the server before anything that the client says, in
        one packet with that when it is there already."""
        up = self._up
        try:
            up.pending = data + os.read(up.source, COPY_BYTES)
        except OSError:  # nothing yet; or broken, which will be met again
            up.pending = data
        self.counters.received -= len(data)  # no payload

    def on_client(self, event: int) -> None:
        self._on_event(event, self._up, self._down)

    def on_server(self, event: int) -> None:
        self._on_event(event, self._down, self._up)

    def _on_event(self, event: int, inward: Flow, outward: Flow) -> None:
        if event & select.EPOLLERR:
            self.abort()
            return
        if event & _READABLE and not inward.blocked:
            self._pump(inward, bool(event & _ENDING))
        if event & select.EPOLLOUT and outward.blocked:
            self._pump(outward, True)

    def _pump(self, flow: Flow, ending: bool) -> None:
        if self._closed or flow.ended:
            return
        before = flow.moved
        try:
            more = flow.pump(self._pipes, ending)
            if flow.ended:
                self._finish(flow)
        except OSError:
            self.abort()
            return
        finally:
            if flow is self._up:
                self.counters.received += flow.moved - before
            else:
                self.counters.sent += flow.moved - before
        if more:
            self._reactor.again(lambda: self._pump(flow, True))

    def _finish(self, flow: Flow) -> None:
        """``flow`` brought all there was: say so to its sink; with both done, close."""
        flow.release(self._pipes)
        if self._up.ended and self._down.ended:
            self._close()
            return
        sink = self.server if flow is self._up else self.client
        sink.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Break off both sides with a reset, as one of them did."""
        if not self._closed:
            reset(self.client)
            reset(self.server)
            self._close()

    def _close(self) -> None:
        self._closed = True
        for sock, flow in ((self.client, self._up), (self.server, self._down)):
            flow.release(self._pipes)
            self._reactor.forget(flow.source)
            self._reactor.close(sock)
        self._on_end(self)
