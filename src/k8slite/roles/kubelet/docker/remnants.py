"""Containers that are being removed: gone for everybody, though Docker may still list them.

Docker cannot always remove what is dead: a file system may be busy for good after Docker itself
died in the middle of a start. Such a container must keep no pod waiting. It stays here, out of
sight, and its removal is tried again from time to time.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
from aiodocker import Docker

from k8slite.roles.kubelet.docker.engine import answer
from k8slite.roles.kubelet.runtime import NoSuchContainer, RuntimeFailure, RuntimeGone

log = structlog.get_logger()


class Remnants:
    def __init__(self) -> None:
        self._discarded: set[str] = set()
        self._stuck: dict[str, str] = {}  # those of them that Docker refused to remove, and why

    def __contains__(self, id: str) -> bool:
        return id in self._discarded

    def forget(self) -> None:
        """The engine was away: what is still there will be seen again."""
        self._discarded.clear()
        self._stuck.clear()

    def destroyed(self, id: str) -> None:
        self._discarded.discard(id)
        self._stuck.pop(id, None)

    def keep(self, id: str, why: str) -> None:
        """It is dead and Docker has not removed it."""
        log.warning("dead container stays", role="kubelet", container=id[:12], error=why)
        self._discarded.add(id)
        self._stuck[id] = why

    async def discard(self, docker: Docker, id: str) -> None:
        """Remove a container that never was, as far as pods are concerned."""
        self._discarded.add(id)
        await self.remove(docker, id)

    async def remove(self, docker: Docker, id: str) -> None:
        """Remove by force; gone is fine. Raises RuntimeFailure while it still runs."""
        handle = docker.containers.container(id)
        try:
            await answer(handle.delete(force=True, v=True))
        except NoSuchContainer:
            return
        except RuntimeGone:
            raise
        except RuntimeFailure as error:
            with suppress(NoSuchContainer):
                if (await answer(handle.show()))["State"].get("Running"):
                    raise
                self.keep(id, str(error))

    async def sweep(self, docker: Docker) -> dict[str, str]:
        """Try again; returns what still stays and why. Raises RuntimeGone."""
        for id in list(self._stuck):
            try:
                await answer(docker.containers.container(id).delete(force=True, v=True))
            except RuntimeGone:
                raise
            except NoSuchContainer:
                self._stuck.pop(id, None)
            except RuntimeFailure as error:
                self._stuck[id] = str(error)
            else:
                self._stuck.pop(id, None)
        return dict(self._stuck)
