"""Requests that go on and on: watches, logs, shells, proxied streams.

Each ends with its connection, at its own deadline, or when the server ends; whichever is first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.web_request import BaseRequest


class Ongoing:
    """The requests of one server that are in the middle of a stream."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()

    def __len__(self) -> int:
        return len(self._scopes)

    @asynccontextmanager
    async def until(
        self, request: BaseRequest, seconds: float | None = None
    ) -> AsyncIterator[None]:
        """Inside, the request may go on for ``seconds``. Raises TimeoutError at the end of them,
        and when the server ends; it is cancelled when the client goes."""
        protocol: Any = request.protocol
        if request.transport is None:
            raise ConnectionResetError("the client is gone")
        protocol.streaming = asyncio.current_task()
        try:
            async with asyncio.timeout(seconds) as scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        finally:
            protocol.streaming = None

    def end(self) -> None:
        """End them all in good order."""
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)
