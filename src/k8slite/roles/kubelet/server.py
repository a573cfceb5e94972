"""The node API on port 10250: logs, commands, pods, use of resources, health.

TLS; nobody without a certificate of the cluster's authority gets past the handshake, and nobody
but masters any further: a node has no business with the pods of another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from k8slite.api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    NotFound,
    Unavailable,
    not_found,
)
from k8slite.api.kinds import POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.nodestats import CpuUse, MemoryUse, NodeStats, PodReference, PodUse, Use
from k8slite.config import Settings
from k8slite.decide.pods.state import ObservedContainer, Run
from k8slite.kit.clock import Clock, parse_rfc3339
from k8slite.pki.files import MASTERS
from k8slite.pki.peer import subject
from k8slite.roles.kubelet.execing import ExecRequest, serve_exec
from k8slite.roles.kubelet.node import host_use
from k8slite.roles.kubelet.runtime import LogOptions, Runtime, RuntimeFailure

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Certificates(Protocol):
    """Where the server's TLS comes from: ``pki.files.Pki`` of a master, ``NodeIdentity`` of a
    machine that joined. What they hand out takes renewed certificates by itself."""

    def server_context(self, name: str = ...) -> ssl.SSLContext: ...


class ServiceReport(Protocol):
    """What the node's proxy tells of its services, in pieces (``roles.proxy.telling.report``)."""

    def stats(
        self, namespace: str = "", services: frozenset[str] = ..., *, endpoints: bool
    ) -> AsyncIterator[bytes]: ...

    def metrics(self) -> AsyncIterator[bytes]: ...


