"""A runtime without containers, for simulation and scale: instant, and honest about state.

Containers run until they are stopped or until a test ends them (``end``). Commands, logs and
images answer as an engine would that runs a silent program.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from k8slite.api.kinds.pod.types import Pod
from k8slite.decide.pods.env import ConfigError, PodContext
from k8slite.decide.pods.files import volume_files
from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import SANDBOX, ObservedContainer, ObservedPod, PodRef, Run
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.runtime import (
    Credentials,
    ExecResult,
    ExecSession,
    Image,
    LogOptions,
    NoSuchContainer,
    PodNetwork,
    PullFailure,
    RuntimeFailure,
    RuntimeGone,
    RuntimeInfo,
    Usage,
)
from k8slite.roles.kubelet.sight import Sight
from k8slite.roles.kubelet.volumes import VolumeTrouble

#: Seconds until the cluster is asked again for a pod network.
_ASK_AGAIN = 1.0


class HollowRuntime:
    """``Runtime`` in memory.

    ``missing`` are images that cannot be pulled, ``unremovable`` ids of containers that cannot be
    removed. ``gap`` is awaited before and after every change to the engine: an agent may die there.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sight = Sight()
        self._ready = asyncio.Event()
        self._trouble = "not started"
        self._cidr = ""  # claimed by ``run``
        self._net = ipaddress.IPv4Network("0.0.0.0/32")
        self._addresses = 1
        self._free: list[str] = []
        self._images: dict[str, Image] = {}
        self.gap: Callable[[], Awaitable[None]] = _pass
        self.missing: set[str] = set()
        self.unremovable: set[str] = set()
        self._remnants: set[str] = set()
        self.exec_code = 0
        self.lines: dict[str, list[bytes]] = {}

    # -- test verbs ----------------------------------------------------------------------------

    def end(self, id: str, code: int = 0) -> None:
        """The container's program ends by itself."""
        container = self._sight.get(id)
        if container is not None and container.run is Run.RUNNING:
            now = self._clock.now()
            self._sight.put(replace(container, run=Run.EXITED, exit_code=code, finished_at=now))

    def go(self, why: str = "the engine is gone") -> None:
        self._trouble = why
        self._ready.clear()
        self._sight.tell("")

    def come_back(self) -> None:
        self._trouble = ""
        self._ready.set()
        self._sight.tell("")

    # -- Runtime -------------------------------------------------------------------------------

    @property
    def info(self) -> RuntimeInfo:
        return RuntimeInfo("hollow", "1", "/", self._cidr)

    @property
    def trouble(self) -> str:
        return self._trouble

    async def run(self, network: PodNetwork) -> None:
        while True:
            try:
                self._cidr = await network.claim("", ())
                self._net = ipaddress.IPv4Network(self._cidr)
                break
            except RuntimeFailure as error:
                self._trouble = str(error)
                await self._clock.sleep(_ASK_AGAIN)
        self.come_back()
        await asyncio.Event().wait()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        return self._sight.subscribe(changed)

    def pod(self, uid: str) -> ObservedPod:
        return self._sight.pod(uid)

    def pods(self) -> Iterable[PodRef]:
        return self._sight.pods()

    def _answering(self) -> None:
        if self._trouble:
            raise RuntimeGone(self._trouble)

    def _take_address(self) -> str:
        if self._free:
            return self._free.pop()
        self._addresses += 1
        if self._addresses >= self._net.num_addresses - 1:
            raise RuntimeFailure(f"no address is left in {self._net}")
        return str(self._net[self._addresses])

    async def start_sandbox(self, spec: SandboxSpec) -> ObservedContainer:
        created = ObservedContainer(
            id=self._id(),
            name=SANDBOX,
            pod=spec.pod,
            hash=spec.hash,
            run=Run.CREATED,
            attempt=spec.attempt,
            grace=spec.grace,
            created_at=self._clock.now(),
        )
        await self._create(created)
        return await self._run(created, "" if spec.host_network else self._take_address())

    async def start_container(self, spec: ContainerSpec) -> ObservedContainer:
        self._answering()
        image = self._images.get(spec.image)
        if image is None:
            raise RuntimeFailure(f"No such image: {spec.image}")
        sandbox = self._sight.get(spec.sandbox)
        if sandbox is None or sandbox.run is not Run.RUNNING:
            raise RuntimeFailure("cannot join network of a non running container")
        created = ObservedContainer(
            id=self._id(),
            name=spec.name,
            pod=spec.pod,
            hash=spec.hash,
            run=Run.CREATED,
            attempt=spec.attempt,
            crashes=spec.crashes,
            sandbox=spec.sandbox,
            image=spec.image,
            image_id=f"hollow://{image.id}",
            created_at=self._clock.now(),
            grace=spec.grace,
            init=spec.init,
        )
        await self._create(created)
        return await self._run(created)

    async def _create(self, created: ObservedContainer) -> None:
        await self.gap()
        self._answering()
        self._sight.put(created)
        await self.gap()

    async def _run(self, created: ObservedContainer, ip: str = "") -> ObservedContainer:
        running = replace(created, run=Run.RUNNING, started_at=self._clock.now(), ip=ip)
        self._sight.put(running)
        await self.gap()
        return running

    def _id(self) -> str:
        return f"{self._clock.rng.getrandbits(256):064x}"

    async def stop(self, id: str, grace: int) -> None:
        await self.gap()
        self._answering()
        self.end(id, 137)
        await self.gap()

    async def remove(self, id: str) -> None:
        await self.gap()
        self._answering()
        container = self._sight.get(id)
        if container is not None and container.ip:
            self._free.append(container.ip)
        if id in self.unremovable:
            self._remnants.add(id)
        self._sight.drop(id)
        await self.gap()

    async def sweep(self) -> Mapping[str, str]:
        self._answering()
        self._remnants &= self.unremovable
        return dict.fromkeys(self._remnants, "device or resource busy")

    def annotate(self, id: str, message: str) -> None:
        container = self._sight.get(id)
        if container is not None:
            self._sight.put(replace(container, message=message), quietly=True)

    async def image(self, name: str) -> Image | None:
        self._answering()
        return self._images.get(name)

    async def images(self) -> list[Image]:
        return list(self._images.values())

    async def images_in_use(self) -> set[str]:
        return {c.image_id.removeprefix("hollow://") for c in self._sight.all()}

    async def pull(self, name: str, credentials: Iterable[Credentials]) -> None:
        self._answering()
        if name in self.missing:
            raise PullFailure(f"pull access denied for {name}")
        await self.gap()
        id = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        self._images[name] = Image(id, (name,), 1)
        await self.gap()

    async def remove_image(self, id: str) -> None:
        self._images = {name: image for name, image in self._images.items() if image.id != id}

    async def exec(self, id: str, command: Iterable[str], timeout: float) -> ExecResult:
        self._answering()
        self._running(id)
        return ExecResult(self.exec_code, b"")

    def exec_session(
        self, id: str, command: Iterable[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ExecSession:
        self._running(id)
        return _HollowExec(self.exec_code)

    def _running(self, id: str) -> ObservedContainer:
        container = self._sight.get(id)
        if container is None or container.run is not Run.RUNNING:
            raise NoSuchContainer(f"container {id[:12]} is not running")
        return container

    async def logs(self, id: str, options: LogOptions) -> AsyncIterator[bytes]:
        for line in self.lines.get(id, []):
            yield line

    async def usage(self, id: str) -> Usage:
        return Usage()

    async def uninstall(self) -> list[str]:
        removed = [f"container {container.id[:12]}" for container in self._sight.all()]
        self._sight.reset(())
        self._images.clear()
        return removed


async def _pass() -> None:
    return None


class _HollowExec:
    """A command that says nothing and ends."""

    def __init__(self, code: int) -> None:
        self._code = code

    async def __aenter__(self) -> ExecSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def read(self) -> tuple[int, bytes] | None:
        return None

    async def write(self, data: bytes) -> None:
        return None

    async def close_input(self) -> None:
        return None

    async def resize(self, width: int, height: int) -> None:
        return None

    async def exit_code(self) -> int:
        return self._code


class HollowFiles:
    """``PodFiles`` that are never written: references are checked, disks left alone."""

    def known(self) -> list[str]:
        return []

    def paths(self, pod: Pod) -> dict[str, str]:
        return {volume.name: "/" for volume in pod.spec.volumes}

    async def set_up(self, pod: Pod, context: PodContext) -> None:
        for volume in pod.spec.volumes:
            try:
                volume_files(volume, context)
            except ConfigError as error:
                raise VolumeTrouble(f'volume "{volume.name}": {error}') from None

    async def clean(self, uid: str) -> None:
        return None

    def end_file(self, uid: str, container: str, attempt: int) -> Path:
        return Path("/nonexistent")

    def new_end_file(self, uid: str, container: str, attempt: int) -> Path:
        return Path("/nonexistent")
