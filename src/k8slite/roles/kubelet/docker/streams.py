"""Commands and logs on Docker: bytes pass as they are, never decoded."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from types import TracebackType

from aiodocker import Docker
from aiodocker.execs import Exec
from aiodocker.stream import Stream
from aiohttp import ClientResponse, ClientTimeout

from k8slite.roles.kubelet.docker.engine import answer
from k8slite.roles.kubelet.runtime import ExecSession, LogOptions, NoSuchContainer, RuntimeFailure

_FRAME = struct.Struct(">BxxxL")  # stream number, length
_UNLIMITED = ClientTimeout(total=None, sock_read=None)


class DockerExec:
    """A command in a running container, with its streams."""

    def __init__(
        self,
        docker: Docker,
        id: str,
        command: tuple[str, ...],
        *,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
        tty: bool = False,
    ) -> None:
        self._docker = docker
        self._id = id
        self._command = command
        self._stdin, self._stdout, self._stderr, self._tty = stdin, stdout, stderr, tty
        self._exec: Exec | None = None
        self._stream: Stream | None = None

    async def __aenter__(self) -> ExecSession:
        container = self._docker.containers.container(self._id)
        self._exec = await answer(
            container.exec(
                self._command,
                stdin=self._stdin,
                stdout=self._stdout,
                stderr=self._stderr,
                tty=self._tty,
            )
        )
        self._stream = self._exec.start(detach=False)
        await answer(self._stream.__aenter__())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            await self._stream.close()

    async def read(self) -> tuple[int, bytes] | None:
        assert self._stream is not None
        message = await self._stream.read_out()
        return None if message is None else (message.stream, message.data)

    async def write(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.write_in(data)

    async def close_input(self) -> None:
        """Half-close: the command reads the end of its input, its output stays open."""
        assert self._stream is not None
        response = self._stream._resp
        if response is not None and response.connection is not None:
            transport = response.connection.transport
            if transport is not None and transport.can_write_eof():
                transport.write_eof()

    async def resize(self, width: int, height: int) -> None:
        if self._exec is not None:
            await self._exec.resize(h=height, w=width)

    async def exit_code(self) -> int:
        assert self._exec is not None
        return int((await self._exec.inspect())["ExitCode"] or 0)


async def container_logs(docker: Docker, id: str, options: LogOptions) -> AsyncIterator[bytes]:
    """Output and error of a container in the order that it wrote them."""
    data = await answer(docker.containers.container(id).show())
    params = {
        "stdout": "1",
        "stderr": "1",
        "follow": "1" if options.follow else "0",
        "timestamps": "1" if options.timestamps else "0",
        "tail": "all" if options.tail is None else str(options.tail),
        "since": f"{options.since:.9f}" if options.since else "0",
    }
    url = f"{docker.docker_host}/{docker.api_version}/containers/{id}/logs"
    async with docker.session.get(url, params=params, timeout=_UNLIMITED) as response:
        if response.status == 404:
            raise NoSuchContainer(f"container {id[:12]} is gone")
        if response.status >= 400:
            raise RuntimeFailure(" ".join((await response.text()).split()))
        pieces = response.content.iter_any() if data["Config"]["Tty"] else _frames(response)
        async for piece in pieces:
            yield piece


async def _frames(response: ClientResponse) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for piece in response.content.iter_any():
        pending += piece
        while len(pending) >= _FRAME.size:
            _, length = _FRAME.unpack_from(pending)
            end = _FRAME.size + length
            if len(pending) < end:
                break
            yield bytes(pending[_FRAME.size : end])
            del pending[:end]
