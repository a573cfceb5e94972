"""The kubelet: runs the pods that are bound to this node, and reports.

Law: it never restarts what is right. All that it must remember is in the engine (names and labels
of containers) and in the API; whatever else it keeps may be lost at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from k8slite.api.kinds import CONFIG_MAP, NODE, POD, SECRET, SERVICE
from k8slite.api.scheme import Kind
from k8slite.client.base import Client, Informers
from k8slite.client.events import EventRecorder
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.tasks import forever
from k8slite.roles.kubelet.garbage import GarbageCollector
from k8slite.roles.kubelet.manifests import Manifests
from k8slite.roles.kubelet.mirrors import Mirrors
from k8slite.roles.kubelet.node import NodeReporter
from k8slite.roles.kubelet.pods import PodWorkers
from k8slite.roles.kubelet.registration import Registration
from k8slite.roles.kubelet.runtime import Runtime
from k8slite.roles.kubelet.server import Certificates, NodeServer, ServiceReport
from k8slite.roles.kubelet.volumes import PodFiles, Volumes

__all__ = ["Kubelet"]


class Kubelet:
    """Composes the kubelet's parts.

    Without ``pki`` the node API is not served; ``volumes`` None keeps them below ``data_dir``;
    ``network_trouble`` says why pods cannot reach those of other nodes, or ""; ``services`` is what
    the node API says of services.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        informers: Informers,
        recorder: EventRecorder,
        clock: Clock,
        runtime: Runtime,
        pki: Certificates | None = None,
        volumes: PodFiles | None = None,
        *,
        network_trouble: Callable[[], str] = lambda: "",
        services: ServiceReport | None = None,
    ) -> None:
        self._informers = informers
        self._runtime = runtime
        files = Volumes(settings.data_dir) if volumes is None else volumes
        self.workers = PodWorkers(settings, client, informers, recorder, clock, runtime, files)
        sources = self.workers.sources
        directory = settings.manifests or settings.data_dir / "manifests"
        self._manifests = Manifests(directory, sources, settings.node_name, clock)
        self._mirrors = Mirrors(sources, clock)
        self._registration = Registration(settings, client, informers.of(NODE))
        self._node = NodeReporter(
            settings, client, self._registration, recorder, clock, runtime, network_trouble
        )
        self._garbage = GarbageCollector(settings, clock, runtime)
        self._server = (
            None
            if pki is None
            else NodeServer(settings, clock, runtime, sources.all, pki, services)
        )

    async def run(self) -> None:
        """Run until cancelled; containers stay as they are."""
        kinds: tuple[Kind[Any], ...] = (POD, NODE, SERVICE, CONFIG_MAP, SECRET)
        for kind in kinds:
            await self._informers.of(kind).wait_synced()
        await self._manifests.look()
        parts = {
            "runtime": self._runtime.run(self._registration),
            "node-status": self._node.run(),
            "pods": self.workers.run(),
            "manifests": self._manifests.run(),
            "mirrors": self._mirrors.run(),
            "garbage": self._garbage.run(),
        }
        if self._server is not None:
            parts["node-api"] = self._server.run()
        async with asyncio.TaskGroup() as group:
            for name, part in parts.items():
                group.create_task(forever(name, part), name=f"kubelet-{name}")
