"""What nodes say on services ends with the nodes."""

from __future__ import annotations

from control_plane import Plane, simulate
from msgspec.structs import replace

from k8slite.api.kinds import NODE, SERVICE
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide import serving
from k8slite.decide.serving import Trouble


def said(plane: Plane) -> list[str]:
    return [c.type for s in plane.all(SERVICE) for c in s.status.conditions]


def test_the_condition_of_a_node_that_is_gone_is_taken_away() -> None:
    async def play(plane: Plane) -> None:
        for node in ("n1", "n2"):
            await plane.add_node(node)
        plane.start(plane.beat("n1", "n2"))
        web = await plane.client.create(
            Service(
                metadata=ObjectMeta(name="web", namespace="default"),
                spec=ServiceSpec(ports=(ServicePort(port=80),)),
            )
        )
        for node in ("n1", "n2", "gone-before"):
            trouble = Trouble(serving.PORT_TAKEN, "node port 30080/tcp: something else uses it")
            status = serving.told(web, node, [trouble], plane.clock.stamp())
            assert status is not None
            web = await plane.client.update(replace(web, status=status), subresource="status")
        plane.start(plane.controllers().run())
        both = [serving.kind_of("n1"), serving.kind_of("n2")]
        await plane.until(lambda: said(plane) == both)
        await plane.client.delete(NODE, "n1")
        await plane.until(lambda: said(plane) == both[1:])
        assert await plane.quiet(600) == 0, "what is right is not written"

    simulate(play)
