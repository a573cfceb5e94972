"""The composition root: settings in, one process with its roles out.

The only place that knows every room. One TaskGroup owns all roles; the first that fails ends the
rest. Stopping leaves containers and portal rules where they are, for a crash is an ordinary start:
the next agent adopts them. ``uninstall`` is what takes them away.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import structlog

from k8slite import log as logs
from k8slite.api.kinds import SCHEME
from k8slite.client.events import EventRecorder
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.netfilter.choice import choose_edge
from k8slite.pki.files import Pki, PkiError
from k8slite.preflight import BadSettings, HostTaken, host_claim, resolve
from k8slite.roles.apiserver import admission
from k8slite.roles.apiserver.bootstrap import MASTER_GRACE, Bootstrap
from k8slite.roles.apiserver.components import Components
from k8slite.roles.apiserver.leases import Holders
from k8slite.roles.apiserver.local import LocalClient
from k8slite.roles.apiserver.registry import Registry
from k8slite.roles.apiserver.server import ApiServer, PortInUse
from k8slite.roles.controllers import Controllers
from k8slite.roles.proxy import Proxy
from k8slite.roles.scheduler import Scheduler
from k8slite.store.base import Store, StoreCorrupt, StoreUnavailable
from k8slite.store.cache import WatchCache

log = structlog.get_logger()


def open_store(settings: Settings, clock: Clock) -> Store:
    if settings.store == "memory":
        from k8slite.store.memory import MemoryStore

        return MemoryStore(clock)
    if settings.store == "sqlite":
        from k8slite.store.sqlite import SqliteStore

        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return SqliteStore(settings.data_dir / "store.db", clock)
    raise BadSettings(f"--store {settings.store}: sqlite or memory")


@dataclass(frozen=True, slots=True)
class Around:
    """What every role of this process shares."""

    settings: Settings
    clock: Clock
    store: Store
    cache: WatchCache
    registry: Registry
    client: LocalClient
    informers: CacheInformers
    nodes: Holders
    pki: Pki
    tasks: asyncio.TaskGroup

    def start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function until the process ends; its end by itself is a fault."""

        async def owned() -> None:
            await forever(name, run())

        self.tasks.create_task(owned(), name=name)

    def recorder(self, component: str) -> EventRecorder:
        recorder = EventRecorder(self.client, self.clock, component, self.settings.node_name)
        self.start(f"events-{component}", recorder.run)
        return recorder


@asynccontextmanager
async def around(settings: Settings, clock: Clock) -> AsyncIterator[Around]:
    """Store, watch cache, registry and clients; entered when the cache holds everything."""
    async with open_store(settings, clock) as store, asyncio.TaskGroup() as tasks:
        cache = WatchCache(store, SCHEME, clock)
        nodes = Holders(store, cache, "nodes", settings.node_grace)
        chosen = admission.chain(settings.admission_control, cache)
        registry = Registry(store, cache, SCHEME, clock, settings, chosen)
        shared = Around(
            settings=settings,
            clock=clock,
            store=store,
            cache=cache,
            registry=registry,
            client=LocalClient(registry, nodes),
            informers=CacheInformers(cache),
            nodes=nodes,
            pki=Pki(settings.data_dir, clock),
            tasks=tasks,
        )
        shared.start("watch-cache", cache.run)
        await cache.wait_ready()
        yield shared


def start_control_plane(shared: Around) -> ApiServer:
    """Role a: API server, bootstrap, scheduler, controllers."""
    settings, clock = shared.settings, shared.clock
    scheduler = Scheduler(
        shared.client, shared.informers, shared.recorder("scheduler"), clock, settings
    )
    controllers = Controllers(
        shared.client, shared.informers, shared.recorder("controller-manager"), clock, settings,
        shared.nodes,
    )  # fmt: skip

    async def store_health() -> str:
        return f'{{"store":"{settings.store}","revision":{await shared.store.revision()}}}'

    async def controllers_health() -> str:
        return _ok(controllers.healthy(), "a controller is not running")

    async def scheduler_health() -> str:
        return _ok(scheduler.healthy(), "the scheduler is not running")

    masters = Holders(shared.store, shared.cache, "masters", MASTER_GRACE)
    server = ApiServer(
        settings, shared.registry, shared.cache, clock,
        pki=shared.pki,
        health={"watch-cache": lambda: _undecodable(shared.cache)},
        components=Components(
            {
                "etcd-0": store_health,
                "controller-manager": controllers_health,
                "scheduler": scheduler_health,
            }
        ),
    )  # fmt: skip
    bootstrap = Bootstrap(shared.registry, masters, settings, clock)
    shared.start("apiserver", server.run)
    shared.start("bootstrap", bootstrap.run)
    shared.start("scheduler", scheduler.run)
    shared.start("controllers", controllers.run)
    return server


