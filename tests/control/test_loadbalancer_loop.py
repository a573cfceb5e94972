"""The address pool through the real API."""

from __future__ import annotations

from control_plane import Killed, Plane, simulate
from msgspec.structs import replace

from k8slite.api.kinds import SERVICE
from k8slite.api.kinds.node.types import NodeAddress
from k8slite.api.kinds.service.types import Service, ServicePort, ServiceSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.loadbalancer import ingress
from k8slite.kit.tasks import stop

POOL = ("192.168.0.240-192.168.0.242",)


def service(name: str, type: str = "LoadBalancer") -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(type=type, ports=(ServicePort(port=80),)),
    )


def given(plane: Plane) -> dict[str, str]:
    return {s.metadata.name: ",".join(ingress(s)) for s in plane.all(SERVICE)}


def test_addresses_come_and_go_with_their_services() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        node = await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        where = (NodeAddress("InternalIP", "192.168.0.240"),)
        status = replace(node.status, addresses=where)
        await plane.client.update(replace(node, status=status), subresource="status")
        for name in ("a", "b", "c"):
            await plane.client.create(service(name))
            await plane.clock.sleep(1)
        expected = {"a": "192.168.0.241", "b": "192.168.0.242", "c": ""}
        await plane.until(lambda: given(plane) == expected)
        await plane.until(lambda: plane.events("AddressPoolExhausted"))
        changed = await plane.client.get(SERVICE, "a", "default")
        inner = replace(changed.spec, type="ClusterIP", ports=service("a").spec.ports)
        changed = replace(changed, spec=inner)
        await plane.client.update(changed)
        await plane.until(lambda: given(plane) == {**expected, "a": "", "c": "192.168.0.241"})
        await plane.client.delete(SERVICE, "b", "default")
        await plane.client.create(service("d"))
        await plane.until(lambda: given(plane).get("d") == "192.168.0.242")
        await plane.quiet()
        assert await plane.quiet(600) == 0, "what is right is not written"

    simulate(play, address_pool=POOL)


def test_without_a_pool_a_service_is_told_once_however_often_masters_start() -> None:
    async def play(plane: Plane) -> None:
        await plane.client.create(service("a"))
        for _ in range(3):
            task = plane.start(plane.controllers().run())
            await plane.until(lambda: plane.events("NoAddressPool"))
            await plane.quiet()
            await stop(task)
        assert len(plane.events("NoAddressPool")) == 1

    simulate(play)


def test_a_leader_that_dies_between_two_writes_leaves_nothing_handed_out_twice() -> None:
    for at in range(6):
        for after in (False, True):

            async def play(plane: Plane, at: int = at, after: bool = after) -> None:
                for name in "abcd":
                    await plane.client.create(service(name))
                dying = Killed(plane.client, at, after=after)
                task = plane.start(plane.controllers(client=dying).run())
                await plane.quiet(5)
                task.cancel()
                plane.start(plane.controllers().run())
                await plane.quiet(5)
                held = sorted(address for address in given(plane).values() if address)
                assert held == ["192.168.0.240", "192.168.0.241", "192.168.0.242"]

            simulate(play, address_pool=POOL)
