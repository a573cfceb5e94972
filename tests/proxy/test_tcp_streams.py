"""What TCP promises through the proxy: order, ends, resets, patience, and no leaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from tests.proxy.world import (
    Handler,
    Net,
    World,
    ask,
    running,
    service_object,
    tcp_server,
    until,
)

from k8slite.api.kinds.service.types import ServicePort
from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy.tcp.stream import SPARE_PIPES

PORTAL = "192.168.3.214"
NewEdge = Callable[[], Edge]
Story = Callable[[World], Awaitable[None]]


def with_server(net: Net, new_edge: NewEdge, handler: Handler, story: Story) -> None:
    """Run ``story`` with a service whose one endpoint is ``handler``."""

    async def play() -> None:
        async with running(new_edge) as world, tcp_server(handler) as port:
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            await story(world)
            counters = world.proxy.counters.ports["default/web:"]
            await until(lambda: counters.active == 0)

    net.node.do(play())


async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(PORTAL, 80)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    fillers: list[int] = []
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def descriptors() -> Counter[str]:
    """How many this process has of each kind."""
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            kinds[os.readlink(f"/proc/self/fd/{name}").split(":")[0]] += 1
    return kinds


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 300_000, 20_000_000])
def test_every_byte_arrives_in_order(net: Net, new_edge: NewEdge, size: int) -> None:
    async def story(world: World) -> None:
        sent = os.urandom(size)
        reader, writer = await connect()

        async def send() -> None:
            for start in range(0, size, 100_000):
                writer.write(sent[start : start + 100_000])
                await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            heard = group.create_task(reader.read())
        assert hashlib.sha256(heard.result()).digest() == hashlib.sha256(sent).digest()
        writer.close()
        counters = world.proxy.counters.ports["default/web:"]
        assert counters.received == counters.sent == size

    with_server(net, new_edge, echo, story)


def test_many_messages_on_one_connection(net: Net, new_edge: NewEdge) -> None:
    async def story(world: World) -> None:
        reader, writer = await connect()
        for number in range(500):
            message = os.urandom(1 + number * 97 % 40_000)
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.close()

    with_server(net, new_edge, echo, story)


def test_half_close_from_the_client_leaves_the_answer_open(net: Net, new_edge: NewEdge) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(await reader.read())
        for _ in range(3):
            writer.write(b"%d " % size)
            await asyncio.sleep(0.02)

    async def story(world: World) -> None:
        assert await ask(PORTAL, 80, b"x" * 1000) == b"1000 1000 1000 "

    with_server(net, new_edge, count, story)


def test_half_close_from_the_server_leaves_the_question_open(net: Net, new_edge: NewEdge) -> None:
    heard = asyncio.Queue[bytes]()

    async def server_speaks_first(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"welcome")
        writer.write_eof()
        heard.put_nowait(await reader.read())

    async def story(world: World) -> None:
        reader, writer = await connect()
        assert await reader.read() == b"welcome"
        writer.write(b"still here")
        writer.write_eof()
        assert await heard.get() == b"still here"
        writer.close()

    with_server(net, new_edge, server_speaks_first, story)


def test_a_reset_by_the_server_reaches_the_client(net: Net, new_edge: NewEdge) -> None:
    async def tear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def story(world: World) -> None:
        reader, writer = await connect()
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    with_server(net, new_edge, tear, story)


def test_a_reset_by_the_client_reaches_the_server(net: Net, new_edge: NewEdge) -> None:
    ends = asyncio.Queue[type[BaseException] | None]()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            ends.put_nowait(None)
        except ConnectionResetError as error:
            ends.put_nowait(type(error))

    async def story(world: World) -> None:
        _, writer = await connect()
        writer.write(b"x")
        counters = world.proxy.counters.ports["default/web:"]
        await until(lambda: counters.received == 1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        assert await ends.get() is ConnectionResetError

    with_server(net, new_edge, listen, story)


def test_a_slow_reader_stops_the_sender_and_loses_nothing(net: Net, new_edge: NewEdge) -> None:
    total = 40_000_000
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < total:
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    async def story(world: World) -> None:
        nonlocal sent
        reader, writer = await connect()
        writer.transport.pause_reading()
        # The sender comes to a stand although nobody reads: what is on the way is bounded.
        await until(lambda: sent)
        before, equal = sent, 0
        while equal < 3:
            await asyncio.sleep(0.1)
            before, equal = sent, (equal + 1 if before == sent else 0)
        assert sent < total
        writer.transport.resume_reading()
        heard = 0
        while data := await reader.read(1_000_000):
            heard += len(data)
        assert heard == total
        writer.close()

    with_server(net, new_edge, pour, story)


def test_a_bulk_stream_leaves_the_loop_to_others(net: Net, new_edge: NewEdge) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"p":
            while True:
                writer.write(bytes(1_000_000))
                await writer.drain()
        writer.write(b"pong")

    async def story(world: World) -> None:
        bulk, bulk_writer = await connect()
        bulk_writer.write(b"p")

        async def drain() -> None:
            while await bulk.read(1_000_000):
                pass

        pouring = asyncio.create_task(drain())
        for _ in range(20):
            reader, writer = await connect()
            writer.write(b"q")
            assert await reader.read() == b"pong"
            writer.close()
        pouring.cancel()
        bulk_writer.transport.abort()

    with_server(net, new_edge, pour, story)


def test_running_out_of_descriptors_slows_accepting_and_nothing_else(
    net: Net, new_edge: NewEdge
) -> None:
    async def story(world: World) -> None:
        first, first_writer = await connect()
        first_writer.write(b"a")
        assert await first.readexactly(1) == b"a"
        counters = world.proxy.counters.ports["default/web:"]
        loop = asyncio.get_running_loop()
        with socket.socket() as late:
            late.setblocking(False)
            with no_descriptors_left():
                await loop.sock_connect(late, (PORTAL, 80))
                await loop.sock_sendall(late, b"late")
                for _ in range(5):
                    first_writer.write(b"still")
                    assert await first.readexactly(5) == b"still"
                assert counters.connections == 1
            # The kernel kept the connection; it is served as soon as descriptors are there.
            assert await loop.sock_recv(late, 100) == b"late"
        first_writer.close()

    with_server(net, new_edge, echo, story)


def test_a_service_that_gets_no_socket_says_so_and_is_served_later(
    net: Net, new_edge: NewEdge
) -> None:
    async def story(world: World) -> None:
        ports = (ServicePort(port=80, protocol="TCP"),)
        with no_descriptors_left():
            await world.put(service_object("poor", "192.168.3.9", ports))
            await until(lambda: world.recorded.events)
        assert world.recorded.events[0][:2] == ("default/poor", "PortalNotOpened")
        await until(lambda: "default/poor:" in world.proxy.listeners.ports)
        assert await ask(PORTAL, 80, b"fine") == b"fine"

    with_server(net, new_edge, echo, story)


def test_connections_leave_no_descriptor_behind(net: Net, new_edge: NewEdge) -> None:
    async def story(world: World) -> None:
        async def round_of(size: int) -> None:
            answers = await asyncio.gather(*(ask(PORTAL, 80, b"x" * size) for _ in range(40)))
            assert {len(answer) for answer in answers} == {size}

        counters = world.proxy.counters.ports["default/web:"]
        await round_of(100_000)
        await until(lambda: counters.active == 0)
        before = descriptors()
        for size in (10, 100_000, 10):
            await round_of(size)
        await until(lambda: counters.active == 0)
        # Some empty pipes are kept, as many as were needed at once so far.
        await until(lambda: descriptors()["socket"] <= before["socket"])
        assert descriptors()["pipe"] <= before["pipe"] + 2 * SPARE_PIPES

    with_server(net, new_edge, echo, story)
