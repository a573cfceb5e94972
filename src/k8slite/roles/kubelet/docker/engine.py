"""The way to the engine: its address, its answers, and whether its door is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from aiodocker import Docker, DockerError

from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.runtime import NoSuchContainer, RuntimeFailure, RuntimeGone

T = TypeVar("T")

#: Everything that may come of talking to an engine that is not there, or not well.
TROUBLES = (DockerError, RuntimeFailure, OSError, aiohttp.ClientError)
#: Seconds that the engine is given to say its version.
ANSWER = 5.0


def connect(host: str) -> Docker:
    """``unix:///path`` or ``tcp://host:port``."""
    if host.startswith("unix://"):
        # As many connections as there are followers of logs and runs of commands.
        connector = aiohttp.UnixConnector(host.removeprefix("unix://"), limit=0)
        return Docker("http://docker", connector=connector)
    return Docker(host)


@asynccontextmanager
async def connected(host: str) -> AsyncIterator[Docker]:
    docker = connect(host)
    try:
        yield docker
    finally:
        await docker.close()
        await docker.connector.close()


async def answer(awaitable: Awaitable[T]) -> T:
    """What the engine answers, its errors turned into the runtime's."""
    try:
        return await awaitable
    except DockerError as error:
        if error.status == 900:
            raise RuntimeGone(sentence(error)) from None
        if error.status == 404 and "container" in error.message.lower():
            raise NoSuchContainer(error.message) from None
        raise RuntimeFailure(error.message) from None
    except (OSError, aiohttp.ClientError) as error:
        raise RuntimeGone(sentence(error)) from None


def sentence(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "Docker does not answer"
    text = error.message if isinstance(error, DockerError) else str(error)
    return " ".join(text.split()) or type(error).__name__


class Door:
    """Whether the engine takes new connections.

    Containers die when Docker shuts down, and nothing may be started in their place: what is
    created then is left with mounts that no later Docker can remove. Docker closes its door
    before it stops the first container, but serves open connections to the very end. So a death
    is believed only after the engine took a new connection.
    """

    def __init__(self, host: str, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._open_at = float("-inf")

    async def knock(self) -> dict[str, Any]:
        """The engine's version, over a new connection. Raises one of TROUBLES."""
        at = self._clock.now()
        async with asyncio.timeout(ANSWER), connected(self._host) as docker:
            version: dict[str, Any] = await docker.version()
        self._open_at = at
        return version

    async def was_open(self, when: float) -> None:
        """Raises one of TROUBLES unless the door was open later than ``when`` (Unix seconds)."""
        if when >= self._open_at:
            await self.knock()
