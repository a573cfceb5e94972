"""From a client's first packet to an endpoint: refusals, attempts, and what they cost others."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

import aiohttp
import pytest
from aiohttp import web
from tests.netfilter.sites import Site
from tests.proxy.test_portals import from_site, greeters, refused
from tests.proxy.world import POD, Net, ask, endpoints_object, running, tcp_server, until

from k8slite.decide.balancing import Balancer, Endpoint
from k8slite.kit.backoff import Backoff
from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy import listeners

PORTAL = "192.168.3.214"
#: Nobody has this address: whoever connects there meets silence.
SILENT = ("172.16.5.77", 80)
NewEdge = Callable[[], Edge]


@pytest.fixture(autouse=True, scope="module")
def silence(net: Net) -> None:
    """It lasts: a node that knows no hardware address gives up within three seconds."""
    net.node.ip("neigh", "replace", SILENT[0], "lladdr", "02:00:00:00:00:01", "dev", "pod0")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


async def refused_at_the_door(address: str, port: int) -> bool:
    """Whether the kernel answers the first packet with a reset."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def test_without_endpoints_the_kernel_refuses_until_there_are_some(
    net: Net, either_edge: NewEdge
) -> None:
    async def story() -> None:
        async with running(either_edge) as world, tcp_server(echo) as port:
            await world.serve("web", PORTAL, [])
            listener = world.proxy.listeners.ports["default/web:"]
            for _ in range(3):
                assert await refused_at_the_door(PORTAL, 80)
                assert await from_site(net.pod, refused_at_the_door(PORTAL, 80))
                assert await from_site(net.outside, refused_at_the_door(PORTAL, 80))
                await world.put(endpoints_object("web", [("127.0.0.1", port)]))
                await until(lambda: world.proxy.settled)
                assert await ask(PORTAL, 80, b"hello") == b"hello"
                # Who is connected stays so when the endpoints go, and when they come again.
                reader, writer = await asyncio.open_connection(PORTAL, 80)
                writer.write(b"early")
                assert await reader.readexactly(5) == b"early"
                await world.put(endpoints_object("web", []))
                await until(lambda: world.proxy.settled)
                writer.write(b"later")
                assert await reader.readexactly(5) == b"later"
                writer.close()
            assert world.proxy.listeners.ports["default/web:"] == listener

    net.node.do(story())


def test_a_shut_listener_keeps_its_port(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge) as world:
            await world.serve("web", PORTAL, [])
            listener = world.proxy.listeners.ports["default/web:"]
            with pytest.raises(OSError, match="address already in use"):
                await asyncio.start_server(echo, "0.0.0.0", listener)

    net.node.do(story())


def test_clients_of_silent_endpoints_keep_nobody_waiting(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, connect_timeouts=(30.0,)) as world, greeters(1) as alive:
            await world.serve("silent", "192.168.3.9", [SILENT])
            await world.serve("web", PORTAL, alive)
            waiting = [asyncio.create_task(ask("192.168.3.9", 80)) for _ in range(100)]
            listener = world.proxy.listeners["default/silent:"]
            await until(lambda: listener.active == 100)
            assert [await ask(PORTAL, 80) for _ in range(10)] == [b"0"] * 10
            # Also the next client of the same service is taken at once.
            await world.put(endpoints_object("silent", alive))
            await until(lambda: world.proxy.settled)
            assert await ask("192.168.3.9", 80) == b"0"
            assert listener.active == 100
            for task in waiting:
                task.cancel()

    net.node.do(story())


