"""Removes mirror pods whose manifests are gone."""

from __future__ import annotations

import structlog

from k8slite.api.errors import ApiError
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.sources import PodSources

log = structlog.get_logger()

_EVERY = 2.0


class Mirrors:
    def __init__(self, sources: PodSources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock

    async def run(self) -> None:
        while True:
            try:
                await self._sources.drop_stale_mirrors()
            except ApiError as error:
                log.warning("mirror pod stays", role="kubelet", error=error.message)
            await self._clock.sleep(_EVERY)