class NodeServer:
    """``pods`` gives the node's pods as they are wanted; ``services`` is None without a proxy."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        runtime: Runtime,
        pods: Callable[[], Iterable[Pod]],
        pki: Certificates,
        services: ServiceReport | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._pods = pods
        self._pki = pki
        self._services = services

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_status, _masters_only])
        place = "{namespace}/{pod}/{container}"
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/pods", self._list_pods)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/stats/summary", self._stats)
        if self._services is not None:
            app.router.add_get("/stats/services", self._service_stats)
            app.router.add_get("/metrics", self._service_metrics)
        app.router.add_get(f"/containerLogs/{place}", self._logs)
        app.router.add_get(f"/exec/{place}", self._exec)
        return app

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when the port is taken."""
        context = self._pki.server_context("node")
        context.verify_mode = ssl.CERT_REQUIRED
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            host = self._settings.node_ip or None
            site = web.TCPSite(runner, host, self._settings.node_port, ssl_context=context)
            await site.start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        if self._runtime.trouble:
            raise Unavailable(f"container runtime is down: {self._runtime.trouble}")
        return web.Response(text="ok")

    async def _list_pods(self, request: web.Request) -> web.StreamResponse:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(self._pods())}
        return _json(body)

    # -- logs ----------------------------------------------------------------------------------

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod, name = self._pod(request), request.match_info["container"]
        query = request.query
        container = self._container(pod, name, previous=_flag(query.get("previous")))
        options = LogOptions(
            follow=_flag(query.get("follow")),
            timestamps=_flag(query.get("timestamps")),
            tail=_number(query, "tailLines"),
            since=self._since(query),
        )
        left = _number(query, "limitBytes")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        async for piece in self._runtime.logs(container.id, options):
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            await response.write(piece)
            if left == 0:
                break
        await response.write_eof()
        return response

    def _since(self, query: Any) -> float:
        seconds = _number(query, "sinceSeconds")
        if seconds is not None:
            return self._clock.now() - seconds
        text = query.get("sinceTime")
        if not text:
            return 0.0
        try:
            return parse_rfc3339(text)
        except ValueError:
            raise BadRequest(f"sinceTime: not an RFC 3339 time: {text[:40]}") from None

    # -- commands ------------------------------------------------------------------------------

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        pod, name = self._pod(request), request.match_info["container"]
        container = self._container(pod, name)
        if container.run is not Run.RUNNING:
            raise BadRequest(f"container {name} of pod {pod.metadata.name} is not running")
        query = request.query
        command = tuple(query.getall("command", ()))
        if not command:
            raise BadRequest("command: must be given")
        wish = ExecRequest(
            container.id,
            command,
            stdin=_flag(query.get("stdin")),
            stdout=_flag(query.get("stdout", "1")),
            stderr=_flag(query.get("stderr", "1")),
            tty=_flag(query.get("tty")),
        )
        return await serve_exec(request, self._runtime, wish)

    # -- finding -------------------------------------------------------------------------------

    def _pod(self, request: web.Request) -> Pod:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        for pod in self._pods():
            if pod.metadata.name == name and pod.metadata.namespace == namespace:
                return pod
        raise not_found(POD.plural, name)

    def _container(self, pod: Pod, name: str, *, previous: bool = False) -> ObservedContainer:
        observed = self._runtime.pod(pod.metadata.uid)
        found = observed.previous(name) if previous else observed.latest(name)
        if found is None and previous:
            raise BadRequest(
                f'previous terminated container "{name}" in pod "{pod.metadata.name}" not found'
            )
        if found is not None:
            return found
        if all(c.name != name for c in (*pod.spec.containers, *pod.spec.init_containers)):
            raise NotFound(f"container {name} is not valid for pod {pod.metadata.name}")
        raise BadRequest(
            f'container "{name}" in pod "{pod.metadata.name}" is waiting to start: '
            f"{_waiting_reason(pod, name)}"
        )

    # -- use of resources ----------------------------------------------------------------------

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        seconds = self._clock.monotonic()
        pods = tuple([await self._pod_use(pod) for pod in self._pods()])
        return _json(NodeStats(seconds=seconds, node=host_use(), pods=pods))

    async def _service_stats(self, request: web.Request) -> web.StreamResponse:
        assert self._services is not None
        query = request.query
        services = frozenset(query.getall("service", ()))
        endpoints = _flag(query.get("endpoints"))
        pieces = self._services.stats(query.get("namespace", ""), services, endpoints=endpoints)
        return await _pieces(request, pieces, "application/json")

    async def _service_metrics(self, request: web.Request) -> web.StreamResponse:
        assert self._services is not None
        return await _pieces(request, self._services.metrics(), "text/plain; version=0.0.4")

    async def _pod_use(self, pod: Pod) -> PodUse:
        observed = self._runtime.pod(pod.metadata.uid)
        running = [c for c in observed.containers if c.run is Run.RUNNING]
        uses = await asyncio.gather(*(self._runtime.usage(c.id) for c in running))
        return PodUse(
            pod_ref=PodReference(name=pod.metadata.name, namespace=pod.metadata.namespace),
            containers=tuple(
                Use(
                    name=container.name,
                    cpu=CpuUse(usage_core_nano_seconds=use.cpu),
                    memory=MemoryUse(working_set_bytes=use.memory),
                )
                for container, use in zip(running, uses, strict=True)
            ),
        )


def _waiting_reason(pod: Pod, name: str) -> str:
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        if status.name == name and status.state.waiting is not None:
            return status.state.waiting.reason
    return "ContainerCreating"


@web.middleware
async def _masters_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.get_extra_info("ssl_object") is not None:
        peer = subject(request.get_extra_info("peercert"))
        if MASTERS not in peer.organizations:
            raise Forbidden(f"{peer.name or 'nobody'} is no master: the node API serves masters")
    return await handler(request)


@web.middleware
async def _errors_as_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _json(error.status(), status=error.code)
    except RuntimeFailure as error:
        return _json(Unavailable(str(error)).status(), status=503)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


async def _pieces(
    request: web.Request, pieces: AsyncIterator[bytes], content_type: str
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": f"{content_type}; charset=utf-8"})
    await response.prepare(request)
    async for piece in pieces:
        await response.write(piece)
    return response


def _flag(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true")


def _number(query: Any, name: str) -> int | None:
    text = query.get(name)
    if text in (None, ""):
        return None
    if not text.isdigit():
        raise BadRequest(f"{name}: must be a number of at least 0, not {text[:20]!r}")
    return int(text)