def test_a_silent_endpoint_costs_its_first_clients_one_timeout_and_others_nothing(
    net: Net, new_edge: NewEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(new_edge, connect_timeouts=(0.1, 30.0)) as world, greeters(2) as alive:
            await world.serve("web", PORTAL, [*alive, SILENT])
            answers = await asyncio.gather(*(ask(PORTAL, 80) for _ in range(30)))
            assert set(answers) == {b"0", b"1"}
            counters = world.proxy.counters.ports["default/web:"].of(Endpoint(*SILENT))
            failures = counters.failures
            assert 1 <= failures <= 10
            for _ in range(10):
                await ask(PORTAL, 80)
            assert counters.failures == failures
            assert not world.recorded.events

    # Nobody probes it again while the test lasts.
    long = partial(Balancer, ejection=Backoff(initial=60.0, maximum=60.0))
    monkeypatch.setattr(listeners, "Balancer", long)
    net.node.do(story())


@pytest.mark.parametrize("size", [0, 1, 4_096, 4_097, 16_384, 300_000])
def test_what_a_client_said_early_is_heard_once_whoever_failed_before(
    net: Net, new_edge: NewEdge, size: int
) -> None:
    async def story() -> None:
        async with (
            running(new_edge, connect_timeouts=(0.05, 0.05, 5.0)) as world,
            tcp_server(echo) as port,
        ):
            await world.serve("web", PORTAL, [("127.0.0.1", port), ("127.0.0.1", 1), SILENT])
            said = os.urandom(size)
            for _ in range(3):
                # Everything, and the end, may be there before the proxy comes to accept.
                assert await ask(PORTAL, 80, said) == said
            counters = world.proxy.counters.ports["default/web:"]
            await until(lambda: counters.active == 0)
            assert counters.received == counters.sent == 3 * size

    net.node.do(story())


def test_a_service_whose_endpoints_all_fail_says_so_once(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with running(new_edge, connect_timeouts=(0.05, 0.05)) as world:
            await world.serve("web", PORTAL, [("127.0.0.1", 1), SILENT])
            for _ in range(3):
                assert await refused(PORTAL, 80)
            [(key, reason, message)] = world.recorded.events
            assert (key, reason) == ("default/web", "NoEndpointAnswers")
            assert "127.0.0.1:1" in message
            assert "172.16.5.77:80" in message
            assert world.proxy.counters.ports["default/web:"].unserved == 3

    net.node.do(story())


#: A child inherits how few its parent may have; only the parent is to be short of them.
MANY_DESCRIPTORS = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
"""

#: Answers every word with itself.
SERVER = """
import asyncio
async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "0.0.0.0", 8085, backlog=1000)
    print("there", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

#: Connects so many times, says a word on each, and hears the answers when it is told to.
CROWD = """
import socket, sys
crowd = [socket.create_connection((sys.argv[1], 80)) for _ in range(int(sys.argv[2]))]
for sock in crowd:
    sock.sendall(b"word")
print("there", flush=True)
sys.stdin.readline()
heard = 0
for sock in crowd:
    sock.settimeout(30)
    heard += sock.recv(4, socket.MSG_WAITALL) == b"word"
    sock.close()
print(heard, flush=True)
"""


@asynccontextmanager
async def script(site: Site, text: str, *words: str) -> AsyncIterator[Process]:
    """A process of its own in ``site`` that has said that it is there."""
    process = await asyncio.create_subprocess_exec(
        *site.inside(sys.executable, "-c", MANY_DESCRIPTORS + text, *words),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"there\n"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        process.stdin.close()


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """This process may have so many more than now: the limit is on numbers, gaps count."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, more, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def door_of_an_api() -> AsyncIterator[str]:
    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="alive")

    app = web.Application()
    app.router.add_get("/", alive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def test_a_crowd_of_clients_leaves_descriptors_to_the_rest_of_the_process(
    net: Net, new_edge: NewEdge
) -> None:
    async def story() -> None:
        async with script(net.pod, SERVER), door_of_an_api() as url, running(new_edge) as world:
            await world.serve("web", PORTAL, [(POD, 8085)])
            first, writer = await asyncio.open_connection(PORTAL, 80)
            async with script(net.outside, CROWD, PORTAL, "200") as crowd:
                assert crowd.stdin
                assert crowd.stdout
                listener = world.proxy.listeners["default/web:"]
                await until(lambda: listener._resume)  # type: ignore[union-attr]
                assert 10 < listener.active < 200
                for _ in range(5):
                    writer.write(b"still")
                    assert await first.readexactly(5) == b"still"
                    # A connection of its own for every question.
                    async with aiohttp.request("GET", url) as answer:
                        assert await answer.text() == "alive"
                crowd.stdin.write(b"go\n")
                async with asyncio.timeout(30):
                    assert await crowd.stdout.readline() == b"200\n"
            writer.close()

    with few_descriptors(120):
        net.node.do(story())


def test_an_endpoint_is_not_late_because_the_process_was_busy(net: Net, new_edge: NewEdge) -> None:
    async def story() -> None:
        async with (
            running(new_edge, connect_timeouts=(0.1, 30.0)) as world,
            tcp_server(echo) as port,
            AsyncExitStack() as stack,
        ):
            await world.serve("web", PORTAL, [("127.0.0.1", port)])
            clients = [stack.enter_context(socket.socket()) for _ in range(30)]
            for client in clients:
                client.connect((PORTAL, 80))
            listener = world.proxy.listeners["default/web:"]
            while not listener.active:  # noqa: ASYNC110
                await asyncio.sleep(0)
            # Now the attempts are due, and only some can be heard of at once.
            time.sleep(0.15)  # noqa: ASYNC251 (it is to block)
            for client in clients:
                client.setblocking(False)
                client.send(b"hello")
                word = asyncio.get_running_loop().sock_recv(client, 100)
                assert await asyncio.wait_for(word, 10) == b"hello"
            counters = world.proxy.counters.ports["default/web:"].of(Endpoint("127.0.0.1", port))
            assert (counters.failures, counters.connections) == (0, 30)

    net.node.do(story())
