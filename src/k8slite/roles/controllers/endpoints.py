"""The endpoints controller: applies ``decide.endpoints``.

Endpoints that it makes belong to their service by ownerReference; those of services without a
selector, and those that nobody's service owns, are somebody else's and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from k8slite.api.errors import AlreadyExists, NotFound
from k8slite.api.kinds import ENDPOINTS, POD, SERVICE
from k8slite.api.kinds.endpoints.types import Endpoints
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.service.types import Service
from k8slite.api.meta import ObjectMeta, OwnerReference
from k8slite.decide import endpoints, replication
from k8slite.roles.controllers.loop import AFTER_CONFLICT, Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.replication import PAUSE_PER_POD
from k8slite.roles.controllers.selecting import Selectors, index_labels, selected


class EndpointsLoop(Controller[str]):
    """Keys are services (``namespace/name``), there or gone."""

    name = "endpoints"
    kinds = (SERVICE, POD, ENDPOINTS)

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._services = self.informers.of(SERVICE)
        self._pods = self.informers.of(POD)
        self._endpoints = self.informers.of(ENDPOINTS)
        index_labels(self._pods)
        self._selectors = Selectors(self._services, lambda service: service.spec.selector)
        self._sizes: dict[str, int] = {}

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._services.subscribe(self._on_object)
        yield self._endpoints.subscribe(self._on_object)
        yield self._pods.subscribe(self._on_pod)

    def _on_object(self, old: Any, new: Any) -> None:
        self.queue.add((new or old).key)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _visible(old) == _visible(new):
            return
        for pod in (old, new):
            if pod is None or not (endpoints.counts(pod) or endpoints.lingers(pod)):
                continue
            for service in self._selectors.of(pod):
                if endpoints.counts(pod) or self._tells_of_lingering(service):
                    pause = PAUSE_PER_POD * self._sizes.get(service.key, 0)
                    self.queue.add_after(service.key, pause)

    def _tells_of_lingering(self, service: Service) -> bool:
        """If not, nobody needs to hear more of a pod that left the subsets. What we wrote and do
        not see yet has us look again when we do."""
        there = self._endpoints.get(service.key)
        return there is not None and bool(there.metadata.annotation(endpoints.TERMINATING))

    async def converge(self, key: str) -> None:
        service, there = self._services.get(key), self._endpoints.get(key)
        if service is None:
            self._sizes.pop(key, None)
            if there is not None and _is_ours(there):
                await self._delete(there)
        elif service.spec.selector:
            await self._write(service, there)

    async def _delete(self, there: Endpoints) -> None:
        meta = there.metadata
        try:
            await self.client.delete(ENDPOINTS, meta.name, meta.namespace, uid=meta.uid)
        except NotFound:
            return

    async def _write(self, service: Service, there: Endpoints | None) -> None:
        namespace, name = service.metadata.namespace, service.metadata.name
        pods = selected(self._pods, namespace, service.spec.selector)
        self._sizes[service.key] = len(pods)
        metadata = there.metadata if there else ObjectMeta(namespace=namespace, name=name)
        subsets = endpoints.subsets(service, pods)
        lingering = endpoints.terminating(service, pods, subsets)
        wanted = Endpoints(
            kind="Endpoints",
            metadata=msgspec.structs.replace(
                metadata,
                labels=service.metadata.labels,
                owner_references=(_reference_to(service),),
                annotations=_annotations(metadata, lingering),
            ),
            subsets=subsets,
        )
        if there is None:
            await self._create(service, wanted)
        elif wanted != there and there.metadata.deletion_timestamp is None:
            await self.client.update(wanted)

    async def _create(self, service: Service, wanted: Endpoints) -> None:
        try:
            await self.client.create(wanted)
        except AlreadyExists:  # our informer has yet to show it
            self.queue.add_after(service.key, AFTER_CONFLICT)


def _visible(pod: Pod) -> tuple[Any, ...]:
    """All that endpoints see of a pod."""
    spec, status, meta = pod.spec, pod.status, pod.metadata
    return (
        meta.uid, meta.labels, meta.deletion_timestamp, endpoints.counts(pod),
        replication.is_ready(pod),
        status.pod_ip, spec.node_name, spec.hostname, spec.subdomain,
    )  # fmt: skip


def _annotations(metadata: ObjectMeta, lingering: str) -> dict[str, str] | None:
    """Those that are there, with ours as it should be."""
    others = {k: v for k, v in (metadata.annotations or {}).items() if k != endpoints.TERMINATING}
    return {**others, endpoints.TERMINATING: lingering} if lingering else others or None


def _reference_to(service: Service) -> OwnerReference:
    return OwnerReference(
        kind="Service", name=service.metadata.name, uid=service.metadata.uid, controller=True
    )


def _is_ours(there: Endpoints) -> bool:
    owner = replication.controller_of(there)
    return owner is not None and owner.kind == "Service" and owner.name == there.metadata.name
