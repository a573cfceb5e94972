"""The quota controller: recounts what a namespace holds, with the arithmetic of ``decide.quota``.

Admission charges a quota as objects come; this loop lowers it as they go, and fills in the status
of a new quota. It writes by compare-and-set on the quota it counted for, so a charge made meanwhile
is never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from k8slite.api.errors import NotFound
from k8slite.api.kinds import RESOURCE_QUOTA
from k8slite.api.kinds.resourcequota.types import ResourceQuota
from k8slite.api.meta import Object
from k8slite.client.base import Informer
from k8slite.decide import quota
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.namespaces import CONTENT

#: Objects counted before the event loop gets its turn.
TURN = 200
#: Seconds of pause for each object counted, before the next count of the same quota.
PAUSE_PER_OBJECT = 200e-6


class QuotaLoop(Controller[str]):
    """Keys are quotas (``namespace/name``)."""

    name = "quota"
    kinds = CONTENT
    workers = 2

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._quotas = self.informers.of(RESOURCE_QUOTA)
        self._content: dict[str, Informer[Any]] = {
            kind.plural: self.informers.of(kind) for kind in CONTENT
        }
        self._sizes: dict[str, int] = {}

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._quotas.subscribe(self._on_quota)
        for plural, informer in self._content.items():
            yield informer.subscribe(self._on_content(plural))

    def _on_quota(self, old: ResourceQuota | None, new: ResourceQuota | None) -> None:
        if new is None:
            assert old is not None
            self._sizes.pop(old.key, None)
        elif old is None or old.spec != new.spec or quota.used(new) is None:
            self.queue.add(new.key)

    def _on_content(self, plural: str) -> Callable[[Any, Any], None]:
        def on_object(old: Object | None, new: Object | None) -> None:
            found = new or old
            assert found is not None
            for limits in self._quotas.in_namespace(found.metadata.namespace):
                if plural not in quota.plurals_counted(limits) or _same(limits, old, new):
                    continue
                pause = PAUSE_PER_OBJECT * self._sizes.get(limits.key, 0)
                self.queue.add_after(limits.key, pause)

        return on_object

    async def converge(self, key: str) -> None:
        limits = self._quotas.get(key)
        if limits is None or limits.metadata.deletion_timestamp is not None:
            return
        namespace = limits.metadata.namespace
        objects = [
            obj
            for plural in sorted(quota.plurals_counted(limits) & self._content.keys())
            for obj in self._content[plural].in_namespace(namespace)
        ]
        self._sizes[key] = len(objects)
        taken: quota.Usage = quota.total(limits, ())
        for start in range(0, len(objects), TURN):
            taken = quota.add(taken, quota.total(limits, objects[start : start + TURN]))
            await self.clock.sleep(0)
        counted = quota.with_used(limits, taken)
        if counted is limits:
            return
        try:
            await self.client.update(counted, subresource="status")
        except NotFound:
            return


def _same(limits: ResourceQuota, old: Object | None, new: Object | None) -> bool:
    """Does the change from ``old`` to ``new`` leave the quota's count as it is?"""
    if old is None or new is None:
        return False
    return quota.charge_of(limits, old) == quota.charge_of(limits, new)
