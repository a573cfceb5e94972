"""One replication controller with 5,000 replicas: created and durable, through the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bench.scheduler import control_plane, pod
from bench.table import Row
from k8slite.api.kinds import POD
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerSpec,
)
from k8slite.api.meta import ObjectMeta
from k8slite.roles.controllers import Controllers

REPLICAS = 5_000
GOAL = 2_000


def controller() -> ReplicationController:
    template = pod(0)
    spec = ReplicationControllerSpec(
        replicas=REPLICAS,
        selector=template.metadata.labels,
        template=PodTemplateSpec(
            metadata=ObjectMeta(labels=template.metadata.labels), spec=template.spec
        ),
    )
    return ReplicationController(metadata=ObjectMeta(name="web", namespace="default"), spec=spec)


async def measure(store_name: str) -> float:
    """Replicas created a second."""
    async with control_plane(store_name) as plane:
        controllers = Controllers(
            plane.client,
            plane.informers,
            plane.recorder,
            plane.clock,
            plane.settings,
            plane.leases,
        )
        enough, made = asyncio.Event(), 0

        def on_pod(old: Pod | None, new: Pod | None) -> None:
            nonlocal made
            made += old is None
            if made == REPLICAS:
                enough.set()

        plane.informers.of(POD).subscribe(on_pod)
        task = plane.tasks.create_task(controllers.run())
        start = plane.clock.monotonic()
        await plane.client.create(controller())
        await enough.wait()
        took = plane.clock.monotonic() - start
        task.cancel()
    return REPLICAS / took


def rows() -> Iterator[Row]:
    for store_name in ("memory", "sqlite"):
        rate = asyncio.run(measure(store_name))
        yield Row(
            f"one controller, {REPLICAS:,} replicas, {store_name}",
            f"{rate:,.0f}/s",
            "kube-controller-manager 1.20: 21/s, unthrottled 628/s",
            f"≥ {GOAL:,}/s",
            rate >= GOAL,
        )
