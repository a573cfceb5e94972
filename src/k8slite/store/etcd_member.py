"""One endpoint of etcd: its channel, questions to it and streams, and how they fail.

grpc.aio underneath, through the stubs that aetcd generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from aetcd import rpc

from k8slite.kit.clock import Clock
from k8slite.store.base import StoreRefuses
from k8slite.store.etcd_errors import EtcdError, Verdict, classified

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files in PEM: who vouches for etcd, our certificate and its key. Read at each connection,
    so that renewed ones are used."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> Any:
        """Raises StoreRefuses."""
        try:
            ca, cert, key = (
                None if path is None else path.read_bytes()
                for path in (self.ca, self.cert, self.key)
            )
        except OSError as error:
            raise StoreRefuses(
                f"{error.filename}: {error.strerror}: needed to speak with etcd"
            ) from None
        if (cert is None) != (key is None):
            raise StoreRefuses("etcd: a certificate needs its key: --etcd-cert and --etcd-key")
        return grpc.ssl_channel_credentials(ca, key, cert)


class Member:
    """One endpoint and its channel. ``heard`` is when it last said anything."""

    def __init__(self, endpoint: str, tls: EtcdTls | None, clock: Clock) -> None:
        scheme, _, target = endpoint.partition("://")
        self.endpoint = endpoint
        self._clock = clock
        if scheme == "https":
            credentials = (tls or EtcdTls()).credentials()
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self.kv = rpc.KVStub(self._channel)
        self.leases = rpc.LeaseStub(self._channel)
        self.watches = rpc.WatchStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)
        self.cluster = rpc.ClusterStub(self._channel)
        self.auth = rpc.AuthStub(self._channel)
        self.heard = clock.monotonic()
        self.calls: set[Any] = set()  # questions under way
        self.streams: set[Any] = set()
        self.closed = False
        self._answered = False
        self.drained: asyncio.Event | None = None

    async def ask(self, method: Any, request: Any, timeout: float, metadata: Any = None) -> Any:
        """One question, one answer. Raises EtcdError."""
        self._require_connection()
        call = method(request, timeout=timeout, metadata=metadata)
        self.calls.add(call)
        try:
            reply = await call
        except rpc.AioRpcError as error:
            failure = classified(error)
            if failure.verdict in (Verdict.REFUSED, Verdict.BUSY, Verdict.TOKEN):
                self.heard = self._clock.monotonic()
            raise failure from None
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise EtcdError(Verdict.LOST, "the connection was given up") from None
        finally:
            self.calls.discard(call)
            if self.drained is not None and not self.calls:
                self.drained.set()
        self.heard = self._clock.monotonic()
        self._answered = True
        return reply

    def _require_connection(self) -> None:
        """A connection that broke is not made again by itself: what is at the other end now may
        not be what it was, and is looked at first."""
        if self.closed or (
            self._answered and self._channel.get_state() is not grpc.ChannelConnectivity.READY
        ):
            raise EtcdError(Verdict.UNSENT, "the connection is gone")

    @asynccontextmanager
    async def stream(self, method: Any, request: Any, metadata: Any) -> AsyncIterator[Stream]:
        """A stream that begins with ``request``. Raises EtcdError."""
        self._require_connection()
        call = method(metadata=metadata)
        self.streams.add(call)
        try:
            stream = Stream(self, call, self._clock)
            await stream.write(request)
            yield stream
        finally:
            self.streams.discard(call)
            call.cancel()

    async def close(self, *, at_once: bool) -> None:
        """Streams end now, and so do questions if ``at_once``; else their answers are awaited."""
        self.closed = True
        for stream in tuple(self.streams):
            stream.cancel()
        if not at_once and self.calls:
            self.drained = asyncio.Event()
            await self.drained.wait()  # each call has a deadline
        ending = [*self.calls, *self.streams]
        for call in ending:
            call.cancel()
        await self._channel.close()
        for call in ending:
            await call.code()  # gRPC is done with it


class Stream:
    """Both directions of one stream; its failures are EtcdErrors."""

    def __init__(self, member: Member, call: Any, clock: Clock) -> None:
        self._member, self._call, self._clock = member, call, clock

    async def write(self, request: Any) -> None:
        await self._done(self._call.write(request))

    async def read(self) -> Any:
        reply = await self._done(self._call.read())
        if reply is grpc.aio.EOF:
            raise EtcdError(Verdict.LOST, "the stream ended")
        self._member.heard = self._clock.monotonic()
        return reply

    async def _done(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except rpc.AioRpcError as error:
            raise classified(error) from None
        except asyncio.InvalidStateError:
            raise EtcdError(Verdict.LOST, "the stream ended") from None
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise EtcdError(Verdict.LOST, "the connection was given up") from None


def _raise_if_cancelled() -> None:
    """gRPC tells a call that we gave up as if the task were cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
