"""What the roles of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from k8slite.client.base import Client, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.roles.kubelet.server import Certificates


@dataclass(frozen=True, slots=True)
class Around:
    """``client`` and ``informers`` lead to the API, be it in this process or far away."""

    settings: Settings
    clock: Clock
    client: Client
    informers: Informers
    certificates: Certificates
    tasks: asyncio.TaskGroup

    def start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function until the process ends; its end by itself is a fault."""

        async def owned() -> None:
            await forever(name, run())

        self.tasks.create_task(owned(), name=name)

    def recorder(self, component: str) -> EventRecorder:
        recorder = EventRecorder(self.client, self.clock, component, self.settings.node_name)
        self.start(f"events-{component}", recorder.run)
        return recorder
