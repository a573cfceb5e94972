"""Follows the engine: finds it, learns what is there, hears of every change, notices its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import structlog
from aiodocker import Docker, DockerError
from aiodocker.events import DockerEvents

from k8slite.config import Settings
from k8slite.decide.pods.state import ObservedContainer, Run
from k8slite.kit.backoff import Backoff
from k8slite.kit.clock import Clock
from k8slite.network.routes import pod_mtu
from k8slite.network.uplink import NoUplink, find_uplink
from k8slite.roles.kubelet.docker import names, network
from k8slite.roles.kubelet.docker.engine import TROUBLES, Door, connected, sentence
from k8slite.roles.kubelet.docker.images import ImageStore
from k8slite.roles.kubelet.docker.remnants import Remnants
from k8slite.roles.kubelet.docker.sandboxes import ensure_pause
from k8slite.roles.kubelet.docker.warm import WarmSandboxes
from k8slite.roles.kubelet.runtime import PodNetwork, RuntimeGone, RuntimeInfo
from k8slite.roles.kubelet.sight import Sight

log = structlog.get_logger()

#: Seconds without an event after which the engine is asked whether it lives.
_SILENCE = 10.0
_RECONNECT = Backoff(initial=0.1, maximum=2.0)
_EVENTS = {
    "type": ["container", "image"],
    "event": [
        "create", "start", "die", "oom", "destroy", "rename",
        "delete", "untag", "tag", "pull", "import", "load",
    ],
}  # fmt: skip


class Follower:
    """Keeps sight, stock and remnants true. ``trouble`` is "" while the engine can be used."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        sight: Sight,
        warm: WarmSandboxes,
        remnants: Remnants,
        images: ImageStore,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sight = sight
        self._warm = warm
        self._remnants = remnants
        self._images = images
        self._door = Door(settings.docker_host, clock)
        self._docker: Docker | None = None
        self.info = RuntimeInfo(name="docker")
        self.trouble = "Docker has not been reached yet"
        self.ready = asyncio.Event()

    @property
    def docker(self) -> Docker:
        """The engine, ready to work. Raises RuntimeGone."""
        if self._docker is None or self.trouble:
            raise RuntimeGone(self.trouble or "Docker is not connected")
        return self._docker

    async def run(self, pods: PodNetwork) -> None:
        """Follow until cancelled, through every absence."""
        failures = 0
        try:
            async with connected(self._settings.docker_host) as self._docker:
                while True:
                    try:
                        await self._session(self._docker, pods)
                    except TROUBLES as error:
                        failures = 1 if self.ready.is_set() else failures + 1
                        self._lost(sentence(error))
                    await self._clock.sleep(_RECONNECT.delay(failures))
        finally:
            self.ready.clear()
            self._warm.close()
            self._docker = None

    async def _session(self, docker: Docker, pods: PodNetwork) -> None:
        """One life of the engine, from being found to being lost (always ends by raising)."""
        since = self._clock.now() - 1
        version = await self._door.knock()
        docker.api_version = f"v{version['ApiVersion']}"
        events: Any = DockerEvents(docker)  # type: ignore[no-untyped-call]
        inbox = events.subscribe(create_task=False)
        stream = asyncio.create_task(
            events.run(since=f"{since:.3f}", filters=json.dumps(_EVENTS)), name="docker-events"
        )
        try:
            await self._prepare(docker, version, pods)
            await self._survey(docker)
            self._found()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._warm.run(), name="warm-sandboxes")
                group.create_task(self._hear(inbox), name="docker-follow")
        except BaseExceptionGroup as failed:
            # One of the two tasks says why the session ended; the other was cancelled.
            raise failed.exceptions[0] from None
        finally:
            stream.cancel()
            with suppress(asyncio.CancelledError, DockerError, aiohttp.ClientError, ValueError):
                await stream

    async def _prepare(self, docker: Docker, version: dict[str, Any], pods: PodNetwork) -> None:
        await ensure_pause(docker)
        settings = self._settings
        mtu = 0  # the engine's own idea, where the node's address is on no interface
        with suppress(NoUplink):
            mtu = pod_mtu(settings.overlay, find_uplink(settings.node_ip).mtu)
        options = network.options(str(version["ApiVersion"]), mtu)
        cidr = await network.ensure(docker, settings.docker_network, pods, options)
        engine = await docker.system.info()
        self.info = RuntimeInfo(
            "docker", str(version["Version"]), str(engine.get("DockerRootDir", "")), cidr
        )

    async def _survey(self, docker: Docker) -> None:
        """Learn every container of ours; called while events already gather."""
        self._images.forget()
        details = await _inspect_all(docker)
        self._warm.forget()
        self._remnants.forget()
        seen = []
        for data in details:
            container = names.inspected(data)
            if names.doomed(data):
                self._remnants.keep(data["Id"], data["State"].get("Error", ""))
            elif container is not None:
                seen.append(container)
                if data["Config"]["Labels"][names.KIND] == "warm":
                    self._warm.note_adopted(data)
            elif not await self._warm.take_back(data):
                await self._remnants.discard(docker, data["Id"])
        self._sight.reset(seen)

    async def _hear(self, inbox: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    event = await inbox.get()
            except TimeoutError:
                await self._door.knock()
                continue
            if event is None:
                raise RuntimeGone("Docker closed its event stream")
            if event.get("Type") != "container":
                self._images.forget()
                continue
            if event["Action"] == "die":
                await self._door.was_open(event["timeNano"] / 1e9)
            self._container_event(event)

    def _container_event(self, event: dict[str, Any]) -> None:
        attributes = event["Actor"]["Attributes"]
        if names.KIND not in attributes:
            return
        id, when = event["Actor"]["ID"], event["timeNano"] / 1e9
        action = event["Action"]
        name = names.parse_name(attributes.get("name", ""))
        if action == "destroy":
            self._remnants.destroyed(id)
            self._sight.drop(id)
            self._warm.drop(id)
            return
        if id in self._remnants:
            return
        if name is None or name.pod is None:
            if action == "die":
                self._warm.drop(id)
            return
        known = self._sight.get(id)
        if known is None:
            known = replace(names.observed(id, name, attributes, Run.CREATED), created_at=when)
        self._sight.put(_after_event(known, action, attributes, when))

    def _found(self) -> None:
        self.trouble = ""
        self.ready.set()
        log.info("docker found", role="kubelet", version=self.info.version)
        self._sight.tell("")

    def _lost(self, why: str) -> None:
        if self.trouble != why:
            log.warning("docker lost", role="kubelet", error=why)
        self.trouble = why
        self.ready.clear()
        self._sight.tell("")


async def _inspect_all(docker: Docker) -> list[dict[str, Any]]:
    """What Docker knows of each container of ours, a few at a time."""
    label = json.dumps({"label": [names.KIND]})
    slots = asyncio.Semaphore(8)

    async def inspect(id: str) -> dict[str, Any] | None:
        async with slots:
            try:
                data: dict[str, Any] = await docker.containers.container(id).show()
            except DockerError as error:
                if error.status == 404:
                    return None
                raise
            return data

    listed = await docker.containers.list(all=True, filters=label)
    return [data for data in await asyncio.gather(*(inspect(i.id) for i in listed)) if data]


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
