"""The controller of what nodes say on services (``decide.serving``): a node that is gone says
nothing any more, and nobody else would take its conditions away."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NODE, SERVICE
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.service.types import Service
from k8slite.decide import serving
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe

_SAID_BY = "said by"


class ServingLoop(Controller[str]):
    """Keys are those of services."""

    name = "serving"
    kinds = (SERVICE, NODE)
    workers = 1

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._services = self.informers.of(SERVICE)
        self._nodes = self.informers.of(NODE)
        self._services.index(_SAID_BY, serving.nodes_of)

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._services.subscribe(self._on_service)
        yield self._nodes.subscribe(self._on_node)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if new is not None and not all(map(self._exists, serving.nodes_of(new))):
            self.queue.add(new.key)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None and old is not None:
            for service in self._services.by_index(_SAID_BY, old.metadata.name):
                self.queue.add(service.key)

    def _exists(self, node: str) -> bool:
        return self._nodes.get(node) is not None

    async def converge(self, key: str) -> None:
        service = self._services.get(key)
        status = None if service is None else serving.without(service, self._exists)
        if service is None or status is None:
            return
        try:
            await self.client.update(replace(service, status=status), subresource="status")
        except NotFound:
            return
