"""The runtime that pods run on: sandboxes, containers, images and streams of one Docker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from k8slite.config import Settings
from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import SANDBOX, ObservedContainer, ObservedPod, PodRef, Run
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import config, names
from k8slite.roles.kubelet.docker.engine import answer, connected
from k8slite.roles.kubelet.docker.following import Follower
from k8slite.roles.kubelet.docker.images import ImageStore, usage
from k8slite.roles.kubelet.docker.remnants import Remnants
from k8slite.roles.kubelet.docker.sandboxes import create_sandbox
from k8slite.roles.kubelet.docker.streams import DockerExec, container_logs
from k8slite.roles.kubelet.docker.uninstall import remove_all
from k8slite.roles.kubelet.docker.warm import WarmSandboxes
from k8slite.roles.kubelet.runtime import (
    Credentials,
    ExecResult,
    ExecSession,
    Image,
    LogOptions,
    NoSuchContainer,
    PodNetwork,
    RuntimeFailure,
    RuntimeGone,
    RuntimeInfo,
    Usage,
)
from k8slite.roles.kubelet.sight import Sight
from k8slite.roles.kubelet.volumes import Volumes

#: Containers that start at once. More gain nothing: Docker's own work fills the processors.
PARALLEL_STARTS = 6
#: A container whose host name came late is started anew so often.
_NAMING_ATTEMPTS = 3
#: Seconds within which Docker tells of what it has done.
_EVENT_DELAY = 5.0


class DockerRuntime:
    """``Runtime`` on Docker."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._sight = Sight()
        self._slots = asyncio.Semaphore(PARALLEL_STARTS)
        self._images = ImageStore()
        self._remnants = Remnants()
        self._warm = WarmSandboxes(settings, clock, self._start_warm)
        self._follower = Follower(
            settings, clock, self._sight, self._warm, self._remnants, self._images
        )

    # -- what is seen --------------------------------------------------------------------------

    @property
    def info(self) -> RuntimeInfo:
        return self._follower.info

    @property
    def trouble(self) -> str:
        return self._follower.trouble

    async def run(self, network: PodNetwork) -> None:
        await self._follower.run(network)

    async def wait_ready(self) -> None:
        await self._follower.ready.wait()

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        return self._sight.subscribe(changed)

    def pod(self, uid: str) -> ObservedPod:
        return self._sight.pod(uid)

    def pods(self) -> Iterable[PodRef]:
        return self._sight.pods()

    # -- containers ----------------------------------------------------------------------------

    async def start_sandbox(self, spec: SandboxSpec) -> ObservedContainer:
        docker = self._follower.docker
        name = names.Name(SANDBOX, spec.hash, spec.pod, self._suffix())
        if spec.ordinary:
            taken = await answer(self._warm.adopt(docker, spec, name))
            if taken is not None:
                self._sight.put(taken)
                return taken
        made = config.sandbox(spec, self._settings.docker_network, self._settings.node_name)
        async with self._slots, self._warm.pausing():
            handle = await answer(create_sandbox(docker, made, str(name)))
            try:
                await answer(handle.start())
            except RuntimeFailure:
                with suppress(RuntimeFailure):
                    await answer(handle.delete(force=True))
                raise
            data = await answer(handle.show())
        seen = names.inspected(data)
        assert seen is not None
        self._sight.put(seen)
        return seen

    async def _start_warm(self) -> dict[str, Any]:
        docker = self._follower.docker
        name = names.Name(SANDBOX, "", None, self._suffix())
        made = config.warm(self._settings.docker_network, self._settings.node_name)
        handle = await answer(create_sandbox(docker, made, str(name)))
        await answer(handle.start())
        return await answer(handle.show())

    async def start_container(self, spec: ContainerSpec) -> ObservedContainer:
        image = await self.image(spec.image)
        image_id = f"docker://{image.id}" if image is not None else ""
        for _ in range(_NAMING_ATTEMPTS):
            seen, named = await self._start_once(spec, image_id)
            if named:
                break
            # It ran for a moment under a foreign host name: as if it had never been.
            self._sight.drop(seen.id)
            await self._remnants.discard(self._follower.docker, seen.id)
        return seen

    async def _start_once(
        self, spec: ContainerSpec, image_id: str
    ) -> tuple[ObservedContainer, bool]:
        """Create and start; says whether the host name was right from the first moment."""
        docker = self._follower.docker
        name = names.Name(spec.name, spec.hash, spec.pod, self._suffix())
        made = config.container(spec, self._settings.node_name)
        async with self._slots, self._warm.pausing():
            handle = await answer(docker.containers.create(made, name=str(name)))
            seen = replace(
                names.observed(handle.id, name, made["Labels"], Run.CREATED),
                image=spec.image,
                image_id=image_id,
                created_at=self._clock.now(),
            )
            self._sight.put(seen)
            try:
                named = await answer(self._warm.started(spec, handle.id, handle.start()))
            except RuntimeGone:
                raise
            except RuntimeFailure as error:
                self._sight.put(_failed_to_start(seen, str(error), self._clock.now()))
                raise
        present = self._sight.get(handle.id) or seen
        if present.run is Run.CREATED:
            present = replace(present, run=Run.RUNNING, started_at=self._clock.now())
        present = replace(present, image=seen.image, image_id=seen.image_id)
        if named:
            self._sight.put(present)
        return present, named

    def _suffix(self) -> str:
        return f"{self._clock.rng.getrandbits(32):08x}"

    async def stop(self, id: str, grace: int) -> None:
        with suppress(NoSuchContainer):
            await answer(self._follower.docker.containers.container(id).stop(t=max(grace, 0)))
        # Whoever waited must not see it running still: its death is on its way as an event.
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_DELAY):
                await self._sight.until(lambda: not self._runs(id) or bool(self.trouble))

    def _runs(self, id: str) -> bool:
        seen = self._sight.get(id)
        return seen is not None and seen.run is Run.RUNNING

    async def remove(self, id: str) -> None:
        await self._remnants.remove(self._follower.docker, id)
        self._sight.drop(id)

    async def sweep(self) -> Mapping[str, str]:
        return await self._remnants.sweep(self._follower.docker)

    def annotate(self, id: str, message: str) -> None:
        known = self._sight.get(id)
        if known is not None:
            self._sight.put(replace(known, message=message), quietly=True)

    # -- images --------------------------------------------------------------------------------

    async def image(self, name: str) -> Image | None:
        return await self._images.find(self._follower.docker, name)

    async def images(self) -> list[Image]:
        return await self._images.every(self._follower.docker)

    async def images_in_use(self) -> set[str]:
        return await self._images.in_use(self._follower.docker)

    async def pull(self, name: str, credentials: Iterable[Credentials]) -> None:
        await self._images.pull(self._follower.docker, name, list(credentials))

    async def remove_image(self, id: str) -> None:
        await self._images.remove(self._follower.docker, id)

    # -- streams -------------------------------------------------------------------------------

    async def exec(self, id: str, command: Iterable[str], timeout: float) -> ExecResult:
        session = DockerExec(self._follower.docker, id, tuple(command), stdout=True, stderr=True)
        output = bytearray()
        async with asyncio.timeout(timeout), session:
            while (piece := await answer(session.read())) is not None:
                if len(output) < 10_000:
                    output += piece[1]
            return ExecResult(await answer(session.exit_code()), bytes(output))

    def exec_session(
        self, id: str, command: Iterable[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ExecSession:
        return DockerExec(
            self._follower.docker,
            id,
            tuple(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
        )

    def logs(self, id: str, options: LogOptions) -> AsyncIterator[bytes]:
        return container_logs(self._follower.docker, id, options)

    async def usage(self, id: str) -> Usage:
        data = await answer(self._follower.docker.containers.container(id).stats(stream=False))
        return usage(data[0]) if data else Usage()

    # -- leaving no trace ----------------------------------------------------------------------

    async def uninstall(self) -> list[str]:
        self._warm.retire()
        async with connected(self._settings.docker_host) as docker:
            removed = await answer(remove_all(docker, self._clock))
        return [*removed, *await Volumes(self._settings.data_dir).clean_all()]


def _failed_to_start(seen: ObservedContainer, error: str, now: float) -> ObservedContainer:
    return replace(
        seen, run=Run.EXITED, exit_code=128, error=error, started_at=now, finished_at=now
    )
