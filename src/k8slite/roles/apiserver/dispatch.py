"""Dispatch: from a request to the one function that answers it, and from any error to a Status."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from k8slite.api.errors import ApiError, Forbidden, MethodNotAllowed, NotFound, not_found
from k8slite.api.joining import Heartbeat
from k8slite.api.kinds import COMPONENT_STATUS, NODE
from k8slite.api.kinds.componentstatus.types import ComponentStatus
from k8slite.api.meta import ListMeta
from k8slite.api.paths import CONNECT, PathParser, Query, Target
from k8slite.api.user import User
from k8slite.config import Settings
from k8slite.decide.joining import node_name
from k8slite.kit.clock import Clock
from k8slite.pki.files import NODES, Pki
from k8slite.roles.apiserver import forms
from k8slite.roles.apiserver.answers import Ready, of_error, of_object
from k8slite.roles.apiserver.backends import Backends
from k8slite.roles.apiserver.doors import address_of
from k8slite.roles.apiserver.forms import Form
from k8slite.roles.apiserver.information import Information
from k8slite.roles.apiserver.joining import CA, JOIN, Joining
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.metrics import Metrics
from k8slite.roles.apiserver.ongoing import Ongoing
from k8slite.roles.apiserver.reading import Reads
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.streams import Streams
from k8slite.roles.apiserver.vouching import Vouching
from k8slite.roles.apiserver.watching import Watches
from k8slite.roles.apiserver.writing import Call, Writes, read_body
from k8slite.store.cache import WatchCache

log = structlog.get_logger()

#: The component statuses at this moment.
Components = Callable[[], Awaitable[Sequence[ComponentStatus]]]

#: Our own subresource of nodes.
HEARTBEAT = "heartbeat"


async def no_components() -> Sequence[ComponentStatus]:
    return ()


class Dispatcher:
    """All that the doors of one server share."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        cache: WatchCache,
        clock: Clock,
        pki: Pki,
        *,
        health: Mapping[str, Callable[[], str]],
        components: Components,
        joining: Joining,
        vouching: Vouching,
        nodes: Holders | None,
    ) -> None:
        self._clock = clock
        self._joining = joining
        self._vouching = vouching
        self._nodes = nodes
        self._registry = registry
        self._components = components
        self._scheme = registry.scheme
        self._parser = PathParser(registry.scheme)
        self._reads = Reads(registry, cache, clock)
        self._writes = Writes(registry, cache, clock)
        self.ongoing = Ongoing()
        self.watches = Watches(cache, clock, self.ongoing)
        self.backends = Backends(registry, clock, settings.node_port)
        self.streams = Streams(self.backends, pki, self.ongoing)
        self.metrics = Metrics(clock)
        self._information = Information(registry.scheme, self.metrics, health)
        self.metrics.gauge(
            "k8slite_store_revision", "Newest revision in the watch cache.", lambda: cache.revision
        )
        self.metrics.gauge(
            "k8slite_watchers_dropped", "Watchers that read too slowly.",
            lambda: self.watches.dropped,
        )  # fmt: skip
        self.metrics.gauges(
            "apiserver_watchers", "Open watches.", "resource", self.watches.fanout.counts
        )
        self._writers: dict[str, Callable[[Call], Awaitable[Ready]]] = {
            "create": self._writes.create,
            "update": self._writes.update,
            "patch": self._writes.patch,
            "delete": self._writes.delete,
            "deletecollection": self._writes.delete_collection,
        }

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """While inside, requests can be answered. The cache must be ready."""
        self.watches.fanout.open(self._scheme)
        try:
            async with self.streams.opened():
                yield
        finally:
            self.watches.fanout.close()

    def tasks(self) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
        yield "apiserver-bookmarks", self.watches.run()
        yield "apiserver-lag", self.metrics.run()

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request; nothing but the loss of the connection is raised."""
        started = self._clock.monotonic()
        verb = resource = ""
        answer: web.StreamResponse
        try:
            target = self._target(request)
            verb, resource = target.verb, target.kind.plural if target.kind else ""
            user = await self._admit(request, target)
            answer = await self._answer(request, target, user)
        except ApiError as error:
            answer = of_error(error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request failed", method=request.method, path=request.raw_path[:200])
            answer = of_error(ApiError("internal error; the server's log says more"))
        self.metrics.observe(verb, resource, answer.status, self._clock.monotonic() - started)
        return answer

    def _target(self, request: BaseRequest) -> Target:
        """Raises what the path is guilty of, but only to those whom the door admits."""
        try:
            return self._parser.parse(request.method, request.raw_path)
        except ApiError:
            nothing = Target(request.method, "/", Query())
            request.protocol.door.admit(request, nothing)  # type: ignore[attr-defined]
            raise

    async def _admit(self, request: BaseRequest, target: Target) -> User:
        """Who asks. Raises Unauthorized, Forbidden, MethodNotAllowed, Unavailable."""
        user: User = request.protocol.door.admit(request, target)  # type: ignore[attr-defined]
        if NODES in user.groups:
            await self._vouching.require(user, request.transport)
        return user

    async def _answer(self, request: BaseRequest, target: Target, user: User) -> web.StreamResponse:
        if target.kind is None:
            if target.path.split("/", 2)[1] in (CA, JOIN):
                return await self._joining.answer(request, target, user, _peer(request))
            return await self._information.answer(request, target)
        if target.kind is NODE and target.subresource == HEARTBEAT:
            return await self._heartbeat(target, user)
        _require_served(target)
        if target.verb == "connect":
            if NODES in user.groups:
                raise Forbidden(f"a node may not use {target.subresource} of {target.of.plural}")
            return await self.streams.serve(request, target)
        headers = request.headers
        form = forms.negotiate(headers.get("Accept", ""), headers.get("User-Agent", ""), target)
        if target.of.virtual and target.verb != "create":
            return await self._virtual(target, form)
        if target.subresource == "scale" and target.verb == "get":
            await self._registry.read_barrier()
            return of_object(self._registry.scale(target.namespace, target.name))
        match target.verb:
            case "get":
                return await self._reads.get(target, form)
            case "list":
                return await self._reads.list(target, form)
            case "watch":
                return await self.watches.serve(request, target, form)
        body = await read_body(request)
        call = Call(target, form, user, headers.get("Content-Type", ""), body)
        return await self._writers[target.verb](call)

    async def _heartbeat(self, target: Target, user: User) -> Ready:
        """``POST /api/v1/nodes/NAME/heartbeat``, our own: a sign of life, kept as a lease of the
        store; it costs no disk write."""
        own = node_name(user.name, user.groups)
        if own and own != target.name:
            raise Forbidden(f"node {own} may give signs of its own life, and of no other's")
        if self._nodes is None:
            raise NotFound("this server keeps no signs of life")
        if target.method != "POST":
            raise MethodNotAllowed(f"{target.method} is not served for {target.path[:200]}")
        await self._nodes.heartbeat(target.name)
        return of_object(Heartbeat(seconds=self._nodes.ttl))

    async def _virtual(self, target: Target, form: Form) -> Ready:
        """Component statuses: asked when read."""
        if target.of is not COMPONENT_STATUS:
            raise MethodNotAllowed(f"{target.of.plural} can only be created")
        found = await self._components()
        entries = [forms.Unstored(COMPONENT_STATUS, status) for status in found]
        now = self._clock.now()
        if target.verb == "list":
            return Ready(forms.many(forms.Page(COMPONENT_STATUS, entries, ListMeta()), form, now))
        for entry in entries:
            if entry.object.metadata.name == target.name:
                return Ready(forms.one(entry, form, now))
        raise not_found(COMPONENT_STATUS.plural, target.name)


#: Verbs of the subresources that are no second face of their object.
_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "binding": ("create",),
    "eviction": ("create",),
    "finalize": ("update",),
}


def _peer(request: BaseRequest) -> str:
    """The address that a request came from."""
    transport = request.transport
    return address_of(transport.get_extra_info("peername") if transport is not None else None)


def _require_served(target: Target) -> None:
    """Raises NotFound and MethodNotAllowed."""
    kind, subresource = target.of, target.subresource
    if subresource and subresource not in kind.subresources:
        raise NotFound(f"the server could not find the requested resource {target.path[:200]}")
    if not target.verb or (not subresource and target.verb not in kind.verbs):
        raise MethodNotAllowed(
            f"{target.method} is not served for {target.path[:200]}: {kind.plural} can "
            f"{', '.join(kind.verbs)}"
        )
    if subresource and subresource not in CONNECT:
        allowed = _ALLOWED.get(subresource, ("get", "update", "patch"))
        if target.verb not in allowed:
            raise MethodNotAllowed(
                f"{target.method} is not served for {target.path[:200]}: it can "
                f"{', '.join(allowed)}"
            )
