"""The client over HTTP: ``client.base.Client``, and the plain requests under it.

What cannot be known is not guessed: a read without an answer is Unavailable, a write without one
is an UnknownOutcome. Nothing is retried here.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from k8slite.api import codec, fields
from k8slite.api.errors import ApiError, Unavailable, UnknownOutcome, from_status
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.binding.types import Binding, ObjectReference
from k8slite.api.meta import DeleteOptions, ListMeta, Object, ObjectMeta, Preconditions, Status
from k8slite.api.scheme import Kind
from k8slite.api.struct import Struct, always
from k8slite.client.access import Access
from k8slite.client.base import Listing, WatchEvent

T = TypeVar("T", bound=Object)

Query = Iterable[tuple[str, str]]

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

#: One event or log line longer than this is refused rather than kept in memory.
MAX_LINE = 16 * 1024 * 1024
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A success. ``warnings`` are the server's Warning headers, as sentences."""

    status: int
    body: bytes
    warnings: tuple[str, ...] = ()

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class _ListOf(Struct, Generic[T]):
    metadata: ListMeta = always(ListMeta())
    items: tuple[T, ...] = ()


class _Frame(Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


def path_of(
    kind: Kind[Any],
    namespace: str = "",
    name: str = "",
    subresource: str = "",
    *,
    version: str = "",
) -> str:
    """``/api/v1/namespaces/default/pods/a/log``; ``version`` other than the kind's for v1beta3."""
    version = version or kind.version
    parts = ["apis", kind.group, version] if kind.group else ["api", version]
    if kind.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (kind.plural, name, *subresource.split("/")) if part]
    return "/" + "/".join(quote(part, safe=":") for part in parts)


