"""Who the client is, as the server's own log has it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.proxy.test_portals import from_site
from tests.proxy.world import (
    OUTSIDE,
    POD,
    Net,
    running,
    tcp_server,
    until,
)

from k8slite.api import codec
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.service.proxying import CLIENT_ADDRESS
from k8slite.netfilter.edge import Edge
from k8slite.roles.proxy.reactor import EDGES, Reactor
from k8slite.roles.proxy.tcp.pipes import Pipes
from k8slite.roles.proxy.tcp.stream import Stream
from k8slite.roles.proxy.telling.counters import EndpointCounters

PORTAL = "192.168.3.214"
PUBLIC = "12.0.0.5"
NewEdge = Callable[[], Edge]

EXAMPLE = Path(__file__).parents[2] / "examples/client-address/nginx.yaml"

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend told
  bind :8082 accept-proxy
  http-request return status 200 content-type text/plain lf-string "%ci:%cp %[dst]:%[dst_port]"
"""


async def get(address: str, path: str) -> tuple[str, bytes]:
    """A request of HTTP; this side of the connection, and the answer's body."""
    reader, writer = await asyncio.open_connection(address, 80)
    here = "{}:{}".format(*writer.get_extra_info("sockname"))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return here, answer.rpartition(b"\r\n\r\n")[2]


async def connectable(address: str, port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@pytest.fixture(scope="module")
def nginx(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real nginx in the pod, set up as in the example; its log."""
    folder = tmp_path_factory.mktemp("nginx")
    config, log = folder / "nginx.conf", folder / "log"
    config.write_text(example()[0]["data"]["nginx.conf"])
    more = f"daemon off; pid {folder}/nginx.pid;"
    server = net.pod.start("nginx", "-c", str(config), "-g", more, log=log)
    net.pod.do(connectable(POD, 80))
    yield log
    server.terminate()
    server.wait()


def example() -> list[dict[str, Any]]:
    return list(codec.decode_documents(EXAMPLE.read_text()))


async def logged(log: Path, path: str) -> str:
    """The line that says ``path``, up to there."""
    lines: list[str] = []

    def said() -> list[str]:
        lines[:] = [line for line in log.read_text().splitlines() if f"GET {path} " in line]
        return lines

    await until(said)
    return lines[0].partition(' for "')[0]


def test_the_example_is_valid() -> None:
    for document in example():
        decoded = codec.from_raw(document)
        obj = decoded.kind.strategy.default(decoded.object)
        placed = msgspec.structs.replace(obj.metadata, namespace="default")
        obj = msgspec.structs.replace(obj, metadata=placed)
        assert (decoded.warnings, SCHEME.of(obj).strategy.validate(obj, None)) == ([], [])


@pytest.mark.parametrize("mode", ["proxy-v1", "proxy-v2"])
def test_nginx_logs_the_client_and_the_address_that_it_asked_for(
    net: Net, new_edge: NewEdge, nginx: Path, mode: str
) -> None:
    async def story() -> None:
        async with running(new_edge) as world:
            await world.serve(
                "web",
                PORTAL,
                [(POD, 80)],
                annotations={CLIENT_ADDRESS: mode},
                external_ips=(PUBLIC,),
            )
            for address in (PORTAL, PUBLIC):
                path = f"/{mode}/{address}"
                here, answer = await from_site(net.outside, get(address, path))
                assert answer == f"you are {OUTSIDE}\n".encode()
                assert here.startswith(OUTSIDE)
                assert await logged(nginx, path) == f"{here} asked {address}:80"
            counters = world.proxy.counters.ports["default/web:"]
            await until(lambda: counters.active == 0)
            # The header is no payload.
            assert counters.received == sum(
                len(f"GET /{mode}/{address} HTTP/1.0\r\nHost: web\r\n\r\n")
                for address in (PORTAL, PUBLIC)
            )

    net.node.do(story())


@pytest.mark.parametrize("mode", ["proxy-v1", "proxy-v2"])
def test_haproxy_accepts_the_header(net: Net, new_edge: NewEdge, tmp_path: Path, mode: str) -> None:
    async def story() -> None:
        async with running(new_edge) as world:
            await world.serve("web", PORTAL, [(POD, 8082)], annotations={CLIENT_ADDRESS: mode})
            here, answer = await from_site(net.outside, get(PORTAL, "/"))
            assert answer.decode() == f"{here} {PORTAL}:80"

    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY)
    receiver = net.pod.start("haproxy", "-db", "-f", str(config), log=tmp_path / "log")
    try:
        net.pod.do(connectable(POD, 8082))
        net.node.do(story())
    finally:
        receiver.terminate()
        receiver.wait()


def test_the_header_comes_first_even_to_a_server_that_speaks_first(
    net: Net, new_edge: NewEdge
) -> None:
    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome, " + await reader.readline())
        writer.write(await reader.read())

    async def story() -> None:
        async with running(new_edge) as world, tcp_server(welcome) as port:
            await world.serve(
                "web", PORTAL, [("127.0.0.1", port)], annotations={CLIENT_ADDRESS: "proxy-v1"}
            )
            reader, writer = await asyncio.open_connection(PORTAL, 80)
            client = "{}:{}".format(*writer.get_extra_info("sockname"))
            heard = await reader.readline()  # nothing was said by us yet
            address, source_port = client.rsplit(":", 1)
            assert heard == (
                f"welcome, PROXY TCP4 {address} {PORTAL} {source_port} 80\r\n".encode()
            )
            writer.write(b"thanks")
            writer.write_eof()
            assert await reader.read() == b"thanks"
            writer.close()

    net.node.do(story())


def test_a_header_travels_with_the_first_words_of_the_client(net: Net, new_edge: NewEdge) -> None:
    packets = asyncio.Queue[bytes]()

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packets.put_nowait(await reader.read(1000))

    async def story() -> None:
        async with running(new_edge) as world, tcp_server(first) as port:
            await world.serve(
                "web", PORTAL, [("127.0.0.1", port)], annotations={CLIENT_ADDRESS: "proxy-v1"}
            )
            with socket.create_connection((PORTAL, 80)) as client:
                # Both steps before the proxy, which shares our loop, comes to accept.
                client.sendall(b"GET /")
                assert (await packets.get()).endswith(b" 80\r\nGET /")

    net.node.do(story())


def full(sink: socket.socket) -> int:
    """Write to it until it takes no more; how much that was."""
    written = 0
    try:
        while True:
            written += os.write(sink.fileno(), b"x" * 1000)
    except BlockingIOError:
        return written


@pytest.mark.parametrize("blocked", [False, True])
def test_a_header_arrives_whole_and_first(net: Net, blocked: bool) -> None:
    async def story() -> None:
        reactor, loop = Reactor(), asyncio.get_running_loop()
        client, ours = socket.socketpair()
        out, server = socket.socketpair()
        for sock in (client, ours, out, server):
            sock.setblocking(False)
        before = full(out) if blocked else 0
        stream = Stream(reactor, Pipes(), ours, out, EndpointCounters(), lambda _: None)
        reactor.add(out.fileno(), lambda _: None, EDGES)
        stream.start(0, b"PROXY\r\n")
        heard = b""
        async with asyncio.timeout(10):
            while len(heard) < before:
                heard += await loop.sock_recv(server, before - len(heard))
            assert await loop.sock_recv(server, 100) == b"PROXY\r\n"
            await loop.sock_sendall(client, b"GET /")
            assert await loop.sock_recv(server, 100) == b"GET /"
        stream.abort()
        reactor.shut()
        client.close()
        server.close()

    net.node.do(story())
