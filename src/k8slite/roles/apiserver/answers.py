"""Answers: bytes that exist already, sent with one write.

aiohttp's own ``Response`` builds a multidict of headers for every answer; a third of the time of
a GET went there. ``Ready`` writes the head and the body of an answer that is known in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from k8slite.api import codec
from k8slite.api.errors import ApiError
from k8slite.api.meta import Status

JSON = "application/json"

#: Bodies are sent in pieces of about this many bytes, with a pause for others between them.
PIECE = 1 << 18

_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Ready(web.StreamResponse):
    """An answer whose body is a list of byte strings, sent as they are.

    ``headers`` is a tuple of further ``(name, value)`` pairs; values must be clean text.
    """

    def __init__(  # the parent builds what is not needed here
        self,
        body: bytes | Sequence[bytes] = b"",
        *,
        status: int = 200,
        content_type: str = JSON,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._status = status
        self._pieces = (body,) if isinstance(body, bytes) else body
        self._type = content_type
        self._extra = headers
        self._keeps = True
        self._writer: AbstractStreamWriter | None = None
        self._no_body = False

    @property
    def status(self) -> int:
        return self._status

    @property
    def keep_alive(self) -> bool | None:
        return self._keeps

    @property
    def prepared(self) -> bool:
        return self._writer is not None

    def close_after(self) -> None:
        """End the connection behind this answer."""
        self._keeps = False

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        if self._keeps:
            self._keeps = request.keep_alive
        self._no_body = request.method == "HEAD" or self._status in (204, 304)
        self._writer = request._payload_writer
        self._transport = request.transport
        self._http10 = request.version < (1, 1)
        return self._writer

    def _head(self, length: int) -> bytes:
        lines = [
            f"HTTP/1.1 {_LINES.get(self._status) or f'{self._status} Unknown'}",
            f"Content-Type: {self._type}",
            "Cache-Control: no-cache, private",
        ]
        if self._status != 204:
            lines.append(f"Content-Length: {length}")
        if not self._keeps:
            lines.append("Connection: close")
        elif self._http10:
            lines.append("Connection: keep-alive")
        lines += [f"{name}: {value}" for name, value in self._extra]
        lines.append("\r\n")
        return "\r\n".join(lines).encode("utf-8")

    async def write_eof(self, data: bytes = b"") -> None:
        writer = self._writer
        assert writer is not None
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        pieces = self._pieces
        length = sum(map(len, pieces))
        head = self._head(length)
        if self._no_body:
            transport.write(head)
        elif length < PIECE:
            transport.write(b"".join((head, *pieces)))
        else:
            transport.write(head)
            await self._send_long(transport, writer)

    async def _send_long(self, transport: asyncio.Transport, writer: AbstractStreamWriter) -> None:
        batch: list[bytes] = []
        size = 0
        for piece in self._pieces:
            batch.append(piece)
            size += len(piece)
            if size >= PIECE:
                transport.write(b"".join(batch))
                await writer.drain()
                batch.clear()
                size = 0
        transport.write(b"".join(batch))
        await writer.drain()


def of_object(
    data: Any,
    *,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
    content_type: str = JSON,
) -> Ready:
    """A struct or plain value as JSON."""
    return Ready(codec.encode(data), status=status, headers=headers, content_type=content_type)


def of_status(status: Status, *, headers: tuple[tuple[str, str], ...] = ()) -> Ready:
    try:
        body = codec.encode(status)
    except UnicodeEncodeError:  # the message quotes bytes of the request that are no text
        clean = status.message.encode("utf-8", "replace").decode()
        body = codec.encode(msgspec.structs.replace(status, message=clean))
    return Ready(body, status=status.code, headers=headers)


def of_error(error: ApiError) -> Ready:
    """The Status of an error, with Retry-After and WWW-Authenticate where they belong."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after:
        headers += (("Retry-After", str(error.retry_after)),)
    elif error.code == 429:
        headers += (("Retry-After", "1"),)
    if error.code == 401:
        headers += (("WWW-Authenticate", 'Bearer realm="k8slite"'),)
    return of_status(error.status(), headers=headers)


def of_text(text: str, *, status: int = 200) -> Ready:
    """One line for people."""
    return Ready(text.encode(), status=status, content_type="text/plain; charset=utf-8")


def warning_header(text: str) -> tuple[str, str]:
    """RFC 7234's Warning header as the API uses it: code 299 and a quoted text of one line."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
    return ("Warning", f'299 - "{quoted[:2000]}"')
