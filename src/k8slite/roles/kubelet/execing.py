"""Commands over a WebSocket: the channel protocols of Kubernetes.

Each message begins with a byte that names its channel: 0 input, 1 output, 2 errors, 3 the verdict
(a Status in JSON), 4 the size of the terminal. Version 5 adds 255: the channel that follows ends.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import msgspec
from aiohttp import WSMsgType, web

from k8slite.api.meta import Status, StatusCause, StatusDetails
from k8slite.roles.kubelet.runtime import ExecSession, Runtime, RuntimeFailure

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, VERDICT, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


@dataclass(frozen=True, slots=True)
class ExecRequest:
    container: str  # its id
    command: tuple[str, ...]
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


async def serve_exec(
    request: web.Request, runtime: Runtime, wish: ExecRequest
) -> web.StreamResponse:
    """Run the command, its streams on the socket; ends when the command does."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=30)
    await socket.prepare(request)
    try:
        session = runtime.exec_session(
            wish.container,
            wish.command,
            stdin=wish.stdin,
            stdout=wish.stdout,
            stderr=wish.stderr and not wish.tty,
            tty=wish.tty,
        )
        async with session:
            reader = asyncio.create_task(_inward(socket, session), name="exec-input")
            try:
                await _outward(socket, session)
            finally:
                reader.cancel()
                await asyncio.wait({reader})
            verdict = ended(await session.exit_code())
    except RuntimeFailure as error:
        verdict = Status(message=str(error), reason="InternalError", code=500)
    except ConnectionError:
        return socket  # the client left
    if not socket.closed:
        await socket.send_bytes(bytes((VERDICT,)) + msgspec.json.encode(verdict))
        await socket.close()
    return socket


def ended(code: int) -> Status:
    """The verdict on a command that ended with ``code``."""
    if code == 0:
        return Status(status="Success", code=200)
    return Status(
        message=f"command terminated with non-zero exit code: exit status {code}",
        reason="NonZeroExitCode",
        details=StatusDetails(causes=(StatusCause(reason="ExitCode", message=str(code)),)),
        code=500,
    )


async def _outward(socket: web.WebSocketResponse, session: ExecSession) -> None:
    while (piece := await session.read()) is not None:
        stream, data = piece
        channel = STDERR if stream == 2 else STDOUT
        await socket.send_bytes(bytes((channel,)) + data)


async def _inward(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Input, sizes and closings, until the client has no more to say."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            data = message.data.encode()
        elif message.type is WSMsgType.BINARY:
            data = message.data
        else:
            continue
        if not data:
            continue
        channel, payload = data[0], data[1:]
        if channel == STDIN and payload:
            await session.write(payload)
        elif channel == RESIZE:
            width, height = _size(payload)
            if width and height:
                await session.resize(width, height)
        elif channel == CLOSE and payload[:1] == bytes((STDIN,)):
            await session.close_input()


def _size(payload: bytes) -> tuple[int, int]:
    try:
        size = json.loads(payload)
        return int(size.get("Width", 0)), int(size.get("Height", 0))
    except (ValueError, AttributeError, TypeError):
        return 0, 0
