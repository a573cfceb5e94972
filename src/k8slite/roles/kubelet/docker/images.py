"""Images on Docker: looking, listing, pulling."""

from __future__ import annotations

from typing import Any

from aiodocker import Docker, DockerError

from k8slite.decide.pods.pull import registry_of
from k8slite.roles.kubelet.docker.engine import answer
from k8slite.roles.kubelet.docker.pause import IMAGE
from k8slite.roles.kubelet.runtime import Credentials, Image, PullFailure, Usage


class ImageStore:
    """The engine's images; those found by name are remembered until something changes."""

    def __init__(self) -> None:
        self._found: dict[str, Image] = {}

    def forget(self) -> None:
        self._found.clear()

    async def find(self, docker: Docker, name: str) -> Image | None:
        if name not in self._found:
            data = await answer(_inspect(docker, name))
            if data is None:
                return None
            self._found[name] = _image(data)
        return self._found[name]

    async def every(self, docker: Docker) -> list[Image]:
        return [_image(data) for data in await answer(docker.images.list())]

    async def in_use(self, docker: Docker) -> set[str]:
        """Ids of what any container was made from, and of the sandboxes' own image."""
        listed = await answer(docker.containers.list(all=True))
        own = await self.find(docker, IMAGE)
        return {str(c["ImageID"]) for c in listed} | ({own.id} if own is not None else set())

    async def pull(self, docker: Docker, name: str, credentials: list[Credentials]) -> None:
        """Pull with each credential in turn, then (or only) with none. Raises PullFailure."""
        self._found.pop(name, None)
        await answer(_pull(docker, name, credentials))

    async def remove(self, docker: Docker, id: str) -> None:
        await answer(docker.images.delete(id))
        self.forget()


async def _inspect(docker: Docker, name: str) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = await docker.images.inspect(name)
    except DockerError as error:
        if error.status == 404:
            return None
        raise
    return data


def _image(data: dict[str, Any]) -> Image:
    names = [*(data.get("RepoTags") or ()), *(data.get("RepoDigests") or ())]
    return Image(
        id=data["Id"],
        names=tuple(name for name in names if "<none>" not in name),
        size=int(data.get("Size", 0)),
    )


async def _pull(docker: Docker, name: str, credentials: list[Credentials]) -> None:
    failure = "no credentials"
    for secret in [*credentials, None]:
        auth = None
        if secret is not None:
            auth = {"username": secret.username, "password": secret.password}
        try:
            await docker.images.pull(_with_registry(name) if auth else name, auth=auth)
        except DockerError as error:
            if error.status == 900:
                raise
            failure = " ".join(error.message.split())
        else:
            return
    raise PullFailure(failure)


def _with_registry(name: str) -> str:
    if registry_of(name) != "docker.io" or name.startswith("docker.io/"):
        return name
    return f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"


def usage(stats: dict[str, Any]) -> Usage:
    """Docker's stats → use of processor and memory (page cache that can be dropped left out)."""
    memory = stats.get("memory_stats") or {}
    details = memory.get("stats") or {}
    cache = details.get("inactive_file", details.get("total_inactive_file", 0))
    cpu = (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
    return Usage(
        cpu=int(cpu.get("total_usage", 0)), memory=max(0, int(memory.get("usage", 0)) - int(cache))
    )
