"""Writes pod statuses to the API: only what changed, never over a namesake."""

from __future__ import annotations

from msgspec.structs import replace

from k8slite.api.errors import Conflict, NotFound
from k8slite.api.kinds import POD
from k8slite.api.kinds.pod.types import Pod, PodStatus
from k8slite.client.base import Client, Informer

_ATTEMPTS = 5


class StatusWriter:
    def __init__(self, client: Client, informer: Informer[Pod]) -> None:
        self._client = client
        self._informer = informer

    async def write(self, pod: Pod, status: PodStatus) -> None:
        """Make the API show ``status`` for this very pod. Raises ApiError."""
        current = self._informer.get(pod.key)
        for _ in range(_ATTEMPTS):
            if current is None or current.metadata.uid != pod.metadata.uid:
                return
            if current.status == status:
                return
            try:
                await self._client.update(replace(current, status=status), subresource="status")
                return
            except NotFound:
                return
            except Conflict:
                current = await self._read(pod)

    async def _read(self, pod: Pod) -> Pod | None:
        try:
            return await self._client.get(POD, pod.metadata.name, pod.metadata.namespace)
        except NotFound:
            return None
