"""Bytes between two sockets: whole, in order, bounded, and ended as TCP ends them.

Here a stream joins two real TCP connections, without a portal around it.

    client ── here [stream] there ── server
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from socket import SocketType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.world import Net, running, tcp_server, until

from k8slite.kit.loop import run_shared
from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy.reactor import EDGES, Reactor
from k8slite.roles.proxy.tcp import stream as streams
from k8slite.roles.proxy.tcp.pipes import PIPE_BYTES, Pipes
from k8slite.roles.proxy.tcp.stream import Stream
from k8slite.roles.proxy.telling.counters import EndpointCounters

SMALL = 65_536  # what the sockets of a slow connection may hold


def connected(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection, with send and receive buffers of this size if it is told."""
    with socket.socket() as door:
        if buffers:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        door.bind(("127.0.0.1", 0))
        door.listen()
        near = socket.socket()
        if buffers:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        near.connect(door.getsockname())
        far, _ = door.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def tear(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass
class Joint:
    """A stream and the far ends of its two connections."""

    client: socket.socket
    server: socket.socket
    counters: EndpointCounters
    ended: asyncio.Event
    stream: Stream


class Bench:
    """Joins connections on one reactor, with one store of pipes."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.pipes = Pipes()
        self._joints: list[Joint] = []

    def join(self, buffers: int | None = None) -> Joint:
        client, here = connected(buffers)
        there, server = connected(buffers)
        ours, theirs = SocketType(fileno=here.detach()), SocketType(fileno=there.detach())
        ours.setblocking(False)
        theirs.setblocking(False)
        ended = asyncio.Event()
        counters = EndpointCounters()
        stream = Stream(
            self.reactor, self.pipes, ours, theirs, counters, lambda _: ended.set()
        )  # fmt: skip
        self.reactor.add(theirs.fileno(), lambda _: None, EDGES)
        stream.start(select.EPOLLOUT)
        joint = Joint(client, server, counters, ended, stream)
        self._joints.append(joint)
        return joint

    def close(self) -> None:
        for joint in self._joints:
            joint.stream.abort()
            joint.client.close()
            joint.server.close()
        self.reactor.shut()
        self.pipes.close()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        made.close()


async def heard(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    parts = []
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 1_000_000):
        parts.append(data)
    return b"".join(parts)


async def pour(sock: socket.socket, text: bytes = bytes(65_536)) -> int:
    """Send until nothing is taken for a while; how much that was."""
    poured, idle = 0, 0
    while idle < 20:
        try:
            poured += sock.send(text)
            idle = 0
        except BlockingIOError:
            idle += 1
            await asyncio.sleep(0.005)
    return poured


Piece = tuple[bool, int]  # from the client or from the server, and how many bytes


@settings(max_examples=60)
@given(
    pieces=st.lists(
        st.tuples(
            st.booleans(), st.one_of(st.integers(1, 100), st.sampled_from([16_384, 400_000]))
        ),
        max_size=12,
    ),
    client_ends_first=st.booleans(),
    slow=st.booleans(),
)
def test_whatever_is_said_in_whatever_pieces_arrives_the_same(
    pieces: list[Piece], client_ends_first: bool, slow: bool
) -> None:
    async def say(sock: socket.socket, pieces: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(0)
        sock.shutdown(socket.SHUT_WR)

    async def story() -> None:
        said = {
            side: [os.urandom(size) for who, size in pieces if who is side]
            for side in (True, False)
        }
        async with bench() as made:
            joint = made.join(SMALL if slow else None)
            ends = {True: joint.client, False: joint.server}
            async with asyncio.TaskGroup() as group:
                for side in (client_ends_first, not client_ends_first):
                    group.create_task(say(ends[side], said[side]))
                at_server = group.create_task(heard(joint.server))
                at_client = group.create_task(heard(joint.client))
            up, down = b"".join(said[True]), b"".join(said[False])
            assert at_server.result() == up
            assert at_client.result() == down
            await joint.ended.wait()
            assert (joint.counters.received, joint.counters.sent) == (len(up), len(down))

    run_shared(story())


def test_one_byte_at_a_time() -> None:
    async def story() -> None:
        async with bench() as made:
            joint = made.join()
            loop = asyncio.get_running_loop()
            for number in range(1_000):
                joint.client.send(bytes([number % 256]))
                assert await loop.sock_recv(joint.server, 10) == bytes([number % 256])

    run_shared(story())


def test_both_sides_send_in_bulk_at_once() -> None:
    async def story() -> None:
        up, down = os.urandom(20_000_000), os.urandom(20_000_000)

        async def say(sock: socket.socket, text: bytes) -> None:
            await asyncio.get_running_loop().sock_sendall(sock, text)
            sock.shutdown(socket.SHUT_WR)

        async with bench() as made:
            joint = made.join()
            async with asyncio.TaskGroup() as group:
                group.create_task(say(joint.client, up))
                group.create_task(say(joint.server, down))
                at_server = group.create_task(heard(joint.server))
                at_client = group.create_task(heard(joint.client))
            assert at_server.result() == up
            assert at_client.result() == down

    run_shared(story())


def test_without_descriptors_for_pipes_bulk_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        text = os.urandom(3_000_000)
        async with bench() as made:
            monkeypatch.setattr(made.pipes, "take", lambda: None)
            joint = made.join(SMALL)
            hearing = asyncio.create_task(heard(joint.server))
            await asyncio.get_running_loop().sock_sendall(joint.client, text)
            joint.client.shutdown(socket.SHUT_WR)
            assert await hearing == text

    run_shared(story())


def test_a_reader_who_never_reads_holds_a_bounded_amount() -> None:
    async def story() -> None:
        async with bench() as made:
            joint = made.join(SMALL)
            poured = await pour(joint.server)
            # Four socket buffers, which the kernel doubles, and at most one pipe.
            assert poured < PIPE_BYTES + 16 * SMALL
            hearing = asyncio.create_task(heard(joint.client))
            joint.server.shutdown(socket.SHUT_WR)
            joint.client.shutdown(socket.SHUT_WR)
            assert len(await hearing) == poured
            await joint.ended.wait()

    run_shared(story())


def test_a_reader_who_comes_to_a_stand_leaves_little_in_the_pipe_the_next_time() -> None:
    async def story() -> None:
        async with bench() as made:
            loop = asyncio.get_running_loop()
            joint = made.join(SMALL)
            first = await pour(joint.server)
            left = first
            while left:
                left -= len(await loop.sock_recv(joint.client, left))
            assert await pour(joint.server) < 131_072 + 16 * SMALL

    run_shared(story())


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_stream_torn_in_the_middle_of_bulk_is_torn_on_the_other_side(who: str) -> None:
    async def story() -> None:
        async with bench() as made:
            joint = made.join()
            near, far = (
                (joint.client, joint.server) if who == "client" else (joint.server, joint.client)
            )
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(near, bytes(50_000_000)))
            for _ in range(20):
                assert await loop.sock_recv(far, 100_000)
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            tear(near)
            with pytest.raises(ConnectionResetError):
                await heard(far)
            await joint.ended.wait()

    run_shared(story())


def test_a_reader_torn_away_in_the_middle_of_bulk_stops_the_sender() -> None:
    async def story() -> None:
        async with bench() as made:
            joint = made.join()
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(joint.server, bytes(50_000_000)))
            await loop.sock_recv(joint.client, 100_000)
            tear(joint.client)
            with pytest.raises(ConnectionError):
                await sending
            await joint.ended.wait()

    run_shared(story())


def test_a_reset_with_data_in_the_pipe_soils_no_other_stream() -> None:
    async def story() -> None:
        async with bench() as made:
            loop = asyncio.get_running_loop()
            stuck = made.join(SMALL)
            await pour(stuck.server, b"x" * 65_536)
            tear(stuck.server)
            await stuck.ended.wait()
            with pytest.raises(ConnectionResetError):
                await heard(stuck.client)
            text = os.urandom(2_000_000)
            fresh = made.join()
            hearing = asyncio.create_task(heard(fresh.client))
            await loop.sock_sendall(fresh.server, text)
            fresh.server.shutdown(socket.SHUT_WR)
            assert await hearing == text

    run_shared(story())


def test_connections_that_fell_quiet_hold_no_pipe() -> None:
    async def story() -> None:
        async with bench() as made:
            joints = [made.join() for _ in range(100)]
            before = len(os.listdir("/proc/self/fd"))
            loop = asyncio.get_running_loop()
            for joint in joints:
                await loop.sock_sendall(joint.client, bytes(200_000))
                left = 200_000
                while left:
                    left -= len(await loop.sock_recv(joint.server, left))
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2 * 3)

    run_shared(story())


def test_many_bulk_streams_leave_small_messages_their_turn() -> None:
    async def story() -> None:
        async with bench() as made:
            loop = asyncio.get_running_loop()
            small = made.join()
            jobs = []
            with ExitStack() as stack:
                for _ in range(8):
                    joint = made.join()
                    jobs.append(asyncio.create_task(endless(joint.server)))
                    jobs.append(asyncio.create_task(drained(joint.client)))
                stack.callback(lambda: [job.cancel() for job in jobs])
                for number in range(100):
                    await loop.sock_sendall(small.client, b"%d" % number)
                    assert await loop.sock_recv(small.server, 10) == b"%d" % number
            await asyncio.gather(*jobs, return_exceptions=True)

    run_shared(story())


async def endless(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(sock, bytes(500_000))


async def drained(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(sock, 1_000_000):
        pass


PORTAL = "192.168.3.214"


SILENCE = """
table ip silence {
  chain in { type filter hook input priority 0; policy drop; }
}
"""


def test_a_peer_that_is_gone_without_a_word_is_found_out(
    net: Net, new_edge: Callable[[], Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's host hears and answers nothing any more while its connection is quiet."""
    monkeypatch.setattr(streams, "KEEPALIVE", (1, 1, 1))
    quiet, ends = asyncio.Event(), asyncio.Queue[type[BaseException]]()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        await reader.readexactly(1)
        quiet.set()
        try:
            await reader.read()
        except ConnectionResetError as error:
            ends.put_nowait(type(error))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(PORTAL, 80)
        try:
            writer.write(b"x")
            writer.write(await reader.readexactly(1))
            await reader.read()
        finally:
            writer.transport.abort()

    async def story() -> None:
        async with running(new_edge) as world, tcp_server(wait) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            outside = net.outside.begin(client())
            await quiet.wait()
            await asyncio.to_thread(net.outside.run, "nft", "-f", "-", input=SILENCE)
            try:
                async with asyncio.timeout(20):
                    assert await ends.get() is ConnectionResetError
            finally:
                outside.cancel()
                await asyncio.to_thread(net.outside.run, "nft", "delete", "table", "ip", "silence")

    net.node.do(story())


def test_watch_is_kept_over_the_endpoints_of_connections_that_last(
    net: Net, new_edge: Callable[[], Edge]
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)

    async def story() -> None:
        async with running(new_edge) as world, tcp_server(echo) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            _, writer = await asyncio.open_connection(PORTAL, 80)
            # The kernel's timer of a connection to the endpoint: asked after a minute of silence.
            command = ("ss", "-tnoH", "state", "established", "dport", f"= :{port}")
            await until(lambda: "keepalive" in net.node.run(*command))
            writer.close()

    net.node.do(story())
