"""The proxy's sign of life, ``/healthz``, and what it counts, ``/metrics``: on 127.0.0.1:10249, as
kube-proxy had them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from k8slite.roles.proxy.telling.report import METRICS_TYPE

HEALTH_PORT = 10_249


@asynccontextmanager
async def serve_health(
    trouble: Callable[[], str], metrics: Callable[[], AsyncIterator[bytes]], port: int = HEALTH_PORT
) -> AsyncIterator[int]:
    """Answer while the context lasts; yields the port. ``trouble()`` is "" when all is well, else
    what is wrong, which is answered with 503. Raises OSError when the port is taken."""

    async def healthz(request: web.Request) -> web.Response:
        wrong = trouble()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def counted(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": METRICS_TYPE})
        await response.prepare(request)
        async for piece in metrics():
            await response.write(piece)
        return response

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", counted)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
