"""The client over HTTP: ``client.base.Client``, and the plain requests under it.

What cannot be known is not guessed: a read without an answer is Unavailable, a write without one
is an UnknownOutcome. Nothing is asked twice of the same server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from k8slite.api import codec, fields
from k8slite.api.errors import ApiError, Unavailable, UnknownOutcome, from_status
from k8slite.api.joining import Heartbeat
from k8slite.api.kinds import SCHEME
from k8slite.api.kinds.binding.types import Binding, ObjectReference
from k8slite.api.meta import DeleteOptions, ListMeta, Object, ObjectMeta, Preconditions, Status
from k8slite.api.scheme import Kind
from k8slite.api.struct import Struct, always
from k8slite.client.access import Access
from k8slite.client.base import Listing, WatchEvent
from k8slite.client.wire import JSON, Ask, Elsewhere, Query, Wire, said_by_server, url_of

__all__ = ["Answer", "HttpClient", "Query", "path_of", "said_by_server", "typed", "typed_list"]

T = TypeVar("T", bound=Object)
S = TypeVar("S")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

#: One event or log line longer than this is refused rather than kept in memory.
MAX_LINE = 16 * 1024 * 1024

#: Seconds after which a watch without a sign of life is given up; masters send a bookmark every
#: ten, so that a frozen or unplugged one is noticed.
SILENCE = 30.0


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
    """Requests to a server, or to the several masters of one cluster (``client.wire`` says when
    the next is asked); use it as a context manager. ``timeout`` in seconds, per answer;
    ``unauthorized`` hears of every answer that says that we are not known."""

    def __init__(
        self,
        access: Access | str,
        *,
        timeout: float = 60.0,
        unauthorized: Callable[[ApiError], None] | None = None,
    ) -> None:
        found = Access(server=access) if isinstance(access, str) else access
        self._wire = Wire(found, timeout, unauthorized)

    @property
    def access(self) -> Access:
        return self._wire.access

    @property
    def server(self) -> str:
        """The URL of the master that is asked first: the one that worked last."""
        return self._wire.servers.current

    async def __aenter__(self) -> HttpClient:
        self._wire.session()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._wire.close()

    def identify(self, certificate: bytes, key: bytes) -> None:
        """Show this certificate (PEM) from the next connection on. Raises BadRequest."""
        self._wire.identify(certificate, key)

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
        ask = Ask(method, path, tuple(query), body, content_type, accept, headers, endless)
        async with self._wire.open(ask) as response:
            yield response

    def url(self, path: str, query: Query = ()) -> URL:
        return url_of(self.server, path, query)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        again: bool = False,
    ) -> Answer:
        """One request, one answer. ``again``: a write that may happen twice. Raises ApiError."""
        ask = Ask(method, path, tuple(query), body, content_type, accept, again=again)
        failures: list[ApiError] = []
        for server, hurried in self._wire.tries():
            try:
                async with self._wire.once(server, ask, hurried) as response:
                    warnings = tuple(map(_warning, response.headers.getall("Warning", ())))
                    return Answer(response.status, await response.read(), warnings)
            except Elsewhere as gone:
                failures.append(gone.error)
        raise self._wire.failure(failures)

    async def pieces(self, path: str, query: Query = ()) -> AsyncIterator[bytes]:
        """The body of an endless GET (a followed log), piece by piece."""
        async with self.open("GET", path, query=query, accept="*/*", endless=True) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def lines(
        self, path: str, query: Query = (), *, silence: float | None = None
    ) -> AsyncIterator[bytes]:
        """The lines of an endless GET (a watch). Raises Unavailable after ``silence`` seconds
        without a byte."""
        ask = Ask("GET", path, tuple(query), endless=True, silence=silence)
        async with self._wire.open(ask) as response:
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
        async with self._wire.upgrade(path, query, protocols) as socket:
            yield socket

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
        async for line in self.lines(path_of(kind, namespace), query, silence=SILENCE):
            frame = decoded(line, _Frame)
            if frame.type == "ERROR":
                raise from_status(decoded(bytes(frame.object), Status))
            yield WatchEvent(frame.type, typed(kind, bytes(frame.object)))

    async def create(self, obj: T) -> T:
        kind = SCHEME.of(obj)
        path = path_of(kind, obj.metadata.namespace)
        return written(kind, await self.request("POST", path, body=codec.encode(obj)))

    async def update(self, obj: T, *, subresource: str = "") -> T:
        kind = SCHEME.of(obj)
        meta = obj.metadata
        path = path_of(kind, meta.namespace, meta.name, subresource)
        return written(kind, await self.request("PUT", path, body=codec.encode(obj)))

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
        return written(kind, answer)

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

    async def heartbeat(self, node: str) -> float:
        path = f"/api/v1/nodes/{quote(node, safe='')}/heartbeat"
        answer = await self.request("POST", path, again=True)
        return decoded(answer.body, Heartbeat).seconds


def _selection(labels: str, fields: str) -> list[tuple[str, str]]:
    pairs = (("labelSelector", labels), ("fieldSelector", fields))
    return [(key, value) for key, value in pairs if value]


def typed(kind: Kind[T], body: bytes) -> T:
    """An object of any server → our struct; what we do not know of it is left out. Raises
    Unavailable for what is no object."""
    with _understood():
        try:
            return msgspec.json.decode(body, type=kind.type)
        except msgspec.ValidationError:  # other servers write null for what is empty
            raw = fields.without_nulls(msgspec.json.decode(body))
            return codec.from_raw(raw, kind=kind).object


def written(kind: Kind[T], answer: Answer) -> T:
    """The object of an answer to a write. Raises UnknownOutcome for what is no object."""
    try:
        return typed(kind, answer.body)
    except ApiError as error:
        raise UnknownOutcome(f"{error.message}; the write may have happened") from None


def typed_list(kind: Kind[T], body: bytes) -> _ListOf[T]:
    """Raises Unavailable for what is no list."""
    shape: Any = _ListOf[kind.type]  # type: ignore[name-defined]
    found: _ListOf[T]
    with _understood():
        try:
            found = msgspec.json.decode(body, type=shape)
        except msgspec.ValidationError:
            raw = fields.without_nulls(msgspec.json.decode(body))
            found = msgspec.convert(raw, shape)
    return found


def decoded(body: bytes, shape: type[S]) -> S:
    """Raises Unavailable for what is of another shape."""
    with _understood():
        return msgspec.json.decode(body, type=shape)


@contextmanager
def _understood() -> Iterator[None]:
    """A success whose body says something else is the word of a proxy, or of no API server."""
    try:
        yield
    except msgspec.MsgspecError as error:
        raise Unavailable(f"what was answered is no word of this API: {error}") from None


def _warning(header: str) -> str:
    """``299 - "unknown field"`` → ``unknown field``."""
    _, quoted, text = header.partition('"')
    text = text.removesuffix('"') if quoted else header
    return text.replace('\\"', '"').replace("\\\\", "\\")
