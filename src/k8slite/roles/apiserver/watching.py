"""Watches: one request that goes on, as chunked JSON lines or over a WebSocket.

The beginning (initial objects, or history since a version) is sent at the client's pace; then the
watcher goes live and the fan-out writes into its socket. A client that does not read is dropped
when ``BACKLOG`` bytes wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from k8slite.api import codec
from k8slite.api.errors import ApiError, BadRequest, Expired, UnknownOutcome
from k8slite.api.paths import Target
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.fanout import Fanout, KindFanout, Watcher
from k8slite.roles.apiserver.forms import Form, event
from k8slite.roles.apiserver.ongoing import Ongoing
from k8slite.roles.apiserver.selection import Selection
from k8slite.store.cache import WatchCache
from k8slite.store.entry import Entry

log = structlog.get_logger()

#: Bytes that may wait for a watcher beyond what the kernel holds.
BACKLOG = 1 << 20

#: Seconds between bookmarks, which are also a watch's sign of life (``client.http.SILENCE``), and
#: how long a version from the future is waited for.
BOOKMARK_EVERY = 10.0
FUTURE_WAIT = 3.0

#: A watch without timeoutSeconds ends after one to two times this, so that clients spread out.
MIN_TIMEOUT = 1800.0

#: Seconds that a WebSocket's last events may take on their way out.
LAST_WORDS = 5.0

_PIECE = 1 << 17


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch was asked to be. ``start`` None: begin with the objects that are there."""

    selection: Selection
    start: int | None
    initial: bool
    initial_end: bool
    bookmarks: bool
    timeout: float | None

    @classmethod
    def of(cls, target: Target) -> WatchOptions:
        """Raises BadRequest."""
        query = target.query
        version = parse_version(query.text("resourceVersion"))
        match = query.text("resourceVersionMatch")
        asked = query.maybe_flag("sendInitialEvents")
        if match and asked is None:
            raise BadRequest(
                "resourceVersionMatch is forbidden for watch without sendInitialEvents"
            )
        if asked is not None and match != "NotOlderThan":
            raise BadRequest("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
        seconds = query.number("timeoutSeconds", maximum=2**31)
        return cls(
            selection=Selection.of(target),
            start=version or None,
            initial=asked if asked is not None else not version,
            initial_end=asked is True,
            bookmarks=query.flag("allowWatchBookmarks"),
            timeout=float(seconds) if seconds else None,
        )


def parse_version(text: str) -> int:
    """A resourceVersion of a query; 0 for "" and "0". Raises BadRequest."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise BadRequest(f'resourceVersion: "{text[:40]}" is not a whole number')
    return int(text)


class Sink(Protocol):
    """Where a watcher's bytes go."""

    def send(self, data: bytes) -> bool:
        """Take whole lines at once; False when too much waits already."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read most of what was sent."""
        ...

    def drop(self) -> None:
        """Cut the connection."""
        ...


class Chunks(web.StreamResponse):
    """A chunked answer that bypasses aiohttp's per-write work; a ``Sink``."""

    def __init__(self, request: BaseRequest, content_type: str = "application/json") -> None:
        self._writer = request._payload_writer
        self._chunked = request.version >= (1, 1)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport = transport
        framing = "Transfer-Encoding: chunked" if self._chunked else "Connection: close"
        transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"
            b"Cache-Control: no-cache, private\r\n%b\r\n\r\n"
            % (content_type.encode(), framing.encode())
        )

    @property
    def status(self) -> int:
        return 200

    @property
    def keep_alive(self) -> bool | None:
        return self._chunked

    def send(self, data: bytes) -> bool:
        transport = self._transport
        if transport.is_closing():
            return True  # the end of the connection ends the watch
        if transport.get_write_buffer_size() > BACKLOG:
            return False
        if self._chunked:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            transport.write(data)
        return True

    async def drain(self) -> None:
        await self._writer.drain()

    def drop(self) -> None:
        self._transport.abort()

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        if self._chunked and not self._transport.is_closing():
            self._transport.write(b"0\r\n\r\n")


