"""The directory of static pods, looked at once a second (a stat of each file)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from k8slite.api.errors import ApiError
from k8slite.api.kinds.pod.types import Pod
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.sources import PodSources, read_manifest

log = structlog.get_logger()

LOOK_EVERY = 1.0
_SUFFIXES = (".yaml", ".yml", ".json")

#: (name, modification time in ns, size) of each manifest.
Listing = tuple[tuple[str, int, int], ...]


class Manifests:
    """Tells ``sources`` what the directory holds, whenever it changes."""

    def __init__(self, directory: Path, sources: PodSources, node: str, clock: Clock) -> None:
        self._directory = directory
        self._sources = sources
        self._node = node
        self._clock = clock
        self._good: dict[str, list[Pod]] = {}
        self._seen: Listing | None = None

    async def run(self) -> None:
        while True:
            await self.look()
            await self._clock.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Read the directory if it changed since the last look."""
        listing = list_manifests(self._directory)
        if listing != self._seen:
            self._seen = listing
            pods = await asyncio.to_thread(self._read, listing) if listing else []
            self._sources.set_static(pods)

    def _read(self, listing: Listing) -> list[Pod]:
        """All pods; a broken file keeps the pods that it described last."""
        found: dict[str, list[Pod]] = {}
        for name, _, _ in listing:
            path = self._directory / name
            try:
                found[name] = read_manifest(path.read_bytes(), "file", self._node)
            except (ApiError, ValueError, OSError) as error:
                log.warning("manifest refused", role="kubelet", file=str(path), error=str(error))
                found[name] = self._good.get(name, [])
        self._good = found
        return [pod for pods in found.values() for pod in pods]


def list_manifests(directory: Path) -> Listing:
    """The manifests in name order; a directory that is missing is empty."""
    try:
        entries = [entry for entry in os.scandir(directory) if entry.name.endswith(_SUFFIXES)]
        stats = [(entry.name, entry.stat()) for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
