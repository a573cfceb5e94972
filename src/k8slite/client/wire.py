"""Requests on the wire, to one server or to several of one cluster.

What cannot be known is not guessed: a read without an answer is Unavailable, a write without one
is an UnknownOutcome. Where there are several servers, the next is asked when it is certain that
nothing was sent, and, for what may be asked twice (reads, signs of life), when the answer was lost,
too slow in coming, or that this master cannot reach its store. A write is never sent twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from k8slite.api.errors import ApiError, Unauthorized, Unavailable, UnknownOutcome, from_status
from k8slite.api.meta import Status
from k8slite.client.access import Access, netloc
from k8slite.client.servers import Servers

Query = Iterable[tuple[str, str]]

JSON = "application/json"

#: One WebSocket message longer than this is refused rather than kept in memory.
MAX_MESSAGE = 16 * 1024 * 1024

#: Seconds for a connection with its TLS; less where another server may be asked instead.
CONNECT = 10.0
CONNECT_HURRIED = 1.5
#: Seconds until a read is asked of another server, if there is one; until a write is given up,
#: where the next one has another server to go to; until a watch begins to answer.
READ_HURRIED = 3.0
WRITE_HURRIED = 10.0
BEGIN_HURRIED = 5.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``again``: asking twice does no harm. ``endless``: an answer that goes on and
    on; it is given up after ``silence`` seconds without a byte (None: never)."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON
    headers: Mapping[str, str] | None = None
    endless: bool = False
    silence: float | None = None
    again: bool = False

    @property
    def repeatable(self) -> bool:
        return self.again or self.method in ("GET", "HEAD")


class Elsewhere(Exception):
    """No answer from this server, and no harm in asking another. ``error`` is what to say when
    there is none."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class Wire:
    """Connections to the servers of ``access``. ``timeout`` in seconds, per answer;
    ``unauthorized`` hears of every answer that we are not known."""

    def __init__(
        self, access: Access, timeout: float, unauthorized: Callable[[ApiError], None] | None = None
    ) -> None:
        self.access = access
        self._unauthorized = unauthorized
        self.servers = Servers(access.urls)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    def session(self) -> aiohttp.ClientSession:
        """Raises BadRequest for credentials that cannot be used."""
        if self._session is None:
            headers = {"User-Agent": "k8slite"}
            if authorization := self.access.authorization():
                headers["Authorization"] = authorization
            tls = self._tls = self.access.tls()
            connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=0)
            connect = CONNECT if len(self.servers) == 1 else CONNECT_HURRIED
            self._session = aiohttp.ClientSession(
                connector=connector, headers=headers, auto_decompress=True, trust_env=False,
                # For WebSockets; requests have their own.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            )  # fmt: skip
            # aiohttp would repeat a PUT or DELETE whose answer was lost: a write that happened
            # would then be reported as a conflict or as not found.
            self._session._retry_connection = False
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def identify(self, certificate: bytes, key: bytes) -> None:
        """Show this certificate (PEM) from the next connection on; those that are open stay.
        Raises BadRequest."""
        self.access = replace(self.access, certificate=certificate, key=key)
        if self._tls is not None:
            self.access.identify(self._tls)

    def tries(self) -> Iterator[tuple[str, bool]]:
        """Servers in the order to ask them; is there another one after it?"""
        order = self.servers.order()
        for place, server in enumerate(order, 1):
            yield server, place < len(order)

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response whose body is still to be read. Raises ApiError."""
        failures: list[ApiError] = []
        try:
            async with AsyncExitStack() as stack:
                for server, hurried in self.tries():
                    try:
                        found = await stack.enter_async_context(self.once(server, ask, hurried))
                        break
                    except Elsewhere as gone:
                        failures.append(gone.error)
                else:
                    raise self.failure(failures)
                yield found
        except Elsewhere as gone:  # lost while the body was being read
            raise gone.error from None

    @asynccontextmanager
    async def once(
        self, server: str, ask: Ask, hurried: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask one server. Raises ApiError for an answer, Elsewhere when another may be asked."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._patience(ask, hurried) if ask.endless else None):
                    response = await stack.enter_async_context(
                        self.session().request(
                            ask.method, url_of(server, ask.path, ask.query), data=ask.body,
                            headers=_headers(ask), timeout=self._timeouts(ask, hurried),
                            server_hostname=self.access.tls_name or None,
                        )
                    )  # fmt: skip
                if response.status >= 400:
                    raise self._refused(server, ask, _error(response, await response.read()))
                self.servers.worked(server)
                yield response
        except aiohttp.ClientError as error:
            self.servers.failed(server)
            told = self._lost(error, server, ask)
            if ask.repeatable or nothing_sent(error):
                raise Elsewhere(told) from None
            raise told from None
        except TimeoutError:
            self.servers.failed(server)
            told = self._silent(server, ask)
            if ask.repeatable:
                raise Elsewhere(told) from None
            raise told from None

    def failure(self, failures: list[ApiError]) -> ApiError:
        """Nobody answered: what a server had to say, or else all of them by name."""
        said = next(filter(said_by_server, failures), None)
        if said is not None or len(failures) == 1:
            return said or failures[0]
        names = ", ".join(map(netloc, self.access.urls))
        return Unavailable(f"Unable to connect to the server: none of {names}: {failures[0]}")

    def _patience(self, ask: Ask, hurried: bool) -> float:
        """Seconds that an answer may take to come."""
        if ask.endless:
            return BEGIN_HURRIED if hurried else self._timeout
        if ask.repeatable:
            return READ_HURRIED if hurried else self._timeout
        return self._timeout if len(self.servers) == 1 else min(WRITE_HURRIED, self._timeout)

    def _timeouts(self, ask: Ask, hurried: bool) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None,
            sock_connect=CONNECT_HURRIED if hurried else CONNECT,
            sock_read=ask.silence if ask.endless else self._patience(ask, hurried),
        )

    def _refused(self, server: str, ask: Ask, error: ApiError) -> Exception:
        """An answer that is an error: is it of this master alone?"""
        if error.code == Unauthorized.code and self._unauthorized is not None:
            self._unauthorized(error)
        if error.code not in (Unavailable.code, UnknownOutcome.code):
            self.servers.worked(server)
            return error
        self.servers.failed(server)
        return Elsewhere(error) if ask.repeatable else error

    def _lost(self, error: aiohttp.ClientError, server: str, ask: Ask) -> ApiError:
        host = netloc(server)
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
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Unavailable(f"Unable to connect to the server {host}: it does not answer")
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return Unavailable(f"{server!r} is no server; write http://HOST:PORT")
        return self._silent(server, ask)

    def _silent(self, server: str, ask: Ask) -> ApiError:
        host = netloc(server)
        if ask.repeatable:
            hint = "" if server.startswith("https:") else ", as https:// if it is such"
            return Unavailable(f"{host} ended the connection without an answer; try again{hint}")
        return UnknownOutcome(
            f"{host} gave no answer to {ask.method} {ask.path}: it may or may not have happened; "
            "look before you try again"
        )

    # --- WebSockets --------------------------------------------------------------------------

    @asynccontextmanager
    async def upgrade(
        self, path: str, query: Query, protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket. Raises ApiError."""
        ask = Ask("GET", path, tuple(query))
        failures: list[ApiError] = []
        server = self.servers.current
        try:
            async with AsyncExitStack() as stack:
                for server, _ in self.tries():
                    try:
                        opening = self.session().ws_connect(
                            url_of(server, path, ask.query), protocols=protocols,
                            max_msg_size=MAX_MESSAGE,
                        )  # fmt: skip
                        socket = await stack.enter_async_context(opening)
                        break
                    except aiohttp.ClientError as error:
                        if not nothing_sent(error):
                            raise
                        self.servers.failed(server)
                        failures.append(self._lost(error, server, ask))
                else:
                    raise self.failure(failures)
                self.servers.worked(server)
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            await self._ask_why(ask, protocols)
            raise Unavailable(f"{netloc(server)} speaks no WebSocket: {error.message}") from None
        except aiohttp.ClientError as error:
            raise self._lost(error, server, ask) from None

    async def _ask_why(self, ask: Ask, protocols: tuple[str, ...]) -> None:
        """Ask for a WebSocket once more as an ordinary request: aiohttp drops the answer in which
        the server says why there is none. Raises ApiError."""
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "azhzbGl0ZS1hc2tzLXdoeQ==",
            "Sec-WebSocket-Protocol": ", ".join(protocols),
        }
        async with self.open(replace(ask, headers=headers)) as response:
            response.close()


def nothing_sent(error: aiohttp.ClientError) -> bool:
    """Is it certain that the server has seen nothing of the request?"""
    return isinstance(
        error,
        aiohttp.ClientConnectorError
        | aiohttp.ClientConnectorCertificateError
        | aiohttp.ConnectionTimeoutError
        | aiohttp.InvalidURL,
    )


def url_of(server: str, path: str, query: Query) -> URL:
    pairs = list(query)
    tail = f"?{urlencode(pairs)}" if pairs else ""
    return URL(f"{server}{path}{tail}", encoded=True)


def _headers(ask: Ask) -> dict[str, str]:
    sent = {"Accept": ask.accept, **(ask.headers or {})}
    if ask.body is not None:
        sent["Content-Type"] = ask.content_type
    return sent


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


def said_by_server(error: ApiError) -> bool:
    """Did the server say so, or was it seen on this side?"""
    return bool(getattr(error, "__notes__", ()))
