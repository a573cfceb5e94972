"""Images on Docker: looking, listing, pulling."""

from __future__ import annotations

from typing import Any

from aiodocker import Docker, DockerError

from k8slite.decide.pods.pull import registry_of
from k8slite.roles.kubelet.runtime import Credentials, Image, PullFailure, Usage


async def inspect(docker: Docker, name: str) -> Image | None:
    try:
        data = await docker.images.inspect(name)
    except DockerError as error:
        if error.status == 404:
            return None
        raise
    return _image(data)


async def every(docker: Docker) -> list[Image]:
    return [_image(data) for data in await docker.images.list()]


def _image(data: dict[str, Any]) -> Image:
    names = [*(data.get("RepoTags") or ()), *(data.get("RepoDigests") or ())]
    return Image(
        id=data["Id"],
        names=tuple(name for name in names if "<none>" not in name),
        size=int(data.get("Size", 0)),
    )


async def pull(docker: Docker, name: str, credentials: list[Credentials]) -> None:
    """Pull with each credential in turn, then (or only) with none. Raises PullFailure."""
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
