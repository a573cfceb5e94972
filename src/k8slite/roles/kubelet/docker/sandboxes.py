"""Containers of the pause image, and the image itself: whoever removes it gets it back."""

from __future__ import annotations

import platform
from typing import Any

from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from k8slite.roles.kubelet.docker import pause


async def ensure_pause(docker: Docker) -> None:
    """The pause image, made when it is missing. Raises DockerError, ValueError (architecture)."""
    try:
        await docker.images.inspect(pause.IMAGE)
    except DockerError as error:
        if error.status != 404:
            raise
        archive = pause.image_archive(pause.architecture(platform.machine()))
        await docker.images.import_image(archive)


async def create_sandbox(docker: Docker, made: dict[str, Any], name: str) -> DockerContainer:
    """Create a container of the pause image, even if somebody removed that image meanwhile."""
    try:
        return await docker.containers.create(made, name=name)
    except DockerError as error:
        if error.status != 404 or pause.IMAGE not in error.message:
            raise
    await ensure_pause(docker)
    return await docker.containers.create(made, name=name)
