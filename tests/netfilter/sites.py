"""A network namespace with an event loop of its own inside: code under test runs in there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.lab.network import Namespace

from k8slite.kit.loop import run_shared

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def enter(path: str) -> None:
    """Move this thread, and the threads and processes it makes, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


class Site(Namespace):
    """A namespace, and a thread in it that runs an asyncio loop."""

    def __enter__(self) -> Self:
        super().__enter__()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name=self.name)
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        super().__exit__(exc_type, exc, traceback)

    def _serve(self, started: threading.Event) -> None:
        enter(self.path)
        run_shared(self._live(started))

    async def _live(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        started.set()
        await self._over.wait()

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start ``work`` in here."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, work: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        """Run ``work`` in here to its end; after ``timeout`` seconds it is cancelled."""
        return self.begin(asyncio.wait_for(work, timeout)).result()


def cable(one: Namespace, ours: str, other: Namespace, theirs: str, device: str) -> None:
    """A veth pair: ``device`` in ``one`` at ``ours``, eth0 in ``other`` at ``theirs``."""
    one.ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", other.name)
    one.ip("addr", "add", ours, "dev", device)
    one.ip("link", "set", device, "up")
    other.ip("addr", "add", theirs, "dev", "eth0")
    other.ip("link", "set", "eth0", "up")
