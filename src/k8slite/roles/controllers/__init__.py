"""Controllers: the loops that make the cluster what its objects say.

Each is a shell around a pure decision in ``decide``; all run in one task group and share the
process' informers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from k8slite.client.base import Client, Informers, NodeLeases
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.roles.controllers.endpoints import EndpointsLoop
from k8slite.roles.controllers.garbage import GarbageLoop
from k8slite.roles.controllers.loadbalancer import LoadBalancerLoop
from k8slite.roles.controllers.loop import Controller, Surroundings
from k8slite.roles.controllers.namespaces import NamespaceLoop
from k8slite.roles.controllers.nodes import NodeLoop
from k8slite.roles.controllers.quota import QuotaLoop
from k8slite.roles.controllers.replication import ReplicationLoop
from k8slite.roles.controllers.serviceaccounts import ServiceAccountLoop
from k8slite.roles.controllers.serving import ServingLoop

__all__ = ["Controllers"]


class Controllers:
    """Every controller of the control plane."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
        leases: NodeLeases,
    ) -> None:
        around = Surroundings(client, informers, recorder, clock, settings)
        self.loops: tuple[Controller[Any], ...] = (
            ReplicationLoop(around),
            EndpointsLoop(around),
            NodeLoop(around, leases),
            NamespaceLoop(around),
            QuotaLoop(around),
            GarbageLoop(around),
            ServiceAccountLoop(around),
            LoadBalancerLoop(around),
            ServingLoop(around),
        )

    async def run(self) -> None:
        """Until cancelled; a loop that ends by itself ends them all."""
        async with asyncio.TaskGroup() as group:
            for loop in self.loops:
                group.create_task(forever(loop.name, loop.run()), name=f"controller-{loop.name}")

    def healthy(self) -> bool:
        """Do all of them run, on complete informers?"""
        return all(loop.running for loop in self.loops)

    @property
    def idle(self) -> bool:
        """Has none of them anything to do right now? (Timers may be set.)"""
        return all(loop.queue.idle for loop in self.loops)
