"""A whole cluster for the command line: control plane and a node without containers.

It runs in a thread of its own, so that commands can be called as the shell calls them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import structlog
from tests.proxy.served import Node

from k8slite.agent.master import master, start_control_plane
from k8slite.api.kinds import COMPONENT_STATUS
from k8slite.client.http import HttpClient
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import stop
from k8slite.roles.kubelet import Kubelet
from k8slite.roles.kubelet.hollow import HollowRuntime

T = TypeVar("T")

#: The master's address is one that others could reach, as it must be; everybody here dials
#: loopback, where the node says it is.
NODE, LOOPBACK = "192.168.0.10", "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all different, because all are held at once."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Cluster:
    """The cluster's thread, as tests see it. ``server`` is its URL."""

    def __init__(self, data_dir: Path) -> None:
        port, secure_port, read_only_port, node_port = free_ports(4)
        self.settings = Settings(
            node_name=NODE,
            node_ip=NODE,
            data_dir=data_dir,
            store="memory",
            port=port,
            secure_port=secure_port,
            read_only_port=read_only_port,
            node_port=node_port,
        )
        self.server = ""
        self.runtime: Any = None
        self.proxy = Node()  # it serves nothing but what a test says
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._serve, name="cluster")

    @property
    def kubeconfig(self) -> Path:
        return self.settings.data_dir / "admin.kubeconfig"

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something on the cluster's loop and wait for it."""

        async def main() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(main(), self._loop).result(timeout=30)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()
            self._loop.close()

    async def _run(self) -> None:
        self._main = asyncio.create_task(self._roles(), name="cluster")
        await asyncio.wait([self._main])
        if not self._main.cancelled():
            self._main.result()

    async def _roles(self) -> None:
        async with master(self.settings, Clock()) as control:
            shared = control.around
            server = start_control_plane(control)
            await server.started.wait()
            self.runtime = HollowRuntime(shared.clock)
            settings = replace(self.settings, node_ip=LOOPBACK)
            kubelet = Kubelet(
                settings, shared.client, shared.informers, shared.recorder("kubelet"),
                shared.clock, self.runtime, shared.certificates, services=self.proxy.report,
            )  # fmt: skip
            shared.start("kubelet", kubelet.run)
            self.server = f"http://{LOOPBACK}:{self.settings.port}"
            await self._until_whole()
            self._started.set()

    async def _until_whole(self) -> None:
        """Until scheduler and controllers run too."""
        async with HttpClient(self.server) as client, asyncio.timeout(30):
            while True:
                parts = (await client.list(COMPONENT_STATUS)).items
                if all(part.conditions[0].status == "True" for part in parts):
                    return
                await asyncio.sleep(0.01)

    @contextmanager
    def _logs_apart(self) -> Iterator[None]:
        """What the cluster's thread logs goes to a file, not among what a command prints."""
        before = structlog.get_config()["logger_factory"]
        with (self.settings.data_dir / "log").open("w") as file:

            def logger(*args: Any) -> Any:
                if threading.current_thread() is self._thread:
                    return structlog.PrintLogger(file)
                return before(*args)

            structlog.configure(logger_factory=logger)
            try:
                yield
            finally:
                structlog.configure(logger_factory=before)

    @contextmanager
    def running(self) -> Iterator[Cluster]:
        with self._logs_apart():
            self._thread.start()
            self._started.wait(timeout=30)
            if self._failure is not None:
                raise self._failure
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=30)
                self._thread.join(timeout=30)
                if self._failure is not None:
                    raise self._failure

    async def _end(self) -> None:
        assert self._main is not None
        await stop(self._main)
