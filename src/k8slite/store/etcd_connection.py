"""The endpoints of etcd, one of which is in use.

What matters to a writer is whether a request that failed may have happened; ``Verdict`` says so.
An endpoint that is silent while it is asked is left for the next one within about two seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aetcd import rpc

from k8slite.kit.clock import Clock
from k8slite.store.base import StoreRefuses, StoreUnavailable
from k8slite.store.etcd_errors import EtcdError, Verdict, refused
from k8slite.store.etcd_member import EtcdTls, Member

log = structlog.get_logger()

#: Seconds: an endpoint's first answer, one question to it, one write, everything with retries.
CONNECT, READ, WRITE, PATIENCE = 2.0, 2.0, 3.0, 5.0
#: The next endpoint is tried beside one that has not answered for so long.
_STAGGER = 0.4
#: A member that is silent for so long, with and without questions to it, is asked how it is.
_QUIET, _IDLE = 0.5, 2.0
_PULSE = 1.5


class Pool:
    """The endpoints of one etcd cluster. ``admit(member)`` looks at a member before it is used."""

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        admit: Callable[[Member], Awaitable[None]],
        *,
        tls: EtcdTls | None,
        user: str,
        password: str,
    ) -> None:
        self.endpoints = tuple(
            (endpoint if "://" in endpoint else f"http://{endpoint}").rstrip("/")
            for endpoint in endpoints
        )
        self._clock = clock
        self._admit = admit
        self._tls = tls
        self._user, self._password = user, password
        self._first = 0  # the endpoint to try first
        self._member: Member | None = None
        self._connecting = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._cluster = 0
        self._closed = False
        self.epoch = 0  # of the revisions: another one when etcd has lost data
        self.metadata: tuple[tuple[str, str], ...] = (("hasleader", "true"),)

    async def close(self) -> None:
        self._closed = True
        if self._member is not None:
            self.leave(self._member, at_once=True)
        while self._leaving:
            await asyncio.wait(self._leaving)
        # gRPC tells the ends of calls that were cancelled a moment later; were this loop closed by
        # then, it would not tell the next loop of this process anything any more.
        await self._clock.sleep(0.02)

    def leave(self, member: Member, why: str = "", *, at_once: bool = False) -> None:
        """Use another endpoint from now on. What is under way at this one has its time, unless
        it is given up ``at_once``."""
        if member is not self._member:
            return
        self._member = None
        self._first = (self.endpoints.index(member.endpoint) + 1) % len(self.endpoints)
        if why and not self._closed:
            log.warning("etcd endpoint left", endpoint=member.endpoint, error=why)
        self._drop(member, at_once=at_once)

    def _drop(self, member: Member, *, at_once: bool = True) -> None:
        member.closed = True
        task = asyncio.ensure_future(member.close(at_once=at_once))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    @property
    def in_use(self) -> Member | None:
        return self._member

    async def member(self) -> Member:
        """The member in use, connected and admitted. Raises StoreUnavailable."""
        if self._member is not None:
            return self._member
        async with self._connecting:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._member is None:
                self._member = await self._connect()
            return self._member

    async def ready(self, end: float) -> Member:
        """As ``member``, with patience until ``end`` on the clock."""
        while True:
            try:
                return await self.member()
            except StoreRefuses:
                raise
            except StoreUnavailable:
                if self._closed or self._clock.monotonic() >= end:
                    raise
                await self._clock.sleep(0.1)

    @asynccontextmanager
    async def beside(self, endpoint: str) -> AsyncIterator[Member]:
        """A connection to one member in particular. Raises StoreRefuses."""
        member = Member(endpoint, self._tls, self._clock)
        try:
            yield member
        finally:
            await member.close(at_once=True)

    # -- questions ------------------------------------------------------------------------------

    async def read(
        self, question: Callable[[Member], Any], request: Any, timeout: float = READ
    ) -> Any:
        """Ask for what may be asked twice, of one endpoint after the other; each has ``timeout``
        seconds.

        Raises StoreUnavailable, and EtcdError with REFUSED.
        """
        return await self._ask(question, request, timeout=timeout, twice=True)

    async def write(self, question: Callable[[Member], Any], request: Any) -> Any:
        """Ask for what may be done once only.

        Raises StoreUnavailable (it was not done), and EtcdError with REFUSED or LOST.
        """
        return await self._ask(question, request, timeout=WRITE, twice=False)

    async def _ask(
        self, question: Callable[[Member], Any], request: Any, *, timeout: float, twice: bool
    ) -> Any:
        end = self._clock.monotonic() + PATIENCE
        epoch = self.epoch
        while True:
            member = self._member or await self.ready(end)
            if self.epoch != epoch and not twice:
                raise StoreUnavailable("etcd came back with older data than it had: read again")
            try:
                return await member.ask(question(member), request, timeout, self.metadata)
            except EtcdError as error:
                if error.verdict is Verdict.REFUSED:
                    raise
                try:
                    await self.mend(member, error, end)
                except StoreUnavailable:
                    if error.verdict is Verdict.LOST and not twice:
                        raise error from None
                    raise
                if error.verdict is Verdict.LOST and not twice:
                    raise

    async def mend(self, member: Member, error: EtcdError, end: float) -> None:
        """Make ready for asking again after ``error``. Raises StoreUnavailable after ``end``."""
        if self._clock.monotonic() >= end:
            raise StoreUnavailable(f"etcd {member.endpoint}: {error.text}")
        match error.verdict:
            case Verdict.TOKEN:
                await self._renew_token(member)
            case Verdict.BUSY:
                self.leave(member, error.text)
                await self._clock.sleep(0.1)
            case Verdict.UNSENT:
                self.leave(member, error.text)
            case Verdict.LOST:
                # Of etcd's own words about a request nothing follows for the endpoint.
                if error.text.startswith("etcdserver:"):
                    await self._clock.sleep(0.05)
                else:
                    silent = self._clock.monotonic() - member.heard >= READ
                    self.leave(member, error.text, at_once=silent)
            case Verdict.REFUSED:
                raise refused(error)

    # -- connecting -----------------------------------------------------------------------------

    async def _connect(self) -> Member:
        """The first endpoint that answers, in order, each with a head start over the next."""
        order = self.endpoints[self._first :] + self.endpoints[: self._first]
        failures: dict[str, EtcdError] = {}
        probes: dict[asyncio.Task[Member], str] = {}
        waiting = list(order)
        try:
            while waiting or probes:
                if waiting:
                    endpoint = waiting.pop(0)
                    probes[asyncio.create_task(self._probe(endpoint))] = endpoint
                done, _ = await asyncio.wait(
                    probes,
                    timeout=_STAGGER if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for probe in done:
                    endpoint = probes.pop(probe)
                    try:
                        member = probe.result()
                    except EtcdError as error:
                        failures[endpoint] = error
                        continue
                    self._first = self.endpoints.index(endpoint)
                    return member
        finally:
            for probe in probes:
                probe.add_done_callback(self._discard)
                probe.cancel()
        if all(error.verdict is Verdict.REFUSED for error in failures.values()):
            raise StoreRefuses(str(refused(failures[order[0]])))
        told = ", ".join(f"{endpoint} ({failures[endpoint].text})" for endpoint in order)
        raise StoreUnavailable(f"etcd cannot be reached: {told}")

    def _discard(self, probe: asyncio.Task[Member]) -> None:
        if not probe.cancelled() and probe.exception() is None:
            self._drop(probe.result())

    async def _probe(self, endpoint: str) -> Member:
        """A member that answers, has a leader and is of our cluster. Raises EtcdError."""
        member = Member(endpoint, self._tls, self._clock)
        try:
            status = await member.ask(
                member.maintenance.Status, rpc.StatusRequest(), CONNECT, self.metadata[:1]
            )
            cluster = status.header.cluster_id
            if self._cluster and cluster != self._cluster and len(self.endpoints) > 1:
                await self._accept(cluster, endpoint)
            if self._user and len(self.metadata) == 1:
                await self._renew_token(member)
            try:
                await self._admit(member)
            except EtcdError as error:
                if error.verdict is not Verdict.TOKEN:
                    raise
                await self._renew_token(member)
                await self._admit(member)
            self._cluster = cluster
        except BaseException:
            self._drop(member)
            raise
        return member

    async def _accept(self, cluster: int, endpoint: str) -> None:
        """An endpoint shows another cluster than before. It may be a member that was made anew
        by mistake; only when every endpoint shows the same has the cluster been replaced."""
        for other in self.endpoints:
            if other != endpoint and await self._cluster_at(other) != cluster:
                raise EtcdError(
                    Verdict.UNSENT,
                    "it belongs to another etcd cluster than before; if that is meant, restart",
                )

    async def _cluster_at(self, endpoint: str) -> int:
        """The id of the cluster there; 0 when nobody answers."""
        async with self.beside(endpoint) as member:
            try:
                status = await member.ask(
                    member.maintenance.Status, rpc.StatusRequest(), CONNECT, self.metadata[:1]
                )
            except EtcdError:
                return 0
            return int(status.header.cluster_id)

    async def _renew_token(self, member: Member) -> None:
        """Raises EtcdError."""
        if not self._user:
            raise EtcdError(Verdict.REFUSED, "it asks for a user: --etcd-user")
        request = rpc.AuthenticateRequest(name=self._user, password=self._password)
        reply = await member.ask(member.auth.Authenticate, request, CONNECT, self.metadata[:1])
        self.metadata = (self.metadata[0], ("token", reply.token))

    # -- health ---------------------------------------------------------------------------------

    async def health(self, endpoint: str) -> None:
        """Does this member answer, and has it a leader? Raises StoreUnavailable."""
        async with self.beside(endpoint) as member:
            try:
                request = rpc.RangeRequest(key=b"health", count_only=True)
                await member.ask(member.kv.Range, request, READ, self.metadata)
            except EtcdError as error:
                # That we may not read this key is an answer as well.
                if error.verdict is not Verdict.REFUSED or "permission denied" not in error.text:
                    raise StoreUnavailable(f"{endpoint}: {error.text}") from None

    async def watch_health(self, is_stuck: Callable[[], bool]) -> None:
        """Leave a member that is silent although it is asked, or that ``is_stuck``; for ever."""
        while True:
            await self._clock.sleep(_QUIET)
            member = self._member
            if member is None:
                continue
            if is_stuck():
                self.leave(member, "its watch does not deliver")
                continue
            before = self._clock.monotonic()
            if before - member.heard < (_QUIET if member.calls else _IDLE):
                continue
            try:
                await member.ask(
                    member.maintenance.Status, rpc.StatusRequest(), _PULSE, self.metadata[:1]
                )
            except EtcdError as error:
                if member.heard < before or error.verdict is Verdict.BUSY:
                    self.leave(member, error.text, at_once=error.verdict is not Verdict.BUSY)
