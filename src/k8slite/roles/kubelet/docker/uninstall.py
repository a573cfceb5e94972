"""Leaving no trace: every container, network and image that bears our label goes."""

from __future__ import annotations

import json
from contextlib import suppress

from aiodocker import Docker, DockerError

from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.docker import names

_ATTEMPTS = 5
_OURS = {"label": [names.KIND]}


async def remove_all(docker: Docker, clock: Clock) -> list[str]:
    """Says what it removed. Raises DockerError when something of ours is still in use."""
    removed: dict[str, None] = {}  # an ordered set
    for attempt in range(1, _ATTEMPTS + 1):
        for item in await docker.containers.list(all=True, filters=json.dumps(_OURS)):
            removed[f"container {item['Names'][0].lstrip('/')}"] = None
            with suppress(DockerError):  # what is left is seen in the next attempt
                await item.delete(force=True, v=True)
        try:
            for network in await docker.networks.list(filters=_OURS):
                handle = await docker.networks.get(network["Id"])
                await handle.delete()
                removed[f"network {network['Name']}"] = None
            break
        except DockerError:
            # A start that was under way has just joined the network.
            if attempt == _ATTEMPTS:
                raise
            await clock.sleep(0.2 * attempt)
    for image in await docker.images.list(filters=_OURS):
        await docker.images.delete(image["Id"], force=True)
        removed[f"image {(image.get('RepoTags') or [image['Id']])[0]}"] = None
    return list(removed)
