"""The two sides of a soak, processes of their own: endpoints that come and go, and clients.

    python soak_programs.py endpoint PORT NAME        TCP and UDP; tells its name, then answers
                                                      with what it is sent
    python soak_programs.py clients TCP UDP SECONDS   through the portals at these addresses, port
                                                      80

Every exchange is checked to its last byte. The clients say when they begin and what failed: a line
of JSON for each exchange that did, and at the end one with the count of each kind. Times are
CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter

NAME_BYTES = 8
BULK, CHUNK = 4_000_000, 64_000
PATIENCE = 10.0
UDP_PATIENCE = 1.0


# -- the endpoint ----------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Says its name, then everything again; ends when the other side has said all."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self.name)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def pause_writing(self) -> None:
        self.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_writing(self) -> None:
        self.transport.resume_reading()  # type: ignore[attr-defined]


class Answers(asyncio.DatagramProtocol):
    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(self.name + data, addr)  # type: ignore[attr-defined]


async def serve(port: int, name: bytes) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(name), "0.0.0.0", port, backlog=512)
    await loop.create_datagram_endpoint(lambda: Answers(name), ("0.0.0.0", port))
    print("ready", flush=True)
    await server.serve_forever()


# -- the clients -----------------------------------------------------------------------------------


class Mismatch(Exception):
    """What came back is not what was sent."""


class Clients:
    def __init__(self, tcp: str, udp: str, seconds: float) -> None:
        self.tcp = tcp
        self.udp = udp
        self.seconds = seconds
        self.end = 0.0
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        kinds = {
            "bulk": (self.bulk, 2), "kept": (self.kept, 6), "single": (self.single, 4),
            "half-closed": (self.half_closed, 2), "udp": (self.datagrams, 8),
        }  # fmt: skip
        await self.opened()
        print(json.dumps({"ready": time.monotonic()}), flush=True)
        self.end = time.monotonic() + self.seconds
        await asyncio.gather(*(
            self.keep_on(kind, work) for kind, (work, count) in kinds.items() for _ in range(count)
        ))  # fmt: skip
        print(json.dumps({"done": self.done}), flush=True)

    async def opened(self) -> None:
        """Until both portals are open. Raises TimeoutError."""
        async with asyncio.timeout(30):
            while not {"single", "udp"} <= self.done.keys():
                await self.exchange("single", self.one_question)
                await self.datagrams("udp", 1)
        self.done.clear()

    async def keep_on(self, kind: str, work) -> None:  # type: ignore[no-untyped-def]
        while time.monotonic() < self.end:
            await work(kind)

    def failed(self, kind: str, start: float, server: str, error: Exception) -> None:
        line = {
            "kind": kind, "start": start, "end": time.monotonic(), "server": server,
            "error": repr(error),
        }  # fmt: skip
        if self.end:
            print(json.dumps(line), flush=True)

    async def exchange(self, kind: str, talk) -> None:  # type: ignore[no-untyped-def]
        """One connection, whose endpoint says its name first."""
        start, server = time.monotonic(), ""
        writer = None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(self.tcp, 80)
                server = (await reader.readexactly(NAME_BYTES)).decode()
                await talk(reader, writer)
            self.done[kind] += 1
        except (OSError, EOFError, TimeoutError, Mismatch) as error:
            self.failed(kind, start, server, error)
            await asyncio.sleep(0.01)
        finally:
            if writer is not None:
                writer.close()

    async def bulk(self, kind: str) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sent = os.urandom(CHUNK) * (BULK // CHUNK)

            async def send() -> None:
                for at in range(0, len(sent), CHUNK):
                    writer.write(sent[at : at + CHUNK])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            try:
                heard = await reader.read(-1)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            same(heard, sent)

        await self.exchange(kind, talk)

    async def kept(self, kind: str) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(50):
                sent = os.urandom(64)
                writer.write(sent)
                same(await reader.readexactly(64), sent)
                await asyncio.sleep(0.002)

        await self.exchange(kind, talk)

    async def one_question(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sent = os.urandom(64)
        writer.write(sent)
        same(await reader.readexactly(64), sent)

    async def single(self, kind: str) -> None:
        await self.exchange(kind, self.one_question)
        await asyncio.sleep(0.002)

    async def half_closed(self, kind: str) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sent = os.urandom(20_000)
            writer.write(sent)
            writer.write_eof()
            same(await reader.read(-1), sent)

        await self.exchange(kind, talk)
        await asyncio.sleep(0.005)

    async def datagrams(self, kind: str, questions: int = 30) -> None:
        """Some questions of one client."""
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        class Hearing(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                heard.put_nowait(data)

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Hearing, remote_addr=(self.udp, 80)
        )
        server = ""
        for _ in range(questions):
            start, sent = time.monotonic(), os.urandom(32)
            transport.sendto(sent)
            try:
                async with asyncio.timeout(UDP_PATIENCE):
                    while (data := await heard.get())[NAME_BYTES:] != sent:
                        pass  # the answer to a question that was given up
                server = data[:NAME_BYTES].decode()
                self.done[kind] += 1
            except TimeoutError as error:
                self.failed(kind, start, server, error)
            await asyncio.sleep(0.003)
        transport.close()


def same(heard: bytes, sent: bytes) -> None:
    if heard != sent and sent.startswith(heard):
        raise EOFError(f"cut off after {len(heard)} of {len(sent)} bytes")
    if heard != sent:
        raise Mismatch(f"{len(heard)} bytes that are not the {len(sent)} sent")


if __name__ == "__main__":
    if sys.argv[1] == "endpoint":
        asyncio.run(serve(int(sys.argv[2]), sys.argv[3].encode().ljust(NAME_BYTES)))
    else:
        asyncio.run(Clients(sys.argv[2], sys.argv[3], float(sys.argv[4])).run())
