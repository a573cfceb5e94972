"""Everything at once, at random, from a seed: slow network, late news, masters that die and come
back. Whatever the order, the cluster ends as its objects say, and then nobody writes any more."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from control_plane import WEB, LaggingInformers, Plane, Slow, controller, simulate

from k8slite.api.errors import ApiError
from k8slite.api.kinds import ENDPOINTS, POD, REPLICATION_CONTROLLER
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.kit.tasks import stop

NODES, ROOM = 5, 4


async def masters(plane: Plane, deaths: int) -> None:
    """Scheduler and controllers on a slow network and late news, killed and started again; the
    last ones live on."""
    rng = plane.clock.rng
    for left in reversed(range(deaths + 1)):
        lags = {"Pod": rng.random() * 2, "ReplicationController": rng.random()}
        informers = LaggingInformers(plane.informers, lambda kind, lags=lags: lags.get(kind, 0.1))
        client = Slow(plane.client, plane.clock, 0.2)
        roles = [
            plane.start(plane.controllers(client=client, informers=informers).run()),
            plane.start(plane.scheduler(client=client, informers=informers).run()),
        ]
        if left:
            await plane.clock.sleep(rng.random() * 4)
            for role in roles:
                await stop(role)


async def kubelets(plane: Plane) -> None:
    """Run what is bound, end what is to end."""
    number = 0
    while True:
        for found in plane.all(POD):
            try:
                if found.metadata.deletion_timestamp is not None:
                    name = found.metadata.name
                    await plane.client.delete(POD, name, "default", grace_seconds=0)
                elif found.spec.node_name and not found.status.pod_ip:
                    number += 1
                    await plane.run_pod(found, f"10.0.{number // 250}.{number % 250 + 1}")
            except ApiError:
                continue  # it changed under our hands; next round
        await plane.clock.sleep(0.5)


def running(plane: Plane) -> list[Pod]:
    return [p for p in plane.pods() if p.status.pod_ip]


@pytest.mark.parametrize("seed", range(15))
def test_the_cluster_ends_as_its_objects_say(seed: int) -> None:
    async def play(plane: Plane) -> None:
        rng = plane.clock.rng
        names = [f"n{number}" for number in range(NODES)]
        for name in names:
            await plane.add_node(name, pods=str(ROOM))
        plane.start(plane.beat(*names))
        plane.start(kubelets(plane))
        most: dict[str, int] = dict.fromkeys(names, 0)

        def on_pod(old: Pod | None, new: Pod | None) -> None:
            for name in names:
                standing = sum(p.spec.node_name == name for p in plane.all(POD))
                most[name] = max(most[name], standing)

        plane.informers.of(POD).subscribe(on_pod)
        ports = (ServicePort(port=80, protocol="TCP"),)
        meta = ObjectMeta(name="web", namespace="default")
        await plane.client.create(
            Service(metadata=meta, spec=ServiceSpec(ports=ports, selector=WEB))
        )
        await plane.client.create(controller(6))
        dying = plane.start(masters(plane, deaths=6))
        for _ in range(6):
            await plane.clock.sleep(rng.random() * 4)
            rc = await plane.client.get(REPLICATION_CONTROLLER, "web", "default")
            spec = msgspec.structs.replace(rc.spec, replicas=rng.randrange(NODES * ROOM + 1))
            await plane.client.update(msgspec.structs.replace(rc, spec=spec))
            if plane.pods():
                victim = rng.choice(plane.pods()).metadata.name
                await plane.client.delete(POD, victim, "default")
        await asyncio.wait({dying})
        wanted = plane.all(REPLICATION_CONTROLLER)[0].spec.replicas
        await plane.until(lambda: len(running(plane)) == len(plane.all(POD)) == wanted)
        await plane.quiet(120)
        assert len(running(plane)) == wanted
        assert max(most.values()) <= ROOM
        addresses = [a.ip for s in plane.all(ENDPOINTS)[0].subsets for a in s.addresses]
        assert sorted(addresses) == sorted(p.status.pod_ip for p in running(plane))
        assert plane.all(REPLICATION_CONTROLLER)[0].status.ready_replicas == wanted
        assert await plane.quiet(600) == 0

    simulate(play, seed=seed)
