"""Tells the cluster that this node exists, what it can hold, and that it lives.

The heartbeat is a lease and costs no write. The Node object is written when something changed
(the engine went or came back: at once) or when its last word is five minutes old.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec.structs import replace

from k8slite import __version__
from k8slite.api.errors import ApiError, Conflict, Invalid, NotFound
from k8slite.api.kinds.node.types import Node, NodeSystemInfo
from k8slite.api.nodestats import CpuUse, MemoryUse, Use
from k8slite.client.base import Client
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.decide.nodestatus import HostFacts, is_ready, node_status, worth_writing
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker.pause import architecture
from k8slite.roles.kubelet.registration import Registration, is_about_cidr
from k8slite.roles.kubelet.runtime import Runtime

log = structlog.get_logger()

#: Seconds between two signs of life at most; sooner where each is good for less than ``BEATS``
#: of them, so that a few may be lost.
HEARTBEAT, BEATS = 10.0, 4
_SHORTEST = 0.25
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # nanoseconds of a unit of /proc/stat
_FIRST_LOOK = 2.0  # seconds to wait for the engine before the node is shown without it


class NodeReporter:
    def __init__(
        self,
        settings: Settings,
        client: Client,
        registration: Registration,
        recorder: EventRecorder,
        clock: Clock,
        runtime: Runtime,
        network_trouble: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._client = client
        self._registration = registration
        self._recorder = recorder
        self._clock = clock
        self._runtime = runtime
        self._network_trouble = network_trouble
        self._news = asyncio.Event()
        self._pause = HEARTBEAT

    async def run(self) -> None:
        leave = self._runtime.subscribe(self._on_runtime)
        try:
            try:
                async with asyncio.timeout(_FIRST_LOOK):
                    await self._runtime.wait_ready()
            except TimeoutError:
                pass
            while True:
                self._news.clear()
                await self._report()
                try:
                    async with asyncio.timeout(self._pause):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            leave()

    def _on_runtime(self, uid: str) -> None:
        if not uid:
            self._news.set()

    async def _report(self) -> None:
        try:
            good_for = await self._client.heartbeat(self._settings.node_name)
            self._pause = min(HEARTBEAT, max(good_for / BEATS, _SHORTEST))
            await self._write()
        except ApiError as error:
            # The next round, in ten seconds at most, tries again.
            log.warning("node report failed", role="kubelet", error=error.message)

    async def _write(self) -> None:
        try:
            node, trouble = await self._registered()
        except (Conflict, NotFound):
            self._news.set()  # somebody else wrote the node: look at it again
            return
        facts = measure(self._settings, self._runtime)
        facts = dataclasses.replace(
            facts, trouble=trouble or facts.trouble, network=self._network_trouble()
        )
        now = self._clock.now()
        status = node_status(node.status, facts, now)
        if not worth_writing(node.status, status, now):
            return
        fresh = replace(node, status=status)
        try:
            await self._client.update(fresh, subresource="status")
        except Conflict:
            self._news.set()  # somebody else wrote the node: look at it again
            return
        if is_ready(fresh) != is_ready(node):
            reason = "NodeReady" if is_ready(fresh) else "NodeNotReady"
            text = f"Node {node.metadata.name} status is now: {reason}"
            self._recorder.event(fresh, reason, text)

    async def _registered(self) -> tuple[Node, str]:
        """The Node object with the pod network that there is; what is wrong with that, or ""."""
        cidr = self._runtime.info.pod_cidr
        try:
            return await self._registration.present(cidr), ""
        except Invalid as error:
            if not is_about_cidr(error):
                raise
            why = f"the pod network {cidr} is not this node's any more: {error.message}"
        mend = "remove the containers in it and restart the agent, which then gets another"
        return await self._registration.present(""), f"{why}; {mend}"


def measure(settings: Settings, runtime: Runtime) -> HostFacts:
    """The host as it is now: a few reads from /proc and two from the file system."""
    memory = _meminfo(Path("/proc/meminfo"))
    root = runtime.info.data_root or str(settings.data_dir)
    disk = os.statvfs(root if os.path.isdir(root) else "/")
    return HostFacts(
        ip=settings.node_ip or settings.node_name,
        name=settings.node_name,
        port=settings.node_port,
        cpus=len(os.sched_getaffinity(0)),
        memory=memory.get("MemTotal", 0),
        memory_free=memory.get("MemAvailable", 0),
        disk_free=disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0,
        inodes_free=disk.f_favail / disk.f_files if disk.f_files else 1.0,
        pids_free=_pids_free(),
        info=system_info(runtime),
        trouble=_one_line(runtime.trouble),
    )


def host_use() -> Use:
    """The processor time that the host spent, and its memory that is not to be had."""
    everything = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, everything[1:9])
    spent = (user + nice + system + irq + softirq + steal) * _TICK
    memory = _meminfo(Path("/proc/meminfo"))
    used = memory.get("MemTotal", 0) - memory.get("MemAvailable", 0)
    return Use(cpu=CpuUse(usage_core_nano_seconds=spent), memory=MemoryUse(working_set_bytes=used))


def _one_line(trouble: str) -> str:
    return f"container runtime is down: {trouble}" if trouble else ""


def system_info(runtime: Runtime) -> NodeSystemInfo:
    engine = runtime.info
    version = f"v{__version__}"
    return NodeSystemInfo(
        machine_id=_first_line("/etc/machine-id"),
        system_uuid=_first_line("/sys/class/dmi/id/product_uuid"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_name(),
        container_runtime_version=f"{engine.name}://{engine.version}",
        kubelet_version=version,
        kube_proxy_version=version,
        operating_system="linux",
        architecture=architecture(platform.machine()),
    )


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _meminfo(path: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words:
            found[name] = int(words[0]) * (1024 if len(words) > 1 else 1)
    return found


def _pids_free() -> float:
    limit = int(_first_line("/proc/sys/kernel/pid_max") or 0)
    running = _first_line("/proc/loadavg").split()
    if not limit or len(running) < 4:
        return 1.0
    return 1.0 - int(running[3].partition("/")[2]) / limit


def disk_use(path: str) -> tuple[int, int]:
    """Bytes used and bytes in all of the file system that holds ``path``."""
    usage = shutil.disk_usage(path)
    return usage.used, usage.total
