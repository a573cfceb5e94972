"""The controller of the address pool: applies ``decide.loadbalancer``.

All services that have to do with outside addresses are looked at together, for what one gives back
another waits for. What was said of a service is remembered in its conditions, so nothing is said
twice, and a service whose status is right is not written.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NODE, SERVICE
from k8slite.api.kinds.node.types import Node
from k8slite.api.kinds.service.types import Service
from k8slite.decide import loadbalancer
from k8slite.decide.addresspool import Pool
from k8slite.decide.joining import addresses
from k8slite.decide.loadbalancer import Change
from k8slite.network.uplink import not_for_services
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.parallel import each

_POOL = "pool"  # the only key
_CONCERNED = "outside addresses"


class LoadBalancerLoop(Controller[str]):
    """One key: the pool."""

    name = "loadbalancer"
    kinds = (SERVICE, NODE)
    workers = 1

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._pool = Pool.read(self.settings.address_pool)
        self._services = self.informers.of(SERVICE)
        self._nodes = self.informers.of(NODE)
        self._services.index(
            _CONCERNED, lambda service: ("",) if loadbalancer.concerned(service) else ()
        )

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._services.subscribe(self._on_service)
        yield self._nodes.subscribe(self._on_node)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if any(loadbalancer.concerned(service) for service in (old, new) if service is not None):
            self.queue.add(_POOL)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if _known(old) != _known(new) and self._services.by_index(_CONCERNED, ""):
            self.queue.add(_POOL)

    async def converge(self, key: str) -> None:
        services = self._services.by_index(_CONCERNED, "")
        reserved = not_for_services(self.settings.node_ip)
        reserved = reserved.union(*map(_known, self._nodes.items()))
        changes = loadbalancer.plan(self._pool, services, reserved, self.clock.stamp())
        errors = await each(changes, self._write)
        if errors:
            raise errors[0]

    async def _write(self, change: Change) -> None:
        """Raises Conflict when the service is not the one that was planned for."""
        wanted = msgspec.structs.replace(change.service, status=change.status)
        try:
            await self.client.update(wanted, subresource="status")
        except NotFound:
            return
        for news in change.news:
            self.recorder.event(change.service, news.reason, news.message, news.type)


def _known(node: Node | None) -> frozenset[str]:
    return frozenset() if node is None else frozenset(addresses(node))
