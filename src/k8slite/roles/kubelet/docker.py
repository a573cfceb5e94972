"""The runtime on Docker Engine, through aiodocker.

What is observed lives in ``_Sight``, filled by one list when the engine is (re)found and kept
current by its event stream: starting a pod costs create and start for each container and nothing
else. When the engine goes, ``trouble`` says so at once, nothing is forgotten, and the connection
is tried until it comes back.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp
import structlog
from aiodocker import Docker, DockerError
from aiodocker.events import DockerEvents

from k8slite.config import Settings
from k8slite.decide.pods.spec import ContainerSpec, SandboxSpec
from k8slite.decide.pods.state import SANDBOX, ObservedContainer, ObservedPod, PodRef, Run
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet import dockerconfig, dockerimages, dockernames, pause, podnet
from k8slite.roles.kubelet.dockerstreams import DockerExec, container_logs
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
from k8slite.roles.kubelet.warm import WarmSandboxes

log = structlog.get_logger()

T = TypeVar("T")

#: Containers that start at once. More gain nothing: Docker's own work fills the processors.
PARALLEL_STARTS = 6
#: Seconds without an event after which the engine is asked whether it lives, and given to answer.
_SILENCE, _ANSWER = 10.0, 5.0
#: A container whose host name came late is started anew so often.
_NAMING_ATTEMPTS = 3
_RECONNECT = Backoff(initial=0.1, maximum=2.0)
_EVENTS = {
    "type": ["container", "image"],
    "event": [
        "create", "start", "die", "oom", "destroy", "rename",
        "delete", "untag", "tag", "pull", "import", "load",
    ],
}  # fmt: skip


class DockerRuntime:
    """``Runtime`` on Docker."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._docker: Docker | None = None
        self._sight = Sight()
        self._info = RuntimeInfo(name="docker")
        self._trouble = "Docker has not been reached yet"
        self._ready = asyncio.Event()
        self._slots = asyncio.Semaphore(PARALLEL_STARTS)
        self._images: dict[str, Image] = {}
        self._discarded: set[str] = set()  # ids that are being removed: gone for everybody
        self._remnants: dict[str, str] = {}  # those of them that stay, and why
        self._served_at = float("-inf")  # when the engine last took a new connection
        self._warm = WarmSandboxes(settings, clock, self._start_warm)

    # -- following the engine ------------------------------------------------------------------

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @property
    def trouble(self) -> str:
        return self._trouble

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        return self._sight.subscribe(changed)

    def pod(self, uid: str) -> ObservedPod:
        return self._sight.pod(uid)

    def pods(self) -> Iterable[PodRef]:
        return self._sight.pods()

    async def run(self, network: PodNetwork) -> None:
        self._docker = self._connect()
        failures = 0
        try:
            while True:
                try:
                    await self._session(self._docker, network)
                except (DockerError, RuntimeFailure, OSError, aiohttp.ClientError) as error:
                    was_ready = self._ready.is_set()
                    failures = 1 if was_ready else failures + 1
                    self._lost(_sentence(error))
                await self._clock.sleep(_RECONNECT.delay(failures))
        finally:
            self._ready.clear()
            self._warm.close()
            await self._docker.close()
            await self._docker.connector.close()
            self._docker = None

    def _connect(self) -> Docker:
        host = self._settings.docker_host
        if host.startswith("unix://"):
            # As many connections as there are followers of logs and runs of commands.
            connector = aiohttp.UnixConnector(host.removeprefix("unix://"), limit=0)
            return Docker("http://docker", connector=connector)
        return Docker(host)

    async def _session(self, docker: Docker, network: PodNetwork) -> None:
        """One life of the engine, from being found to being lost (always ends by raising)."""
        since = self._clock.now() - 1
        version = await self._knock()
        docker.api_version = f"v{version['ApiVersion']}"
        events: Any = DockerEvents(docker)  # type: ignore[no-untyped-call]
        inbox = events.subscribe(create_task=False)
        stream = asyncio.create_task(
            events.run(since=f"{since:.3f}", filters=json.dumps(_EVENTS)), name="docker-events"
        )
        try:
            await self._prepare(docker, version, network)
            await self._survey(docker)
            self._found()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._warm.run(), name="warm-sandboxes")
                group.create_task(self._follow(docker, inbox), name="docker-follow")
        except BaseExceptionGroup as failed:
            # One of the two tasks says why the session ended; the other was cancelled.
            raise failed.exceptions[0] from None
        finally:
            stream.cancel()
            with suppress(asyncio.CancelledError, DockerError, aiohttp.ClientError, ValueError):
                await stream

    async def _knock(self) -> dict[str, Any]:
        """The engine's version, over a new connection. Raises when it takes none.

        Containers die when Docker shuts down, and nothing may be started in their place: what is
        created then is left with mounts that no later Docker can remove. Docker closes its door
        before it stops the first container, but serves open connections to the very end. So a
        death is believed only after the engine took a new connection.
        """
        at = self._clock.now()
        docker = self._connect()
        try:
            async with asyncio.timeout(_ANSWER):
                version: dict[str, Any] = await docker.version()
        finally:
            await docker.close()
            await docker.connector.close()
        self._served_at = at
        return version

    async def _prepare(self, docker: Docker, version: dict[str, Any], network: PodNetwork) -> None:
        architecture = pause.architecture(platform.machine())
        try:
            await docker.images.inspect(pause.IMAGE)
        except DockerError as error:
            if error.status != 404:
                raise
            await docker.images.import_image(pause.image_archive(architecture))
        cidr = await podnet.ensure(
            docker, self._settings.docker_network, self._settings.flannel_net, network
        )
        engine = await docker.system.info()
        self._info = RuntimeInfo(
            "docker", str(version["Version"]), str(engine.get("DockerRootDir", "")), cidr
        )

    async def _survey(self, docker: Docker) -> None:
        """Learn every container of ours; called while events already gather."""
        self._images.clear()
        listed = await docker.containers.list(
            all=True, filters=json.dumps({"label": [dockernames.KIND]})
        )
        slots = asyncio.Semaphore(8)

        async def inspect(id: str) -> dict[str, Any] | None:
            async with slots:
                try:
                    return await docker.containers.container(id).show()
                except DockerError as error:
                    if error.status == 404:
                        return None
                    raise

        details = await asyncio.gather(*(inspect(item.id) for item in listed))
        self._warm.forget()
        self._discarded.clear()
        self._remnants.clear()
        seen = []
        for data in filter(None, details):
            container = dockernames.inspected(data)
            if dockernames.doomed(data):
                self._keep_remnant(data["Id"], data["State"].get("Error", ""))
            elif container is not None:
                seen.append(container)
                if data["Config"]["Labels"][dockernames.KIND] == "warm":
                    self._warm.note_adopted(data)
            elif not await self._warm.take_back(data):
                await self._discard(docker, data["Id"])
        self._sight.reset(seen)

    async def _follow(self, docker: Docker, inbox: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    event = await inbox.get()
            except TimeoutError:
                async with asyncio.timeout(_ANSWER):
                    await docker.version()
                continue
            if event is None:
                raise RuntimeGone("Docker closed its event stream")
            if event.get("Type") == "container":
                if event["Action"] == "die" and event["timeNano"] / 1e9 >= self._served_at:
                    await self._knock()
                self._container_event(event)
            else:
                self._images.clear()

    def _container_event(self, event: dict[str, Any]) -> None:
        attributes = event["Actor"]["Attributes"]
        if dockernames.KIND not in attributes:
            return
        id, when = event["Actor"]["ID"], event["timeNano"] / 1e9
        action = event["Action"]
        name = dockernames.parse_name(attributes.get("name", ""))
        if action == "destroy":
            self._discarded.discard(id)
            self._remnants.pop(id, None)
            self._sight.drop(id)
            self._warm.drop(id)
            return
        if id in self._discarded:
            return
        if name is None or name.pod is None:
            if action == "die":
                self._warm.drop(id)
            return
        known = self._sight.get(id)
        if known is None:
            known = replace(
                dockernames.observed(id, name, attributes, Run.CREATED), created_at=when
            )
        self._sight.put(_after_event(known, action, attributes, when))

    def _found(self) -> None:
        self._trouble = ""
        self._ready.set()
        log.info("docker found", role="kubelet", version=self._info.version)
        self._sight.tell("")

    def _lost(self, why: str) -> None:
        if self._trouble != why:
            log.warning("docker lost", role="kubelet", error=why)
        self._trouble = why
        self._ready.clear()
        self._sight.tell("")

    # -- doing things --------------------------------------------------------------------------

    async def _call(self, awaitable: Awaitable[T]) -> T:
        """A call to the engine, its errors turned into the runtime's."""
        try:
            return await awaitable
        except DockerError as error:
            if error.status == 900:
                raise RuntimeGone(_sentence(error)) from None
            if error.status == 404 and "container" in error.message.lower():
                raise NoSuchContainer(error.message) from None
            raise RuntimeFailure(error.message) from None
        except (OSError, aiohttp.ClientError) as error:
            raise RuntimeGone(_sentence(error)) from None

    @property
    def _engine(self) -> Docker:
        if self._docker is None or self._trouble:
            raise RuntimeGone(self._trouble or "Docker is not connected")
        return self._docker

    async def start_sandbox(self, spec: SandboxSpec) -> ObservedContainer:
        docker = self._engine
        name = dockernames.Name(SANDBOX, spec.hash, spec.pod, self._suffix())
        if spec.ordinary:
            taken = await self._call(self._warm.adopt(docker, spec, name))
            if taken is not None:
                self._sight.put(taken)
                return taken
        config = dockerconfig.sandbox(spec, self._settings.docker_network, self._settings.node_name)
        async with self._slots, self._warm.pausing():
            handle = await self._call(docker.containers.create(config, name=str(name)))
            try:
                await self._call(handle.start())
            except RuntimeFailure:
                with suppress(RuntimeFailure):
                    await self._call(handle.delete(force=True))
                raise
            data = await self._call(handle.show())
        seen = dockernames.inspected(data)
        assert seen is not None
        self._sight.put(seen)
        return seen

    async def _start_warm(self) -> dict[str, Any]:
        docker = self._engine
        name = dockernames.Name(SANDBOX, "", None, self._suffix())
        config = dockerconfig.warm(self._settings.docker_network, self._settings.node_name)
        handle = await self._call(docker.containers.create(config, name=str(name)))
        await self._call(handle.start())
        return await self._call(handle.show())

    async def start_container(self, spec: ContainerSpec) -> ObservedContainer:
        image = await self.image(spec.image)
        image_id = f"docker://{image.id}" if image is not None else ""
        for _ in range(_NAMING_ATTEMPTS):
            seen, named = await self._start_once(spec, image_id)
            if named:
                break
            # It ran for a moment under a foreign host name: as if it had never been.
            self._discarded.add(seen.id)
            self._sight.drop(seen.id)
            await self._discard(self._engine, seen.id)
        return seen

    async def _start_once(
        self, spec: ContainerSpec, image_id: str
    ) -> tuple[ObservedContainer, bool]:
        """Create and start; says whether the host name was right from the first moment."""
        docker = self._engine
        name = dockernames.Name(spec.name, spec.hash, spec.pod, self._suffix())
        config = dockerconfig.container(spec, self._settings.node_name)
        async with self._slots, self._warm.pausing():
            handle = await self._call(docker.containers.create(config, name=str(name)))
            seen = replace(
                dockernames.observed(handle.id, name, config["Labels"], Run.CREATED),
                image=spec.image,
                image_id=image_id,
                created_at=self._clock.now(),
            )
            self._sight.put(seen)
            try:
                named = await self._call(self._warm.started(spec, handle.id, handle.start()))
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
            await self._call(self._engine.containers.container(id).stop(t=max(grace, 0)))

    async def remove(self, id: str) -> None:
        await self._discard(self._engine, id)
        self._sight.drop(id)

    async def _discard(self, docker: Docker, id: str) -> None:
        """Remove; what is dead and stays nevertheless becomes a remnant."""
        handle = docker.containers.container(id)
        try:
            await self._call(handle.delete(force=True, v=True))
        except NoSuchContainer:
            return
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            with suppress(NoSuchContainer):
                if (await self._call(handle.show()))["State"].get("Running"):
                    raise
                self._keep_remnant(id, str(error))

    def _keep_remnant(self, id: str, why: str) -> None:
        log.warning("dead container stays", role="kubelet", container=id[:12], error=why)
        self._remnants[id] = why
        self._discarded.add(id)

    async def sweep(self) -> Mapping[str, str]:
        for id in list(self._remnants):
            handle = self._engine.containers.container(id)
            try:
                await self._call(handle.delete(force=True, v=True))
            except NoSuchContainer:
                self._remnants.pop(id, None)
            except RuntimeGone:
                raise
            except RuntimeFailure as error:
                self._remnants[id] = str(error)
            else:
                self._remnants.pop(id, None)
        return dict(self._remnants)

    def annotate(self, id: str, message: str) -> None:
        known = self._sight.get(id)
        if known is not None:
            self._sight.put(replace(known, message=message), quietly=True)

    # -- images --------------------------------------------------------------------------------

    async def image(self, name: str) -> Image | None:
        if name not in self._images:
            found = await self._call(dockerimages.inspect(self._engine, name))
            if found is None:
                return None
            self._images[name] = found
        return self._images[name]

    async def images(self) -> list[Image]:
        return await self._call(dockerimages.every(self._engine))

    async def images_in_use(self) -> set[str]:
        listed = await self._call(self._engine.containers.list(all=True))
        return {str(container["ImageID"]) for container in listed}

    async def pull(self, name: str, credentials: Iterable[Credentials]) -> None:
        self._images.pop(name, None)
        await self._call(dockerimages.pull(self._engine, name, list(credentials)))

    async def remove_image(self, id: str) -> None:
        await self._call(self._engine.images.delete(id))
        self._images.clear()

    # -- streams -------------------------------------------------------------------------------

    async def exec(self, id: str, command: Iterable[str], timeout: float) -> ExecResult:
        session = DockerExec(self._engine, id, tuple(command), stdout=True, stderr=True)
        output = bytearray()
        async with asyncio.timeout(timeout), session:
            while (piece := await self._call(session.read())) is not None:
                if len(output) < 10_000:
                    output += piece[1]
            return ExecResult(await self._call(session.exit_code()), bytes(output))

    def exec_session(
        self, id: str, command: Iterable[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ExecSession:
        return DockerExec(
            self._engine, id, tuple(command), stdin=stdin, stdout=stdout, stderr=stderr, tty=tty
        )

    def logs(self, id: str, options: LogOptions) -> AsyncIterator[bytes]:
        return container_logs(self._engine, id, options)

    async def usage(self, id: str) -> Usage:
        data = await self._call(self._engine.containers.container(id).stats(stream=False))
        return dockerimages.usage(data[0]) if data else Usage()

    # -- leaving no trace ----------------------------------------------------------------------

    async def uninstall(self) -> list[str]:
        docker = self._docker or self._connect()
        try:
            removed = await self._call(self._remove_all(docker))
            return [*removed, *await Volumes(self._settings.data_dir).clean_all()]
        finally:
            if docker is not self._docker:
                await docker.close()
                await docker.connector.close()

    async def _remove_all(self, docker: Docker) -> list[str]:
        label = {"label": [dockernames.KIND]}
        removed: dict[str, None] = {}  # an ordered set
        self._warm.retire()
        for attempt in range(1, 6):
            for item in await docker.containers.list(all=True, filters=json.dumps(label)):
                removed[f"container {item['Names'][0].lstrip('/')}"] = None
                with suppress(DockerError):  # what is left is seen in the next attempt
                    await item.delete(force=True, v=True)
            try:
                for network in await docker.networks.list(filters=label):
                    handle = await docker.networks.get(network["Id"])
                    await handle.delete()
                    removed[f"network {network['Name']}"] = None
                break
            except DockerError:
                # A start that was under way has just joined the network.
                if attempt == 5:
                    raise
                await self._clock.sleep(0.2 * attempt)
        for image in await docker.images.list(filters=label):
            await docker.images.delete(image["Id"], force=True)
            removed[f"image {(image.get('RepoTags') or [image['Id']])[0]}"] = None
        return list(removed)


def _failed_to_start(seen: ObservedContainer, error: str, now: float) -> ObservedContainer:
    return replace(
        seen, run=Run.EXITED, exit_code=128, error=error, started_at=now, finished_at=now
    )


def _after_event(
    known: ObservedContainer, action: str, attributes: dict[str, str], when: float
) -> ObservedContainer:
    if action == "start" and known.run is Run.CREATED:
        return replace(known, run=Run.RUNNING, started_at=when)
    if action == "oom":
        return replace(known, oom_killed=True)
    if action == "die" and known.run is not Run.EXITED:
        code = attributes.get("exitCode", "0")
        return replace(
            known,
            run=Run.EXITED,
            exit_code=int(code) if code.lstrip("-").isdigit() else 0,
            started_at=known.started_at or when,
            finished_at=when,
        )
    return known


def _sentence(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "Docker does not answer"
    text = error.message if isinstance(error, DockerError) else str(error)
    return " ".join(text.split()) or type(error).__name__