def _undecodable(cache: WatchCache) -> str:
    """What is wrong with the data, if some of it cannot be read."""
    keys = list(cache.undecodable)
    return f"{len(keys)} stored objects cannot be read, {keys[0]} for one" if keys else ""


def _ok(well: bool, otherwise: str) -> str:
    if not well:
        raise RuntimeError(otherwise)
    return "ok"


def start_node(shared: Around) -> None:
    """Role i: kubelet and service proxy."""
    from k8slite.roles.kubelet import Kubelet
    from k8slite.roles.kubelet.docker import DockerRuntime

    settings, clock = shared.settings, shared.clock
    runtime = DockerRuntime(settings, clock)
    kubelet = Kubelet(
        settings, shared.client, shared.informers, shared.recorder("kubelet"), clock, runtime,
        shared.pki,
    )  # fmt: skip
    edge = choose_edge(clock)
    proxy = Proxy(settings, shared.informers, shared.recorder("kube-proxy"), clock, edge)

    async def run_proxy() -> None:
        try:
            await proxy.run()
        finally:
            await edge.close()

    shared.start("kubelet", kubelet.run)
    shared.start("proxy", run_proxy)


async def run(settings: Settings, clock: Clock) -> None:
    """Run this host's roles until cancelled."""
    claim = host_claim() if "i" in settings.roles else nullcontext()
    with claim:
        async with around(settings, clock) as shared:
            server = start_control_plane(shared)
            await server.started.wait()
            if "i" in settings.roles:
                start_node(shared)
            log.info("started", role=settings.roles, node=settings.node_name)


async def uninstall(settings: Settings) -> list[str]:
    """Remove what an agent with these settings declared on the host; says what was removed."""
    from k8slite.roles.kubelet.docker import DockerRuntime

    clock = Clock()
    removed: list[str] = await DockerRuntime(settings, clock).uninstall()
    edge = choose_edge(clock)
    await edge.remove()
    await edge.close()
    return [*removed, "chains KUBE-PORTALS-CONTAINER and KUBE-PORTALS-HOST"]


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of however many groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _until_told(settings: Settings) -> None:
    """Run, and end in good order on SIGTERM or SIGINT."""
    task = asyncio.current_task()
    assert task is not None
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stopping.set()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await run(settings, Clock())
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def _raise_descriptor_limit() -> None:
    """The proxy needs a descriptor or two a connection: take all that the kernel grants us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


#: The disk's own words for not taking any more.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: What may stand in the way of a start; the message is for whoever typed the command.
EXPECTED = (
    StoreCorrupt,
    StoreUnavailable,
    PortInUse,
    PkiError,
    PermissionError,
    BadSettings,
    HostTaken,
)


def main(settings: Settings) -> int:
    """Run until told to stop; the exit code. What stands in the way of a start is one line."""
    try:
        logs.configure(settings.log_level)
        _raise_descriptor_limit()
        asyncio.run(_until_told(resolve(settings)))
    except (BaseExceptionGroup, ValueError, OSError, *EXPECTED) as error:
        first = _first(error)
        if isinstance(first, OSError) and first.errno in _DISK:
            first = StoreUnavailable(
                f"--data-dir {settings.data_dir} cannot be written to ({first.strerror}): make "
                "room on its disk, or choose another folder"
            )
        if not isinstance(first, (ValueError, *EXPECTED)):
            raise
        print(f"k8slite: {first}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
