"""Streams that pass through: logs and shells from the node API, HTTP of pods, services, nodes.

The API server adds nothing to what flows: it finds the other end, and hands bytes on at the pace
of the slower side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import aiohttp
import msgspec
from aiohttp import WSMsgType, web
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict
from yarl import URL

from k8slite.api.errors import (
    ApiError,
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    from_status,
)
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.meta import Status
from k8slite.api.paths import Target
from k8slite.pki.files import Pki
from k8slite.roles.apiserver.answers import Ready
from k8slite.roles.apiserver.backends import Backend, Backends
from k8slite.roles.apiserver.ongoing import Ongoing
from k8slite.roles.apiserver.watching import Chunks

#: Seconds to reach the other end.
CONNECT_TIMEOUT = 10.0

#: The largest WebSocket message that is passed on, in bytes.
MAX_MESSAGE = 1 << 22

#: The protocols of a shell, best first (k8s.io/apimachinery/pkg/util/remotecommand).
EXEC_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_LOG_OPTIONS = (
    "follow", "previous", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "limitBytes",
)  # fmt: skip
_EXEC_OPTIONS = ("command", "stdin", "stdout", "stderr", "tty")

_HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
#: What a client says to us is not for the other end.
_OURS = frozenset(("host", "authorization", "content-length", "sec-websocket-key",
                   "sec-websocket-version", "sec-websocket-extensions",
                   "sec-websocket-protocol"))  # fmt: skip


class Streams:
    """pods/log, pods/exec, and the proxies."""

    def __init__(self, backends: Backends, pki: Pki, ongoing: Ongoing) -> None:
        self._backends = backends
        self._pki = pki
        self._ongoing = ongoing
        self._session: aiohttp.ClientSession | None = None
        self._node_tls: Any = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """While inside, streams can be made."""
        self._node_tls = self._pki.client_context("apiserver")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=connector, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent", "Accept"),
        ) as session:  # fmt: skip
            self._session = session
            try:
                yield
            finally:
                self._session = None

    async def serve(self, request: BaseRequest, target: Target) -> web.StreamResponse:
        """Answer a request for a stream. Raises ApiError before the first byte only."""
        match target.subresource:
            case "log":
                return await self._log(request, target)
            case "exec":
                return await self._exec(request, target)
            case "proxy":
                return await self._proxy(request, target)
        raise NotFound(f"the server could not find the requested resource {target.path[:200]}")

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Unavailable("the server is ending", retry_after=1)
        return self._session

    # -- logs and shells ---------------------------------------------------------------------

    async def _log(self, request: BaseRequest, target: Target) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not served for logs")
        pod, container = self._backends.container(target)
        options = [(name, target.query.text(name)) for name in _LOG_OPTIONS if name in target.query]
        node = self._backends.node_of(pod)
        url = f"{node}/containerLogs/{_place(pod, container)}?{urlencode(options)}"
        async with self._reached(request.method, url, ssl=self._node_tls) as response:
            if response.status != 200:
                raise await _error_of(response)
            if request.method == "HEAD":
                return Ready(content_type="text/plain")
            chunks = Chunks(request, "text/plain; charset=utf-8")
            try:
                async with self._ongoing.until(request):
                    async for piece in response.content.iter_any():
                        chunks.send(piece)
                        await chunks.drain()
            except TimeoutError:
                pass
            except aiohttp.ClientError:
                chunks.drop()  # cut short: the client must not take it for the end of the log
            return chunks

    @asynccontextmanager
    async def _reached(
        self, method: str, url: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose head has arrived. Raises Unavailable when nothing answers."""
        try:
            response = await self._client.request(
                method, URL(url, encoded=True), allow_redirects=False, **options
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(url, error) from None
        try:
            yield response
        finally:
            response.close()

    async def _exec(self, request: BaseRequest, target: Target) -> web.StreamResponse:
        if not target.query.get("command"):
            raise BadRequest("you must specify at least 1 command for the container")
        _require_websocket(request)
        pod, container = self._backends.container(target)
        options = [(name, value) for name in _EXEC_OPTIONS for value in target.query.get(name, ())]
        url = f"{self._backends.node_of(pod)}/exec/{_place(pod, container)}?{urlencode(options)}"
        offered = _protocols(request)
        usable = [name for name in EXEC_PROTOCOLS if name in offered]
        if not usable:
            raise BadRequest(
                f"a shell speaks {' or '.join(EXEC_PROTOCOLS)}; the client offered "
                f"{', '.join(offered)[:200] or 'nothing'}"
            )
        return await self._relay(request, url, usable, {}, self._node_tls)

    async def _relay(
        self,
        request: BaseRequest,
        url: str,
        protocols: list[str],
        headers: Any,
        tls: Any,
    ) -> web.StreamResponse:
        """A WebSocket from end to end."""
        try:
            far = await self._client.ws_connect(
                URL(url, encoded=True), protocols=protocols, headers=headers, ssl=tls,
                max_msg_size=MAX_MESSAGE, autoclose=False,
            )  # fmt: skip
        except aiohttp.WSServerHandshakeError as error:
            raise await self._refusal(url, headers, tls, error) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(url, error) from None
        try:
            chosen = (far.protocol,) if far.protocol else ()
            near = web.WebSocketResponse(
                protocols=chosen, max_msg_size=MAX_MESSAGE, autoclose=False
            )
            await near.prepare(request)
            try:
                async with self._ongoing.until(request):
                    await _both_ways(near, far)
            except TimeoutError:
                pass
            await near.close(code=far.close_code or 1000)
            return near
        finally:
            await far.close()

    async def _refusal(
        self, url: str, headers: Any, tls: Any, error: aiohttp.WSServerHandshakeError
    ) -> ApiError:
        """Why there is no WebSocket. aiohttp drops the answer that says so: ask again, without
        an upgrade, so that nothing can begin by it."""
        try:
            async with self._client.get(
                URL(url, encoded=True), headers=headers, ssl=tls, allow_redirects=False
            ) as response:
                if response.status == error.status:
                    return await _error_of(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as lost:
            return _unreachable(url, lost)
        return _coded(error.status, f"the other end refused the stream: {error.message}")

    # -- proxies -----------------------------------------------------------------------------

    async def _proxy(self, request: BaseRequest, target: Target) -> web.StreamResponse:
        backend = self._backends.of(target)
        if not target.rest and request.method in ("GET", "HEAD"):
            query = f"?{target.raw_query}" if target.raw_query else ""
            location = f"{request.raw_path.partition('?')[0]}/{query}"
            return Ready(status=301, headers=(("Location", location),))
        path = target.rest or "/"
        query = f"?{target.raw_query}" if target.raw_query else ""
        url = f"{backend.url}{path}{query}"
        tls = self._node_tls if backend.node else False
        headers = _onward(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay(request, url, _protocols(request), headers, tls)
        body = request.content if request.body_exists else None
        async with self._reached(
            request.method, url, headers=headers, data=body, ssl=tls
        ) as response:
            return await self._pass_on(request, target, backend, response)

    async def _pass_on(
        self,
        request: BaseRequest,
        target: Target,
        backend: Backend,
        response: aiohttp.ClientResponse,
    ) -> web.StreamResponse:
        answer = web.StreamResponse(status=response.status, reason=response.reason)
        for name, value in response.headers.items():
            if name.lower() in _HOP_BY_HOP:
                continue
            if name.lower() == "location":
                value = relocated(value, backend.url, _prefix(request, target))
            answer.headers.add(name, value)
        try:
            await answer.prepare(request)
            if request.method == "HEAD":
                return answer
            async with self._ongoing.until(request):
                async for piece in response.content.iter_any():
                    await answer.write(piece)
        except TimeoutError:
            answer.force_close()
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()  # what was sent is not the whole
        return answer


async def _both_ways(near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse) -> None:
    """Pass messages on until either side closes."""
    tasks = [
        asyncio.create_task(_one_way(near, far), name="stream-to-backend"),
        asyncio.create_task(_one_way(far, near), name="stream-to-client"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one_way(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    try:
        while True:
            message = await source.receive()
            if message.type is WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
            else:
                return
    except ConnectionError:
        return


def _require_websocket(request: BaseRequest) -> None:
    upgrade = request.headers.get("Upgrade", "").lower()
    if upgrade.startswith("spdy"):
        raise BadRequest(
            "streams are served over WebSocket, not SPDY: use kubectl 1.31 or newer, or k8slite ctl"
        )
    if upgrade != "websocket" or request.method != "GET":
        raise BadRequest("Upgrade request required: a shell is a WebSocket")


def _protocols(request: BaseRequest) -> list[str]:
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    return [name.strip() for name in offered if name.strip()]


def _place(pod: Pod, container: str) -> str:
    meta = pod.metadata
    return f"{quote(meta.namespace, safe='')}/{quote(meta.name, safe='')}/{quote(container)}"


def _onward(request: BaseRequest) -> CIMultiDict[str]:
    """The headers for the other end."""
    listed = {name.strip().lower() for name in request.headers.get("Connection", "").split(",")}
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in _HOP_BY_HOP or lower in _OURS or lower in listed:
            continue
        headers.add(name, value)
    if request.remote:
        headers.add("X-Forwarded-For", request.remote)
    return headers


def _prefix(request: BaseRequest, target: Target) -> str:
    """The path of the proxied object as the client wrote it, no slash at the end."""
    path = request.raw_path.partition("?")[0]
    return path.removesuffix(target.rest) if target.rest else path


def relocated(location: str, backend: str, prefix: str) -> str:
    """A redirection of the backend as the proxy's client must follow it."""
    parts = urlsplit(location)
    own = urlsplit(backend)
    if parts.netloc and parts.netloc not in (own.netloc, own.hostname):
        return location
    if not parts.netloc and not parts.path.startswith("/"):
        return location  # relative to where it stands
    return urlunsplit(("", "", f"{prefix}{parts.path or '/'}", parts.query, parts.fragment))


def _unreachable(url: str, error: BaseException) -> Unavailable:
    return Unavailable(
        f"error trying to reach {url.partition('?')[0]}: {error or type(error).__name__}"
    )


async def _error_of(response: aiohttp.ClientResponse) -> ApiError:
    """The node's answer as an error of ours."""
    body = await response.content.read(1 << 16)
    try:
        return from_status(msgspec.json.decode(body, type=Status))
    except msgspec.MsgspecError:
        text = body.decode("utf-8", "replace").strip() or f"the node answered {response.status}"
    return _coded(response.status, text)


def _coded(code: int, text: str) -> ApiError:
    """An error with somebody else's code; 401 and the like between us are not the client's."""
    reasons = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 503: "ServiceUnavailable"}
    error = ApiError(text)
    error.code = code if code in reasons else 502
    error.reason = reasons.get(code, "BadGateway")
    return error
