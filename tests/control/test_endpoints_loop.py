"""The endpoints controller through the real API."""

from __future__ import annotations

import msgspec
from control_plane import WEB, Plane, pod, simulate

from k8slite.api.kinds import ENDPOINTS, POD, SERVICE
from k8slite.api.kinds.endpoints.types import EndpointAddress, Endpoints, EndpointSubset
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.endpoints import terminating_of
from k8slite.kit.tasks import stop


def service(selector: dict[str, str] | None = None) -> Service:
    ports = (ServicePort(port=80, target_port=8080, protocol="TCP"),)
    return Service(
        metadata=ObjectMeta(name="web", namespace="default", labels={"tier": "front"}),
        spec=ServiceSpec(ports=ports, selector=selector),
    )


def addresses(plane: Plane) -> list[str]:
    return [
        address.ip
        for found in plane.all(ENDPOINTS)
        for subset in found.subsets
        for address in subset.addresses
    ]


def test_endpoints_follow_the_ready_pods() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        await plane.client.create(service(WEB))
        await plane.until(lambda: plane.all(ENDPOINTS))
        assert plane.all(ENDPOINTS)[0].metadata.labels == {"tier": "front"}
        for number in (1, 2):
            created = await plane.client.create(pod(f"p{number}", labels=WEB))
            await plane.run_pod(created, f"10.0.0.{number}", "n1")
        await plane.until(lambda: addresses(plane) == ["10.0.0.1", "10.0.0.2"])
        await plane.client.delete(POD, "p1", "default")  # terminating is enough
        await plane.until(lambda: addresses(plane) == ["10.0.0.2"])
        await plane.client.delete(SERVICE, "web", "default")
        await plane.until(lambda: not plane.all(ENDPOINTS))
        await plane.quiet()
        assert await plane.quiet(600) == 0

    simulate(play)


def test_endpoints_whose_service_went_unseen_go_too() -> None:
    async def play(plane: Plane) -> None:
        task = plane.start(plane.controllers().run())
        await plane.client.create(service(WEB))
        await plane.until(lambda: plane.all(ENDPOINTS))
        await stop(task)
        await plane.client.delete(SERVICE, "web", "default")
        plane.start(plane.controllers().run())
        await plane.until(lambda: not plane.all(ENDPOINTS))

    simulate(play)


def test_endpoints_that_somebody_else_keeps_are_left_alone() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        own = Endpoints(
            metadata=ObjectMeta(name="web", namespace="default"),
            subsets=(EndpointSubset(addresses=(EndpointAddress(ip="10.9.9.9"),)),),
        )
        await plane.client.create(own)
        await plane.quiet()
        assert addresses(plane) == ["10.9.9.9"]  # no service at all
        await plane.client.create(service())
        await plane.quiet()
        assert addresses(plane) == ["10.9.9.9"]  # a service without a selector

    simulate(play)


def test_what_somebody_broke_is_mended() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        await plane.client.create(service(WEB))
        await plane.run_pod(await plane.client.create(pod("p", labels=WEB)), "10.0.0.1", "n1")
        await plane.until(lambda: addresses(plane) == ["10.0.0.1"])
        await plane.client.delete(ENDPOINTS, "web", "default")
        await plane.until(lambda: addresses(plane) == ["10.0.0.1"])

    simulate(play)


def lingering(plane: Plane) -> list[str]:
    return [
        address.ip
        for found in plane.all(ENDPOINTS)
        for subset in terminating_of(found)
        for address in subset.addresses
    ]


def test_the_last_pods_on_their_way_out_are_told_of_and_then_forgotten() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        await plane.client.create(service(WEB))
        for number in (1, 2, 3):
            created = await plane.client.create(pod(f"p{number}", labels=WEB))
            await plane.run_pod(created, f"10.0.0.{number}", "n1")
        await plane.until(lambda: len(addresses(plane)) == 3)

        await plane.client.delete(POD, "p1", "default")
        await plane.until(lambda: len(addresses(plane)) == 2)
        assert lingering(plane) == []  # two are left to serve
        # The end of a pod that nobody was told of is no write of the controller's.
        version = plane.all(ENDPOINTS)[0].metadata.resource_version
        await plane.client.delete(POD, "p1", "default", grace_seconds=0)
        await plane.quiet()
        assert plane.all(ENDPOINTS)[0].metadata.resource_version == version

        await plane.client.delete(POD, "p2", "default")
        await plane.client.delete(POD, "p3", "default")
        await plane.until(lambda: lingering(plane) == ["10.0.0.2", "10.0.0.3"])
        assert addresses(plane) == []
        await plane.client.delete(POD, "p2", "default", grace_seconds=0)
        await plane.until(lambda: lingering(plane) == ["10.0.0.3"])
        again = await plane.client.create(pod("p4", labels=WEB))
        await plane.run_pod(again, "10.0.0.4", "n1")
        await plane.until(lambda: addresses(plane) == ["10.0.0.4"])
        assert plane.all(ENDPOINTS)[0].metadata.annotations is None
        await plane.client.delete(POD, "p3", "default", grace_seconds=0)
        await plane.quiet()
        assert await plane.quiet(600) == 0

    simulate(play)


def test_annotations_of_others_stay() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        await plane.client.create(service(WEB))
        await plane.until(lambda: plane.all(ENDPOINTS))
        there = plane.all(ENDPOINTS)[0]
        meta = msgspec.structs.replace(there.metadata, annotations={"who": "me"})
        await plane.client.update(msgspec.structs.replace(there, metadata=meta))
        await plane.run_pod(await plane.client.create(pod("p", labels=WEB)), "10.0.0.1", "n1")
        await plane.client.delete(POD, "p", "default")
        await plane.until(lambda: lingering(plane) == ["10.0.0.1"])
        assert plane.all(ENDPOINTS)[0].metadata.annotation("who") == "me"
        await plane.client.delete(POD, "p", "default", grace_seconds=0)
        await plane.until(lambda: plane.all(ENDPOINTS)[0].metadata.annotations == {"who": "me"})

    simulate(play)
