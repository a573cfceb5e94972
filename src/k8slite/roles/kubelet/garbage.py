"""Throws away dead containers every minute and, when the disk is nearly full, unused images."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from k8slite.config import Settings
from k8slite.decide.pods.garbage import StoredImage, dead_containers, note_use, unused_images
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.node import disk_use
from k8slite.roles.kubelet.runtime import Runtime, RuntimeFailure

log = structlog.get_logger()

CONTAINERS_EVERY, IMAGES_EVERY = 60.0, 300.0


class GarbageCollector:
    def __init__(self, settings: Settings, clock: Clock, runtime: Runtime) -> None:
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._last_used: dict[str, float] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(CONTAINERS_EVERY, self.containers), name="container-gc")
            group.create_task(self._every(IMAGES_EVERY, self.images), name="image-gc")

    async def _every(self, seconds: float, collect: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._clock.sleep(seconds)
            if self._runtime.trouble:
                continue
            try:
                await collect()
            except RuntimeFailure as error:
                log.warning("garbage collection failed", role="kubelet", error=str(error))

    async def containers(self) -> None:
        now = self._clock.now()
        for ref in self._runtime.pods():
            for dead in dead_containers(self._runtime.pod(ref.uid), now):
                await self._runtime.remove(dead.id)
        for id, why in (await self._runtime.sweep()).items():
            log.warning("dead container stays", role="kubelet", container=id[:12], error=why)

    async def images(self) -> None:
        images = await self._runtime.images()
        in_use = await self._runtime.images_in_use()
        now = self._clock.now()
        self._last_used = note_use(self._last_used, [i.id for i in images], in_use, now)
        try:
            used, capacity = disk_use(self._runtime.info.data_root)
        except OSError:
            return  # the engine keeps its images where we cannot look
        stored = [StoredImage(i.id, i.size, self._last_used[i.id]) for i in images]
        for id in unused_images(stored, in_use, used, capacity):
            log.info("removing unused image", role="kubelet", image=id[:19])
            try:
                await self._runtime.remove_image(id)
            except RuntimeFailure as error:
                log.warning("image stays", role="kubelet", image=id[:19], error=str(error))
