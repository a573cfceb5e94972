"""Warm sandboxes: pause containers that already run in the pod network when a pod arrives.

A pod adopts one by renaming it (atomic in Docker: a crash leaves it either nobody's or the
pod's) and by writing its name into the sandbox's ``hostname`` and ``hosts`` files, which Docker
mounts into every container that joins. The kernel's host name is set by ``uts``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from aiodocker import Docker, DockerError

from k8slite.config import Settings
from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import ObservedContainer, Run
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import names
from k8slite.roles.kubelet.docker.uts import HostNames, Naming, bundles_beside
from k8slite.roles.kubelet.runtime import RuntimeFailure

log = structlog.get_logger()

#: Seconds of quiet before the stock is filled up: a burst of pods has the engine for itself.
_QUIET = 0.3
#: Late host names in a row after which warm sandboxes are given up.
_TOO_OFTEN = 5


@dataclass(frozen=True, slots=True)
class _Warm:
    id: str
    ip: str
    created_at: float
    started_at: float
    image_id: str
    hostname_file: Path
    hosts_file: Path
    bundles: Path


class WarmSandboxes:
    """The stock. ``start`` makes one more and returns what Docker's inspect says of it."""

    def __init__(
        self, settings: Settings, clock: Clock, start: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        self._wanted = settings.warm_sandboxes
        self._clock = clock
        self._start = start
        self._names = HostNames()
        self._late = 0
        self._stock: deque[_Warm] = deque()
        self._adopted: dict[str, Path] = {}  # sandbox id → where containerd keeps bundles
        self._starts = 0
        self._last_start = float("-inf")
        self._missing = asyncio.Event()
        self._missing.set()

    def close(self) -> None:
        self._names.close()

    def retire(self) -> None:
        """Make no more of them."""
        self._wanted = 0

    def forget(self) -> None:
        """The engine was away: what is in stock will be taken back when it is seen again."""
        self._stock.clear()
        self._missing.set()

    def drop(self, id: str) -> None:
        self._adopted.pop(id, None)
        for warm in list(self._stock):
            if warm.id == id:
                self._stock.remove(warm)
                self._missing.set()

    async def take_back(self, inspected: dict[str, Any]) -> bool:
        """Put a warm sandbox of an earlier life into stock; False when it is of no use."""
        warm = _usable(inspected)
        if warm is None or len(self._stock) >= self._wanted:
            return False
        self._stock.append(warm)
        return True

    def note_adopted(self, inspected: dict[str, Any]) -> None:
        """A pod's sandbox turns out to have been warm once: its containers need naming."""
        warm = _usable(inspected)
        if warm is not None:
            self._adopted[warm.id] = warm.bundles

    @asynccontextmanager
    async def pausing(self) -> AsyncIterator[None]:
        """While this is held (a pod is being started) the stock is not filled."""
        self._starts += 1
        try:
            yield
        finally:
            self._starts -= 1
            self._last_start = self._clock.monotonic()

    async def run(self) -> None:
        """Keep the stock filled, when nothing more urgent goes on."""
        while True:
            await self._missing.wait()
            if len(self._stock) >= self._wanted:
                self._missing.clear()
                continue
            if self._starts or self._clock.monotonic() < self._last_start + _QUIET:
                await self._clock.sleep(_QUIET)
                continue
            try:
                warm = _usable(await self._start())
            except RuntimeFailure as error:
                log.warning("no warm sandbox", role="kubelet", error=str(error))
                await self._clock.sleep(10)
                continue
            if warm is None:
                # Not on this host, or not as root: every pod starts its own sandbox.
                log.info("warm sandboxes are off: container files are out of reach")
                self._wanted = 0
                continue
            self._stock.append(warm)

    async def adopt(
        self, docker: Docker, spec: SandboxSpec, name: names.Name
    ) -> ObservedContainer | None:
        """Give a warm sandbox to a pod; None when there is none."""
        while self._stock:
            warm = self._stock.popleft()
            self._last_start = self._clock.monotonic()
            self._missing.set()
            try:
                await docker.containers.container(warm.id).rename(str(name))
                _write_names(warm, spec)
            except DockerError as error:
                if error.status == 404:
                    continue
                raise
            except OSError:
                with suppress(DockerError):
                    await docker.containers.container(warm.id).delete(force=True)
                continue
            self._adopted[warm.id] = warm.bundles
            labels = {names.GRACE: str(spec.grace), names.ATTEMPT: str(spec.attempt)}
            return replace(
                names.observed(warm.id, name, labels, Run.RUNNING),
                ip=warm.ip,
                created_at=warm.created_at,
                started_at=warm.started_at,
                image_id=warm.image_id,
            )
        return None

    async def started(self, spec: ContainerSpec, id: str, start: Awaitable[None]) -> bool:
        """Await ``start`` of a container that sees the pod's host name from its first moment.

        False: its program ran under the sandbox's old name, if only for a moment.
        """
        bundles = self._adopted.get(spec.sandbox)
        if bundles is None:
            await start
            return True
        watch = self._names.watch(bundles / id, spec.hostname)
        try:
            await start
            naming = await watch.outcome()
        finally:
            watch.give_up()
        if naming is not Naming.LATE:
            self._late = 0
            return True  # MISSED: it has ended already
        self._late += 1
        log.info("host name came late", role="kubelet", container=id[:12], in_a_row=self._late)
        if self._late >= _TOO_OFTEN:
            # Another runtime than runc, or a host too busy: every pod gets a sandbox of its own.
            log.warning("warm sandboxes are off: host names come too late", role="kubelet")
            self._wanted = 0
        return False


def _usable(data: dict[str, Any]) -> _Warm | None:
    if not data["State"].get("Running"):
        return None
    bundles = bundles_beside(int(data["State"]["Pid"]))
    files = Path(data.get("HostnamePath") or "/"), Path(data.get("HostsPath") or "/")
    if bundles is None or not all(file.is_file() for file in files):
        return None
    return _Warm(
        id=data["Id"],
        ip=names.address(data),
        created_at=names.when(data["Created"]),
        started_at=names.when(data["State"]["StartedAt"]),
        image_id=f"docker://{data['Image']}",
        hostname_file=files[0],
        hosts_file=files[1],
        bundles=bundles,
    )


def _write_names(warm: _Warm, spec: SandboxSpec) -> None:
    # In place: Docker bind-mounts these very files.
    warm.hostname_file.write_text(f"{spec.hostname}\n")
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"{warm.ip}\t{spec.hostname}",
        *(f"{ip}\t{name}" for ip, name in spec.hosts),
    ]
    warm.hosts_file.write_text("\n".join(lines) + "\n")
