"""exec over a WebSocket: the channel protocol of Kubernetes (v5 and v4.channel.k8s.io).

Every message begins with one byte that names its channel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec

from k8slite.api.errors import Unavailable, from_status
from k8slite.api.meta import Status
from k8slite.client.http import HttpClient, Query

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255

_V5 = "v5.channel.k8s.io"
_PROTOCOLS = (_V5, "v4.channel.k8s.io")


@dataclass(slots=True)
class ExecStream:
    """One command that runs in a container."""

    socket: aiohttp.ClientWebSocketResponse
    #: How the command ended; None until the server said so.
    outcome: Status | None = None

    async def send(self, data: bytes) -> None:
        """To the command's standard input."""
        await self.socket.send_bytes(bytes((STDIN,)) + data)

    async def end_input(self) -> None:
        """The command's input ends here; only v5 can say so."""
        if self.socket.protocol == _V5:
            await self.socket.send_bytes(bytes((CLOSE, STDIN)))

    async def resize(self, columns: int, rows: int) -> None:
        size = msgspec.json.encode({"Width": columns, "Height": rows})
        await self.socket.send_bytes(bytes((RESIZE,)) + size)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """``(STDOUT or STDERR, bytes)`` until the command ends."""
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == ERROR:
                self.outcome = msgspec.json.decode(data, type=Status)
            elif channel in (STDOUT, STDERR) and data:
                yield channel, data

    def exit_code(self) -> int:
        """The command's exit code. Raises ApiError when it could not be run or got lost."""
        if self.outcome is None:
            raise Unavailable("the connection ended before the command did; it may still run")
        if self.outcome.status == "Success":
            return 0
        details = self.outcome.details
        for cause in details.causes if details else ():
            if cause.reason == "ExitCode" and cause.message.lstrip("-").isdigit():
                return int(cause.message)
        raise from_status(self.outcome)


@asynccontextmanager
async def exec_stream(client: HttpClient, path: str, query: Query) -> AsyncIterator[ExecStream]:
    """Run a command in a container. Raises ApiError when it is refused."""
    async with client.upgrade(path, query, _PROTOCOLS) as socket:
        yield ExecStream(socket)
