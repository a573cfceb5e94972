"""How a machine becomes a node: it shows the join token, gets a certificate, and later renews it.

- ``GET /ca``: the authority's certificate, for everybody. A node compares its sha256 with the one
  in the token before it says the secret.
- ``POST /join``: ``{"name", "addresses", "architecture", "csr"}`` (``JoinRequest``), with the
  token's secret as bearer, or with the node's present certificate; answered by ``JoinAnswer``.
- ``GET /join/token``, ``POST /join/token``: for admins, the token and the masters
  (``TokenAnswer``); POST makes another token first.

These paths are our own; Kubernetes has none like them.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp.web_request import BaseRequest

from k8slite.api.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from k8slite.api.joining import JoinAnswer, JoinRequest, TokenAnswer
from k8slite.api.kinds import ENDPOINTS, NODE
from k8slite.api.kinds.node.types import Node
from k8slite.api.paths import Target
from k8slite.api.user import JOINER, SYSTEM, User
from k8slite.config import Settings
from k8slite.decide import joining
from k8slite.decide.joining import Wish
from k8slite.kit.clock import Clock, parse_rfc3339
from k8slite.pki.authority import CLIENT, SERVER, CsrError, Wanted
from k8slite.pki.files import Pki
from k8slite.roles.apiserver.answers import Ready, of_object
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.writing import read_body

__all__ = ["JoinToken", "Joining"]

log = structlog.get_logger()

#: The first words of the paths.
CA, JOIN = "ca", "join"
#: Seconds for which an address that showed a wrong token is not listened to, and how many such
#: addresses are remembered.
PENALTY = 1.0
_REMEMBERED = 1024


class JoinToken:
    """Is this the secret with which nodes join? Nobody gets to ask often."""

    def __init__(self, pki: Pki, clock: Clock) -> None:
        self._pki = pki
        self._clock = clock
        self._until: dict[str, float] = {}  # peer → when it may speak again

    def require(self, secret: str, peer: str) -> User:
        """Raises Unauthorized for a wrong token, TooManyRequests right after one."""
        now = self._clock.monotonic()
        if now < self._until.get(peer, now):
            raise TooManyRequests("wait a second after a wrong join token", retry_after=1)
        # A whole token is as good as its secret half.
        said = secret.rpartition(".")[2].encode("utf-8", "surrogateescape")
        try:
            known = self._pki.join_token.read_bytes().strip()
        except OSError:
            known = b""
        if known and hmac.compare_digest(known, said):
            self._until.pop(peer, None)
            return JOINER
        while len(self._until) >= _REMEMBERED:
            del self._until[next(iter(self._until))]
        self._until[peer] = now + PENALTY
        log.warning("wrong join token", role="apiserver", peer=peer)
        raise Unauthorized(
            "the join token is wrong, or another has been made since: `k8slite token` on a master "
            "prints the right one"
        )


class Joining:
    """Answers the paths above. ``nodes`` tells who is alive; ``rotate`` makes another token;
    ``port`` is where this server's secure door is."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        nodes: Holders | None,
        pki: Pki,
        clock: Clock,
        rotate: Callable[[], Awaitable[None]] | None,
        port: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._nodes = nodes
        self._pki = pki
        self._clock = clock
        self._rotate = rotate
        self._port = port
        self._portals = ipaddress.ip_network(settings.portal_net, strict=False)

    async def answer(self, request: BaseRequest, target: Target, user: User, peer: str) -> Ready:
        """Raises ApiError."""
        match target.method, target.path.rstrip("/"):
            case "GET" | "HEAD", "/ca":
                pem = await asyncio.to_thread(self._pki.certificate("ca").read_bytes)
                return Ready(pem, content_type="application/x-pem-file")
            case "POST", "/join":
                return await self._join(await read_body(request), user, peer)
            case "GET" | "POST", "/join/token":
                return await self._token(target.method, user)
            case _, "/ca" | "/join" | "/join/token":
                raise MethodNotAllowed(f"{target.method} is not served for {target.path[:200]}")
        raise NotFound(f"the server could not find the requested resource {target.path[:200]}")

    # -- the token ---------------------------------------------------------------------------

    async def _token(self, method: str, user: User) -> Ready:
        if user is JOINER or joining.node_name(user.name, user.groups):
            raise Forbidden("the join token is shown to admins, not to nodes")
        if method == "POST":
            if self._rotate is None:
                raise MethodNotAllowed("this server has no store to keep another join token in")
            await self._rotate()
            log.info("another join token", role="apiserver", by=user.name)
        token = await asyncio.to_thread(self._pki.token)
        return of_object(TokenAnswer(token=token, servers=self.servers()))

    def servers(self) -> tuple[str, ...]:
        """The URLs of all masters, this one first."""
        own = self._settings.node_ip or "127.0.0.1"
        found = dict.fromkeys((own, *self._masters()))
        return tuple(f"https://{_bracketed(ip)}:{self._port()}" for ip in found)

    def _masters(self) -> list[str]:
        """The addresses of the API servers: those behind the service ``kubernetes``."""
        entry = self._registry.cache.table(ENDPOINTS).get("default/kubernetes")
        subsets = () if entry is None else entry.object.subsets
        return [address.ip for subset in subsets for address in subset.addresses]

    # -- joining -----------------------------------------------------------------------------

    async def _join(self, body: bytes, user: User, peer: str) -> Ready:
        own = joining.node_name(user.name, user.groups)
        if user is not JOINER and not (own and user.uid):
            raise Forbidden("a node joins with the join token, or renews with its certificate")
        try:
            asked = msgspec.json.decode(body, type=JoinRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"no request to join: {error}") from None
        wish = Wish(asked.name, asked.addresses, asked.architecture[:32])
        if wrong := joining.malformed(wish, self._portals):
            raise BadRequest(wrong)
        if own and own != wish.name:
            raise Forbidden(f"node {own} may renew its own certificate, not {wish.name}'s")
        node = await self._admitted(wish, user, peer)
        identity = joining.identity(wish, node.metadata.uid)
        wanted = Wanted(
            identity.common_name, identity.organizations, identity.names, (SERVER, CLIENT),
            serial=identity.serial,
        )  # fmt: skip
        certificate, ca = await asyncio.to_thread(self._sign, asked.csr, wanted)
        log.info("node joined", role="apiserver", node=wish.name, peer=peer, renewed=bool(own))
        return of_object(
            JoinAnswer(
                certificate=certificate, ca=ca, uid=node.metadata.uid, servers=self.servers()
            )
        )

    def _sign(self, csr: str, wanted: Wanted) -> tuple[str, str]:
        authority = self._pki.authority()
        try:
            certificate = authority.sign(csr.encode(), wanted)
        except CsrError as error:
            raise BadRequest(str(error)) from None
        return certificate.decode(), authority.certificate_pem.decode()

    async def _admitted(self, wish: Wish, user: User, peer: str) -> Node:
        """The Node of who may join, made if missing. Raises Conflict with the reason otherwise."""
        table = self._registry.cache.table(NODE)
        for _ in range(8):
            await self._registry.read_barrier()  # another master may have let somebody in
            entry = table.get(wish.name)
            node = None if entry is None else entry.object
            if user.uid and (node is None or node.metadata.uid != user.uid):
                raise Unauthorized(f"node {wish.name} was removed from the cluster")
            reason = joining.refused(
                wish, node, [entry.object for entry in table.entries()], self._masters(),
                alive=node is not None and self._alive(node), peer=peer,
                beats=not user.uid and self._beats(wish.name),
            )  # fmt: skip
            if reason:
                raise Conflict(reason)
            if node is not None:
                return node
            try:
                wanted = joining.newborn(wish)
                return (await self._registry.create(NODE, wanted, user=SYSTEM)).object
            except AlreadyExists:
                continue  # two machines at once: look who it was
        raise Unavailable(f"node {wish.name} comes and goes; try again", retry_after=1)

    def _beats(self, name: str) -> bool:
        return self._nodes is not None and self._nodes.alive(name)

    def _alive(self, node: Node) -> bool:
        """Did it give a sign of life, or is it so young that it could not?"""
        if self._beats(node.metadata.name):
            return True
        stamp = node.metadata.creation_timestamp
        age = self._clock.now() - parse_rfc3339(stamp) if stamp else 0.0
        return age < self._settings.node_grace


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
