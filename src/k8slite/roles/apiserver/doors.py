"""Doors: which peers a port answers, and as whom.

- The plain port speaks HTTP without authentication; it answers loopback, the host's own addresses,
  the cluster's nodes, and whatever ``insecure_allow`` adds. A stranger gets one line and the end.
- The secure port answers everybody who can say who he is.
- The read-only port answers the nodes (their service proxies dial from there): reads only, and no
  secrets.

A pod has an address of its own and is a stranger.

A browser is a peer on loopback that does strangers' bidding: the ports without authentication
refuse requests of other origins, and Host names that a stranger's DNS could have made up.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from k8slite.api.errors import ApiError, BadRequest, Forbidden, MethodNotAllowed
from k8slite.api.kinds import SECRET
from k8slite.api.paths import Target
from k8slite.api.user import ANONYMOUS, User
from k8slite.kit.addresses import plain
from k8slite.netfilter.local import is_of_this_host
from k8slite.roles.apiserver.answers import of_error

log = structlog.get_logger()

_SIOCGIFADDR = 0x8915  # linux/sockios.h

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Door(Protocol):
    """The rule of one port. ``by_address``: its guests are known by their addresses alone."""

    name: str
    by_address: bool

    def welcomes(self, peer: str) -> bool:
        """May this address speak here at all?"""
        ...

    def admit(self, request: BaseRequest, target: Target) -> User:
        """Who asks. Raises Unauthorized, Forbidden, MethodNotAllowed."""
        ...


class Connection(RequestHandler):
    """One client's connection: refused at once when its door does not welcome it.

    ``entered`` hears who came in by his address. ``streaming`` is the task of a request that goes
    on and on; it ends with the connection.
    Other requests are finished even when the client is gone: a write is not left half decided.
    """

    __slots__ = ("door", "entered", "streaming", "user")

    def __init__(
        self,
        manager: Server,
        *,
        door: Door,
        entered: Callable[[str, asyncio.BaseTransport], None],
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self.door = door
        self.entered = entered
        self.streaming: asyncio.Task[Any] | None = None
        self.user: User | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = address_of(transport.get_extra_info("peername"))
        if not self.door.welcomes(peer):
            log.warning("stranger refused", door=self.door.name, peer=peer)
            self._refuse(cast(asyncio.Transport, transport), peer)
        elif self.door.by_address:
            self.entered(peer, transport)

    def _refuse(self, transport: asyncio.Transport, peer: str) -> None:
        line = (
            f"{peer} is not welcome at the {self.door.name} port: it serves the cluster's hosts "
            "alone; use the secure port, or start the server with --insecure-allow\n"
        ).encode()
        transport.write(
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(line), line)
        )
        self.force_close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP (aiohttp's own would be a drawing of several lines)."""
        line = " ".join((message or "not understood").split())
        error: ApiError = BadRequest(f"malformed request: {line[:200]}")
        if status != 400:
            say = log.debug if isinstance(exc, ConnectionError) else log.error  # the client left
            say("connection failed", door=self.door.name, status=status, error=repr(exc))
            error = ApiError("internal error; the server's log says more")
        answer = of_error(error)
        answer.close_after()
        return answer

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.streaming is not None:
            self.streaming.cancel()
            self.streaming = None


def address_of(peername: Any) -> str:
    """The address of a socket's peer; IPv4 that came over IPv6 as IPv4."""
    address = str(peername[0]) if peername else ""
    return plain(address)


def is_own(address: str) -> bool:
    """Is ``address`` one of this host's?"""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.is_loopback:
        return True
    if parsed.is_unspecified or parsed.is_multicast:
        return False
    return is_of_this_host(str(parsed))


def own_addresses() -> list[str]:
    """The first IPv4 address of every network interface."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # no IPv4 address there
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def _nobody(address: str) -> bool:
    return False


class PlainDoor:
    """HTTP without authentication, for the host itself, the nodes and ``allow``."""

    name = "insecure"
    by_address = True

    def __init__(
        self,
        allow: Sequence[str] = (),
        names: Sequence[str] = (),
        is_node: Callable[[str], bool] = _nobody,
    ) -> None:
        """``allow``: CIDRs of further peers; ``is_node``: whether an address is that of one of the
        cluster's nodes. Raises ValueError for what is no CIDR."""
        self._is_node = is_node
        self._allow: list[Network] = [ipaddress.ip_network(text, strict=False) for text in allow]
        self._names = frozenset(name.lower() for name in names)
        for network in self._allow:
            log.warning(
                "the insecure port serves a network without authentication",
                network=str(network),
                advice="everybody there is master of this cluster; prefer the secure port",
            )

    def welcomes(self, peer: str) -> bool:
        if is_own(peer) or self._is_node(peer):
            return True
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._allow)

    def admit(self, request: BaseRequest, target: Target) -> User:
        require_same_origin(request, self._names)
        return ANONYMOUS


class ReadOnlyDoor:
    """Reads without secrets, for the nodes: the way behind the service kubernetes-ro."""

    name = "read-only"
    by_address = True

    def __init__(self, is_node: Callable[[str], bool] = _nobody) -> None:
        self._is_node = is_node

    def welcomes(self, peer: str) -> bool:
        return is_own(peer) or self._is_node(peer)

    def admit(self, request: BaseRequest, target: Target) -> User:
        require_same_origin(request, frozenset())
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not served at the read-only port")
        if target.kind is SECRET:
            raise Forbidden("secrets are not served at the read-only port")
        if target.path.split("/", 2)[1] == "join":
            raise Forbidden("the join token is not shown at the read-only port")
        if target.verb == "connect":
            raise Forbidden(f"{target.subresource} is not served at the read-only port")
        return ANONYMOUS


def require_same_origin(request: BaseRequest, names: frozenset[str]) -> None:
    """Refuse what a web page of somebody else made a browser send. Raises Forbidden."""
    headers = request.headers
    host = headers.get("Host", "")
    if not _plausible_host(host) and _bare(host) not in names:
        raise Forbidden(
            f'the Host header "{host[:80]}" names no address of this server; use its address, '
            "or the secure port"
        )
    origin = headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden(f'requests of the origin "{origin[:80]}" are not served here')
    if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("requests of other sites are not served here")


def _bare(host: str) -> str:
    """A Host header without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


@lru_cache(maxsize=512)
def _plausible_host(host: str) -> bool:
    """Addresses, and names that no public DNS can point here: those without a dot, and ours."""
    bare = _bare(host)
    if "." not in bare and ":" not in bare:
        return True  # localhost, kubernetes, a container's name; "" of HTTP/1.0
    if bare.endswith((".svc", ".svc.cluster.local", ".localhost", ".local", ".internal")):
        return True
    if bare in ("kubernetes.default", "kubernetes-ro.default"):
        return True
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return True