class HttpClient:
    """Requests to one server; use it as a context manager. ``timeout`` in seconds, per answer."""

    def __init__(self, access: Access | str, *, timeout: float = 60.0) -> None:
        self.access = Access(server=access) if isinstance(access, str) else access
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpClient:
        self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"User-Agent": "k8slite"}
            if authorization := self.access.authorization():
                headers["Authorization"] = authorization
            tls = self.access.tls()
            connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=headers, auto_decompress=True, trust_env=False
            )
            # aiohttp would repeat a PUT or DELETE whose answer was lost: a write that happened
            # would then be reported as a conflict or as not found.
            self._session._retry_connection = False
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    # --- plain requests ----------------------------------------------------------------------

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        headers: Mapping[str, str] | None = None,
        endless: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response whose body is still to be read. Raises ApiError."""
        read = method in ("GET", "HEAD")
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=_CONNECT_SECONDS,
            sock_read=None if endless else self._timeout,
        )
        sent = {"Accept": accept, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = content_type
        try:
            async with self._open().request(
                method, self.url(path, query), data=body, headers=sent, timeout=timeout,
                server_hostname=self.access.tls_name or None,
            ) as response:  # fmt: skip
                if response.status >= 400:
                    raise _error(response, await response.read())
                yield response
        except aiohttp.ClientError as error:
            raise self._lost(error, read=read, method=method, path=path) from None
        except TimeoutError:
            raise self._silent(read, method, path) from None

    def url(self, path: str, query: Query = ()) -> URL:
        pairs = list(query)
        tail = f"?{urlencode(pairs)}" if pairs else ""
        return URL(f"{self.access.url}{path}{tail}", encoded=True)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Answer:
        """One request, one answer. Raises ApiError."""
        async with self.open(
            method, path, query=query, body=body, content_type=content_type, accept=accept
        ) as response:
            warnings = tuple(map(_warning, response.headers.getall("Warning", ())))
            return Answer(response.status, await response.read(), warnings)

    async def pieces(self, path: str, query: Query = ()) -> AsyncIterator[bytes]:
        """The body of an endless GET (a followed log), piece by piece."""
        async with self.open("GET", path, query=query, accept="*/*", endless=True) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def lines(self, path: str, query: Query = ()) -> AsyncIterator[bytes]:
        """The lines of an endless GET (a watch)."""
        async with self.open("GET", path, query=query, endless=True) as response:
            rest = bytearray()
            async for piece in response.content.iter_any():
                *whole, tail = piece.split(b"\n")
                for line in whole:
                    rest += line
                    yield bytes(rest)
                    rest.clear()
                rest += tail
                if len(rest) > MAX_LINE:
                    raise Unavailable(f"{self.access.host} sent a line over {MAX_LINE} bytes")

    @asynccontextmanager
    async def upgrade(
        self, path: str, query: Query, protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket. Raises ApiError."""
        try:
            async with self._open().ws_connect(
                self.url(path, query), protocols=protocols, max_msg_size=MAX_LINE
            ) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            await self._ask_why(path, query, protocols)
            raise Unavailable(f"{self.access.host} speaks no WebSocket: {error.message}") from None
        except aiohttp.ClientError as error:
            raise self._lost(error, read=True, method="GET", path=path) from None

    async def _ask_why(self, path: str, query: Query, protocols: tuple[str, ...]) -> None:
        """Ask for a WebSocket once more as an ordinary request: aiohttp drops the answer in which
        the server says why there is none. Raises ApiError."""
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "azhzbGl0ZS1hc2tzLXdoeQ==",
            "Sec-WebSocket-Protocol": ", ".join(protocols),
        }
        async with self.open("GET", path, query=query, headers=headers) as response:
            response.close()

    def _lost(self, error: aiohttp.ClientError, *, read: bool, method: str, path: str) -> ApiError:
        host = self.access.host
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Unavailable(
                f"the certificate of {host} is not trusted: {error.certificate_error}; give its "
                "CA with --certificate-authority or in the kubeconfig"
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = getattr(error.os_error, "strerror", None) or str(error.os_error)
            if isinstance(error.os_error, ConnectionRefusedError):
                return Unavailable(
                    f"The connection to the server {host} was refused - did you specify the "
                    "right host or port?"
                )
            if isinstance(error, aiohttp.ClientConnectorSSLError) or isinstance(
                error.os_error, ssl.SSLError
            ):
                return Unavailable(f"no TLS with {host}: {reason}; is it an https server?")
            return Unavailable(
                f"Unable to connect to the server {host}: {reason} - did you specify the right "
                "host or port?"
            )
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return Unavailable(f"{self.access.server!r} is no server; write http://HOST:PORT")
        return self._silent(read, method, path)

    def _silent(self, read: bool, method: str, path: str) -> ApiError:
        host = self.access.host
        if read:
            hint = "" if self.access.url.startswith("https:") else ", as https:// if it is such"
            return Unavailable(f"{host} ended the connection without an answer; try again{hint}")
        return UnknownOutcome(
            f"{host} gave no answer to {method} {path}: it may or may not have happened; look "
            "before you try again"
        )

    # --- client.base.Client ------------------------------------------------------------------

    async def get(self, kind: Kind[T], name: str, namespace: str = "") -> T:
        answer = await self.request("GET", path_of(kind, namespace, name))
        return typed(kind, answer.body)

    async def list(
        self, kind: Kind[T], namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listing[T]:
        query = _selection(labels, fields)
        answer = await self.request("GET", path_of(kind, namespace), query=query)
        found = typed_list(kind, answer.body)
        return Listing(found.items, found.metadata.resource_version)

    async def watch(
        self,
        kind: Kind[T],
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        resource_version: str = "",
    ) -> AsyncIterator[WatchEvent[T]]:
        query = [("watch", "true"), ("allowWatchBookmarks", "true"), *_selection(labels, fields)]
        if resource_version:
            query.append(("resourceVersion", resource_version))
        async for line in self.lines(path_of(kind, namespace), query):
            frame = msgspec.json.decode(line, type=_Frame)
            if frame.type == "ERROR":
                raise from_status(msgspec.json.decode(frame.object, type=Status))
            yield WatchEvent(frame.type, typed(kind, bytes(frame.object)))

    async def create(self, obj: T) -> T:
        kind = SCHEME.of(obj)
        path = path_of(kind, obj.metadata.namespace)
        return typed(kind, (await self.request("POST", path, body=codec.encode(obj))).body)

    async def update(self, obj: T, *, subresource: str = "") -> T:
        kind = SCHEME.of(obj)
        meta = obj.metadata
        path = path_of(kind, meta.namespace, meta.name, subresource)
        return typed(kind, (await self.request("PUT", path, body=codec.encode(obj))).body)

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        namespace: str,
        patch: dict[str, Any],
        *,
        subresource: str = "",
    ) -> T:
        answer = await self.request(
            "PATCH",
            path_of(kind, namespace, name, subresource),
            body=codec.encode(patch),
            content_type=MERGE_PATCH,
        )
        return typed(kind, answer.body)

    async def delete(
        self,
        kind: Kind[T],
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
        propagation: str = "",
    ) -> None:
        options = DeleteOptions(
            grace_period_seconds=grace_seconds,
            preconditions=Preconditions(uid=uid) if uid else None,
            propagation_policy=propagation,
        )
        path = path_of(kind, namespace, name)
        await self.request("DELETE", path, body=codec.encode(options))

    async def bind(self, namespace: str, pod: str, node: str) -> None:
        binding = Binding(
            metadata=ObjectMeta(name=pod, namespace=namespace),
            target=ObjectReference(kind="Node", name=node),
        )
        kind = SCHEME.of(binding)
        await self.request("POST", path_of(kind, namespace), body=codec.encode(binding))

    async def finalize(self, obj: T) -> T:
        return await self.update(obj, subresource="finalize")

    async def heartbeat(self, node: str) -> None:
        path = f"/api/v1/nodes/{quote(node, safe='')}/heartbeat"
        await self.request("POST", path)


def _selection(labels: str, fields: str) -> list[tuple[str, str]]:
    pairs = (("labelSelector", labels), ("fieldSelector", fields))
    return [(key, value) for key, value in pairs if value]


def typed(kind: Kind[T], body: bytes) -> T:
    """An object of any server → our struct; what we do not know of it is left out."""
    try:
        return msgspec.json.decode(body, type=kind.type)
    except msgspec.ValidationError:  # other servers write null for what is empty
        raw = fields.without_nulls(msgspec.json.decode(body))
        return codec.from_raw(raw, kind=kind).object


def typed_list(kind: Kind[T], body: bytes) -> _ListOf[T]:
    shape: Any = _ListOf[kind.type]  # type: ignore[name-defined]
    found: _ListOf[T]
    try:
        found = msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raw = fields.without_nulls(msgspec.json.decode(body))
        found = msgspec.convert(raw, shape)
    return found


def _warning(header: str) -> str:
    """``299 - "unknown field"`` → ``unknown field``."""
    _, quoted, text = header.partition('"')
    text = text.removesuffix('"') if quoted else header
    return text.replace('\\"', '"').replace("\\\\", "\\")


def said_by_server(error: ApiError) -> bool:
    """Did the server say so, or was it seen on this side?"""
    return bool(getattr(error, "__notes__", ()))


def _error(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    """The error that an answer stands for, be it a Status or some proxy's page."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, msgspec.ValidationError):
        status = Status()
    if status.kind != "Status" or not status.message:
        text = " ".join(body[:300].decode("utf-8", "replace").split())
        words = text or f"the server answered {response.status} {response.reason}"
        status = Status(message=words, code=response.status)
    error = from_status(msgspec.structs.replace(status, code=status.code or response.status))
    error.add_note(f"said by {response.url.authority}")
    return error
