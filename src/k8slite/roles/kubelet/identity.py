"""Who this machine is to the cluster: it joins with a token, keeps its certificate, renews it.

``<data>/pki`` holds ``ca.crt``, ``node.crt``, ``node.key`` and ``servers``, the masters that the
cluster told of. A token is used only where there is no certificate. A new key lies beside the old
one until the certificate that fits it is in place, so that no crash leaves the node without a pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import ref

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from k8slite.api import codec
from k8slite.api.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)
from k8slite.api.joining import JoinAnswer, JoinRequest
from k8slite.client.access import Access, servers_of
from k8slite.client.http import HttpClient, decoded
from k8slite.decide.joining import USER_PREFIX
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.pki.authority import (
    PkiError,
    fingerprint,
    load_certificate,
    load_key,
    request,
)
from k8slite.pki.files import write

log = structlog.get_logger()

#: What no second try will change.
_FINAL = (BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, Conflict)
_RETRY = Backoff(initial=0.5, maximum=15.0)
_RENEW_RETRY = Backoff(initial=30.0, maximum=3600.0)
#: Seconds between two looks at the calendar: clocks jump and machines sleep.
_LOOK = 3600.0
#: Seconds between two words about having been removed.
_REMIND = 600.0


class JoinRefused(RuntimeError):
    """This machine cannot be a node of that cluster; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """``<sha256 of the authority's certificate, hex>.<secret>``."""

    fingerprint: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises JoinRefused."""
        known, dot, secret = text.strip().partition(".")
        if not (dot and secret and len(known) == 64 and set(known) <= set("0123456789abcdef")):
            raise JoinRefused(
                "the join token is no <sha256>.<secret>: `k8slite token` on a master prints it"
            )
        return cls(known, secret)


class NodeIdentity:
    """The node's certificate, and the TLS that is made of it; a ``kubelet.server.Certificates``.

    ``servers`` are the masters' URLs, ``addresses`` the machine's own, the node's first.
    """

    def __init__(
        self,
        data_dir: Path,
        servers: Sequence[str],
        token: str,
        clock: Clock,
        *,
        name: str,
        addresses: Sequence[str],
        architecture: str = "",
    ) -> None:
        self.folder = data_dir / "pki"
        self._given = servers_of(",".join(servers))
        self._token = token
        self._clock = clock
        self._name = name
        self._addresses = tuple(addresses)
        self._architecture = architecture
        self._files = threading.Lock()  # nobody reads a pair that is half in place
        self._contexts: list[ref[ssl.SSLContext]] = []
        self._reminded = float("-inf")
        #: Set when the cluster said that it does not know this node any more.
        self.removed = asyncio.Event()

    # -- what is on disk ------------------------------------------------------------------------

    def _file(self, name: str) -> Path:
        return self.folder / name

    @property
    def servers(self) -> tuple[str, ...]:
        """The masters: those that were given, then those that the cluster told of."""
        try:
            told = self._file("servers").read_text().split()
        except OSError:
            told = []
        return tuple(dict.fromkeys((*self._given, *told)))

    def certificate(self) -> x509.Certificate | None:
        """The certificate of a node that has joined, and whose key is there; else None.

        Raises JoinRefused for files that are another node's, or a master's.
        """
        if self._file("ca.key").exists():
            raise JoinRefused(
                f"{self._file('ca.key')}: this folder is a master's; join with another --data-dir, "
                "or remove it first"
            )
        try:
            with self._files:
                self._settle_key()
                found = load_certificate(self._file("node.crt").read_bytes())
                key = load_key(self._file("node.key").read_bytes())
                load_certificate(self._file("ca.crt").read_bytes())
        except (OSError, PkiError):
            return None
        if found.public_key() != key.public_key():
            return None
        if not found.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER):
            return None
        common = str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        if common != USER_PREFIX + self._name:
            raise JoinRefused(
                f"{self._file('node.crt')} is that of node {common.removeprefix(USER_PREFIX)}, not "
                f"of {self._name}: start with --node-name as before, or remove it to join anew"
            )
        return found

    def _settle_key(self) -> None:
        """Finish what a crash interrupted: the new certificate is there, its key still beside."""
        beside = self._file("node.key.new")
        with contextlib.suppress(OSError, PkiError):
            certificate = load_certificate(self._file("node.crt").read_bytes())
            if load_key(beside.read_bytes()).public_key() == certificate.public_key():
                os.replace(beside, self._file("node.key"))

    def _keep(self, answer: JoinAnswer, key: bytes) -> None:
        servers = "".join(f"{url}\n" for url in answer.servers)
        with self._files:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.chmod(self.folder, 0o700)
            write(self._file("node.key.new"), key)
            write(self._file("ca.crt"), answer.ca.encode(), 0o644)
            write(self._file("servers"), servers.encode(), 0o644)
            write(self._file("node.crt"), answer.certificate.encode(), 0o644)
            os.replace(self._file("node.key.new"), self._file("node.key"))

    def access(self) -> Access:
        """The way to the masters with this certificate. ``obtain`` first."""
        return Access(
            server=",".join(self.servers),
            authority=self._file("ca.crt").read_bytes(),
            certificate=self._file("node.crt").read_bytes(),
            key=self._file("node.key").read_bytes(),
        )

    # -- joining --------------------------------------------------------------------------------

    async def obtain(self) -> None:
        """Have a certificate: the one on disk, or join, however long the masters stay silent.

        Raises JoinRefused for what no second try would change, OSError for files.
        """
        found = await asyncio.to_thread(self.certificate)
        # One that is not valid yet says that our clock is wrong: it will be set right.
        if found is not None and found.not_valid_after_utc.timestamp() > self._clock.now():
            return
        if not self._token:
            ended = f"{self._file('node.crt')} has expired" if found else "this node has not joined"
            raise JoinRefused(
                f"{ended}: give --token or --token-file (`k8slite token` on a master prints it)"
            )
        if not self._given:
            raise JoinRefused("no master to join: give --server https://HOST:6443")
        token = Token.parse(self._token)
        failures = 0
        while True:
            try:
                await self._join(token)
                return
            except _FINAL as error:
                raise JoinRefused(f"node {self._name} may not join: {error.message}") from None
            except ApiError as error:
                failures += 1
                delay = _RETRY.delay(failures)
                log.warning("not joined yet", role="node", error=error.message, retry_in=delay)
                await self._clock.sleep(delay)

    async def _join(self, token: Token) -> None:
        """Raises ApiError, JoinRefused."""
        servers = ",".join(self._given)
        # Nobody vouches for this master yet: until its authority is the token's, nothing is said.
        async with HttpClient(Access(server=servers, insecure=True), timeout=10.0) as client:
            authority = (await client.request("GET", "/ca")).body
        try:
            shown = fingerprint(authority)
        except PkiError:
            shown = ""
        if shown != token.fingerprint:
            raise JoinRefused(
                f"{servers}: the authority shown there is not the one of the join token: a token "
                "of another cluster, or somebody between; nothing secret was sent"
            )
        access = Access(server=servers, authority=authority, token=token.secret)
        async with HttpClient(access, timeout=20.0) as client:
            await self._ask(client)
        log.info("joined", role="node", node=self._name, servers=list(self.servers))

    async def _ask(self, client: HttpClient) -> tuple[bytes, bytes]:
        """A certificate for a new key, kept; both PEM. Raises ApiError, OSError."""
        csr, key = await asyncio.to_thread(request, USER_PREFIX + self._name)
        asked = JoinRequest(
            name=self._name,
            addresses=self._addresses,
            architecture=self._architecture,
            csr=csr.decode(),
        )
        # Asked twice, the master would sign twice: no harm.
        answer = await client.request("POST", "/join", body=codec.encode(asked), again=True)
        told = decoded(answer.body, JoinAnswer)
        await asyncio.to_thread(self._keep, told, key)
        return told.certificate.encode(), key

    # -- renewing -------------------------------------------------------------------------------

    async def run(self, client: HttpClient) -> None:
        """Renew at two thirds of the certificate's life, until cancelled; ``client`` shows the
        new one from then on."""
        failures = 0
        while True:
            found = await asyncio.to_thread(self.certificate)
            left = 0.0 if found is None else renewal(found) - self._clock.now()
            if left > 0:
                await self._clock.sleep(min(left, _LOOK))
                continue
            try:
                await self.renew(client)
                failures = 0
            except (ApiError, OSError) as error:
                failures += 1
                delay = _RENEW_RETRY.delay(failures)
                log.warning(
                    "certificate not renewed", role="node", error=str(error), retry_in=delay
                )
                await self._clock.sleep(delay)

    async def renew(self, client: HttpClient) -> None:
        """Another certificate, shown by the present one. Raises ApiError, OSError."""
        certificate, key = await self._ask(client)
        client.identify(certificate, key)
        self.reload_all()
        log.info("certificate renewed", role="node", node=self._name)

    def unauthorized(self, error: ApiError) -> None:
        """A master does not know us: said once, and again from time to time. Containers stay."""
        self.removed.set()
        now = self._clock.monotonic()
        if now >= self._reminded + _REMIND:
            self._reminded = now
            log.error(
                f"node {self._name} was removed from the cluster; its containers stay as they are. "
                f"To join again: stop the agent, remove {self._file('node.crt')}, and start it "
                "with --token or --token-file",
                role="node", said=error.message,
            )  # fmt: skip

    # -- TLS of the node API ----------------------------------------------------------------------

    def server_context(self, name: str = "node") -> ssl.SSLContext:
        """TLS for a listener that asks for client certificates of the cluster's authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        self._contexts.append(ref(context))
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._file("node.crt"), self._file("node.key"))
        context.load_verify_locations(self._file("ca.crt"))

    def reload_all(self) -> None:
        """Let every context in use hand out the certificate that is on disk now."""
        self._contexts = [found for found in self._contexts if found() is not None]
        for found in self._contexts:
            context = found()
            if context is not None:
                self._load(context)


def renewal(certificate: x509.Certificate) -> float:
    """When two thirds of its life are over, as Unix time."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (start + (end - start) * 2 / 3).timestamp()