class Frames:
    """A WebSocket ``Sink``: a text frame for every line, from a bounded queue."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()

    def send(self, data: bytes) -> bool:
        if self._size > BACKLOG:
            return False
        self._queue.append(data)
        self._size += len(data)
        self._empty.clear()
        self._arrived.set()
        return True

    async def drain(self) -> None:
        if self._queue:
            await self._empty.wait()

    def drop(self) -> None:
        self._transport.abort()

    async def run(self) -> None:
        """Send what is queued until cancelled."""
        while True:
            while self._queue:
                data = self._queue.popleft()
                for line in data.splitlines():
                    await self._socket.send_str(line.decode())
                self._size -= len(data)
            self._empty.set()
            self._arrived.clear()
            await self._arrived.wait()


class Watches:
    """Every watch of the server: opens them, keeps them company, ends them."""

    def __init__(self, cache: WatchCache, clock: Clock, ongoing: Ongoing) -> None:
        self.fanout = Fanout(cache, clock)
        self._cache = cache
        self._clock = clock
        self._ongoing = ongoing
        self.dropped = 0

    async def run(self) -> None:
        """Send bookmarks until cancelled."""
        while True:
            await self._clock.sleep(BOOKMARK_EVERY)
            for _ in self.fanout.bookmarks():
                await self._clock.sleep(0)

    async def serve(self, request: BaseRequest, target: Target, form: Form) -> web.StreamResponse:
        """Answer one watch request. Raises ApiError before the first byte only."""
        options = WatchOptions.of(target)
        await self._reach(options)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._over_websocket(request, options, form)
        stream = Chunks(request)
        await self._watch(request, stream, options, form, _never)
        return stream

    async def _over_websocket(
        self, request: BaseRequest, options: WatchOptions, form: Form
    ) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 16)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        frames = Frames(socket, transport)

        async def closed() -> None:
            while (await socket.receive()).type not in (
                WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR,
            ):  # fmt: skip
                pass

        sender = asyncio.create_task(frames.run(), name="watch-websocket")
        try:
            await self._watch(request, frames, options, form, closed)
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await frames.drain()
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        await socket.close()
        return socket

    async def _reach(self, options: WatchOptions) -> None:
        if options.start is not None:
            await reach(self._cache, options.start)

    async def _watch(
        self,
        request: BaseRequest,
        sink: Sink,
        options: WatchOptions,
        form: Form,
        closed: Callable[[], Awaitable[None]],
    ) -> None:
        """The life of a watch, from the first byte to its timeout."""
        seconds = options.timeout or MIN_TIMEOUT * (1 + self._clock.rng.random())
        fanout = self.fanout.of(options.selection.kind)
        watcher: Watcher | None = None

        def drop() -> None:
            self.dropped += 1
            log.warning(
                "watcher dropped: it reads too slowly",
                kind=options.selection.kind.plural,
                namespace=options.selection.namespace,
            )
            sink.drop()

        try:
            async with self._ongoing.until(request, seconds):
                watcher = fanout.join(options.selection, form, sink.send, drop)
                await self._begin(sink, watcher, fanout, options, form)
                await closed()
        except TimeoutError:
            if watcher is not None and watcher.live and options.bookmarks:
                fanout.flush()
                watcher.offer(watcher.group.bookmark(self._cache.revision))
        except Expired as error:
            sink.send(error_line(error))
        finally:
            if watcher is not None:
                fanout.leave(watcher)

    async def _begin(
        self,
        sink: Sink,
        watcher: Watcher,
        fanout: KindFanout,
        options: WatchOptions,
        form: Form,
    ) -> None:
        """Send what lies before the present, then let the watcher go live."""
        revision = self._cache.revision
        watcher.bookmarks = options.bookmarks
        if options.initial:
            entries = tuple(
                self._cache.table(options.selection.kind).entries(options.selection.namespace)
            )
            await self._send(sink, self._initial(entries, watcher, form))
        elif options.start is not None:
            await self._send(sink, map(watcher.group.write_one, fanout.since(options.start)))
        if options.initial_end:
            await self._send(sink, (watcher.group.bookmark(revision, initial_end=True),))
        while data := watcher.take_pending():
            await self._send(sink, (data,))

    def _initial(
        self, entries: Iterable[Entry[Any]], watcher: Watcher, form: Form
    ) -> Iterator[bytes]:
        selection, now = watcher.group.selection, self._clock.now()
        for entry in entries:
            if selection.matches(entry):
                yield event("ADDED", entry, form, now)

    async def _send(self, sink: Sink, lines: Iterable[bytes]) -> None:
        """Send lines in pieces of a moderate size, at the pace of the client."""
        batch: list[bytes] = []
        size = 0
        for number, line in enumerate(lines, 1):
            batch.append(line)
            size += len(line)
            if size >= _PIECE:
                sink.send(b"".join(batch))
                await sink.drain()
                batch, size = [], 0
            if number % 256 == 0:
                await self._clock.sleep(0)
        if size:
            sink.send(b"".join(batch))
            await sink.drain()


async def reach(cache: WatchCache, revision: int) -> None:
    """Wait until ``cache`` has seen ``revision``. Raises UnknownOutcome when it does not."""
    if revision <= cache.revision:
        return
    try:
        async with asyncio.timeout(FUTURE_WAIT):
            await cache.wait_for(revision)
    except TimeoutError:
        raise UnknownOutcome(
            f"Too large resource version: {revision}, current: {cache.revision}", retry_after=1
        ) from None


def error_line(error: ApiError) -> bytes:
    """An ERROR event."""
    return codec.encode({"type": "ERROR", "object": error.status()}) + b"\n"


async def _never() -> None:
    await asyncio.get_running_loop().create_future()
