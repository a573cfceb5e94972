"""Portal addresses and node ports: handed out once, given back with the service, never leaked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from registry_world import USER, World, memory_world, registry_on, service, sqlite_world

from k8slite.api.errors import AlreadyExists, Invalid
from k8slite.api.kinds import SERVICE
from k8slite.api.kinds.node.types import Node, NodeAddress, NodeStatus
from k8slite.api.kinds.service.types import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
)
from k8slite.api.meta import DeleteOptions, ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.store.base import Create, Delete
from k8slite.store.memory import MemoryStore

replace = msgspec.structs.replace

ADDRESSES = "/registry/portalips/"
PORTS = "/registry/nodeports/"


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory_world() as world:
            yield world
    else:
        async with sqlite_world(tmp_path / "store.db") as world:
            yield world


async def refused(world: World, path: str, **fields: object) -> str:
    with pytest.raises(Invalid) as error:
        await world.client.create(service("refused", **fields))
    assert [wrong.path for wrong in error.value.errors] == [path]
    return error.value.message


async def test_a_service_gets_an_address_and_gives_it_back(world: World) -> None:
    created = await world.client.create(service())
    address = created.spec.cluster_ip
    assert address.startswith("192.168.3.")
    assert created.spec.cluster_ips == (address,)
    assert await world.keys(ADDRESSES) == {address}
    await world.client.delete(SERVICE, "web", "default")
    assert await world.keys(ADDRESSES) == set()


async def test_a_service_may_ask_for_an_address(world: World) -> None:
    created = await world.client.create(service(cluster_ip="192.168.3.77"))
    assert created.spec.cluster_ip == "192.168.3.77"
    assert "is taken" in await refused(world, "spec.clusterIP", cluster_ip="192.168.3.77")
    assert await world.keys(ADDRESSES) == {"192.168.3.77"}


@pytest.mark.parametrize("address", ["10.9.8.7", "192.168.3.0", "192.168.3.255"])
async def test_an_address_outside_the_portal_net_is_refused(world: World, address: str) -> None:
    message = await refused(world, "spec.clusterIP", cluster_ip=address)
    assert "192.168.3.0/24" in message


async def test_the_first_two_addresses_are_kept_for_the_api(world: World) -> None:
    assert "kubernetes-ro" in await refused(world, "spec.clusterIP", cluster_ip="192.168.3.1")
    own = await world.client.create(service("kubernetes", cluster_ip="192.168.3.2"))
    assert own.spec.cluster_ip == "192.168.3.2"


async def test_headless_services_take_no_address(world: World) -> None:
    created = await world.client.create(service(cluster_ip="None"))
    assert created.spec.cluster_ip == "None"
    assert await world.keys(ADDRESSES) == set()


async def test_300_services_on_a_24_bit_net_take_every_address_once(world: World) -> None:
    results = await asyncio.gather(
        *(world.client.create(service(f"s{number}")) for number in range(300)),
        return_exceptions=True,
    )
    made = [result for result in results if not isinstance(result, BaseException)]
    failed = [result for result in results if isinstance(result, BaseException)]
    addresses = {created.spec.cluster_ip for created in made}
    # 254 hosts less the two that are kept for the API.
    assert len(made) == len(addresses) == 252
    assert addresses == {f"192.168.3.{host}" for host in range(3, 255)}
    assert await world.keys(ADDRESSES) == addresses
    assert all(isinstance(error, Invalid) for error in failed)
    assert "no address is free in the portal net 192.168.3.0/24" in str(failed[0])
    await world.client.delete(SERVICE, made[0].metadata.name, "default")
    last = await world.client.create(service("last"))
    assert last.spec.cluster_ip == made[0].spec.cluster_ip


async def test_services_that_come_and_go_leak_nothing(world: World) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(3):
            await world.client.create(service(f"s{number}", type="NodePort"))
            await world.client.delete(SERVICE, f"s{number}", "default")

    await asyncio.gather(*(come_and_go(number) for number in range(20)))
    assert await world.keys(ADDRESSES) == set()
    assert await world.keys(PORTS) == set()


async def test_a_service_that_is_not_created_takes_nothing(world: World) -> None:
    await world.client.create(service())
    before = await world.keys(ADDRESSES)
    with pytest.raises(AlreadyExists):
        await world.client.create(service())
    await world.registry.create(SERVICE, service("tried"), user=USER, dry_run=True)
    assert await world.keys(ADDRESSES) == before


async def test_the_address_survives_an_update_that_leaves_it_out(world: World) -> None:
    created = await world.client.create(service())
    before = await world.revision()
    assert await world.client.update(service()) == created
    assert await world.revision() == before
    updated = await world.client.update(service(ports=(ServicePort(port=81),)))
    assert updated.spec.cluster_ip == created.spec.cluster_ip


async def test_an_address_does_not_change(world: World) -> None:
    await world.client.create(service(cluster_ip="192.168.3.7"))
    with pytest.raises(Invalid, match=r"spec\.clusterIP"):
        await world.client.update(service(cluster_ip="192.168.3.8"))
    assert await world.keys(ADDRESSES) == {"192.168.3.7"}


async def test_node_ports_are_handed_out_and_given_back(world: World) -> None:
    ports = (ServicePort(name="a", port=80), ServicePort(name="b", port=81, node_port=30080))
    created = await world.client.create(service(type="NodePort", ports=ports))
    numbers = [port.node_port for port in created.spec.ports]
    assert numbers[1] == 30080
    assert 30000 <= numbers[0] <= 32767
    assert await world.keys(PORTS) == {str(number) for number in numbers}
    fewer = replace(created, spec=replace(created.spec, ports=created.spec.ports[:1]))
    await world.client.update(fewer)
    assert await world.keys(PORTS) == {str(numbers[0])}
    await world.client.update(
        replace(
            fewer,
            metadata=replace(fewer.metadata, resource_version=""),
            spec=replace(
                fewer.spec,
                type="ClusterIP",
                external_traffic_policy="",
                ports=(ServicePort(name="a", port=80),),
            ),
        )
    )
    assert await world.keys(PORTS) == set()


async def test_taken_and_unfit_node_ports_are_refused_with_their_path(world: World) -> None:
    taken = (ServicePort(port=80, node_port=30080),)
    await world.client.create(service(type="NodePort", ports=taken))
    path = "spec.ports[0].nodePort"
    assert "is taken" in await refused(world, path, type="NodePort", ports=taken)
    low = (ServicePort(port=80, node_port=80),)
    assert "30000" in await refused(world, path, type="NodePort", ports=low)


async def test_a_public_address_is_none_of_the_portal_net(world: World) -> None:
    said = await refused(world, "spec.externalIPs[1]", external_ips=("12.0.0.5", "192.168.3.77"))
    assert "is in the portal net 192.168.3.0/24" in said
    created = await world.client.create(service(external_ips=("12.0.0.5", "2001:db8::5")))
    wrong = replace(created, spec=replace(created.spec, external_ips=("192.168.3.77",)))
    with pytest.raises(Invalid, match=r"spec\.externalIPs\[0\]"):
        await world.client.update(wrong)


async def test_a_nodes_address_is_public_but_for_the_clusters_own_doors(world: World) -> None:
    status = NodeStatus(addresses=(NodeAddress(type="InternalIP", address="10.0.0.7"),))
    await world.client.create(Node(metadata=ObjectMeta(name="n7"), status=status))
    await world.client.create(service("web", external_ips=("10.0.0.7",)))
    for port in (8080, 6443, 7080, 10250):
        for address, owner in (("10.0.0.7", "node n7"), ("10.0.0.1", "a master")):
            said = await refused(
                world, "spec.externalIPs[0]",
                external_ips=(address,), ports=(ServicePort(port=port),),
            )  # fmt: skip
            assert f"is an address of {owner}, and port {port}" in said
    # Nobody's address: anything goes.
    await world.client.create(
        service("far", external_ips=("10.0.0.8",), ports=(ServicePort(port=6443),))
    )


async def test_who_writes_a_status_leads_nobody_astray_either(world: World) -> None:
    status = NodeStatus(addresses=(NodeAddress(type="InternalIP", address="10.0.0.7"),))
    await world.client.create(Node(metadata=ObjectMeta(name="n7"), status=status))
    ports = (ServicePort(port=10250),)
    created = await world.client.create(service(type="LoadBalancer", ports=ports))
    path = r"status\.loadBalancer\.ingress\[0\]\.ip"
    for address in ("192.168.3.77", "10.0.0.7", "10.0.0.1", "127.0.0.1", "somewhere"):
        with pytest.raises(Invalid, match=path):
            await world.client.update(given(created, address), subresource="status")
    await world.client.update(given(created, "10.0.0.8"), subresource="status")


def given(service: Service, address: str) -> Service:
    ingress = LoadBalancerStatus(ingress=(LoadBalancerIngress(ip=address),))
    return replace(service, status=replace(service.status, load_balancer=ingress))


async def test_what_a_service_has_already_is_no_reason_to_refuse_an_update(world: World) -> None:
    ports = (ServicePort(port=6443),)
    created = await world.client.create(service(external_ips=("10.0.0.7",), ports=ports))
    status = NodeStatus(addresses=(NodeAddress(type="InternalIP", address="10.0.0.7"),))
    await world.client.create(Node(metadata=ObjectMeta(name="n7"), status=status))
    meta = replace(created.metadata, labels={"a": "b"})
    await world.client.update(replace(created, metadata=meta))


async def test_two_masters_never_hand_out_the_same_address() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        options = {"portal_net": "10.7.0.0/27"}
        async with (
            registry_on(store, clock, **options) as first,
            registry_on(store, clock, **options) as second,
        ):
            results = await asyncio.gather(
                *(
                    master.client.create(service(f"{name}{number}"))
                    for number in range(20)
                    for name, master in (("a", first), ("b", second))
                ),
                return_exceptions=True,
            )
            made = [result for result in results if not isinstance(result, BaseException)]
            # 30 hosts less the two that are kept.
            assert len({created.spec.cluster_ip for created in made}) == len(made) == 28


async def test_a_foreign_reservation_is_respected_and_no_obstacle() -> None:
    async with memory_world(portal_net="10.7.0.0/29") as world:
        # Hosts .3 to .6 may be had; somebody keeps .3.
        await world.store.commit([Create(f"{ADDRESSES}10.7.0.3", b"{}")])
        made = [await world.client.create(service(f"s{number}")) for number in range(3)]
        assert {created.spec.cluster_ip for created in made} == {
            "10.7.0.4", "10.7.0.5", "10.7.0.6",
        }  # fmt: skip
        assert "no address is free" in await refused(world, "spec.clusterIP")


async def test_a_service_held_by_a_finalizer_keeps_its_address_until_it_goes(
    world: World,
) -> None:
    held = service(meta={"finalizers": ("example.com/hold",)})
    created = await world.client.create(held)
    await world.registry.delete(SERVICE, "default", "web", DeleteOptions(), user=USER)
    assert await world.keys(ADDRESSES) == {created.spec.cluster_ip}
    await world.client.patch(SERVICE, "web", "default", {"metadata": {"finalizers": None}})
    assert await world.keys(ADDRESSES) == set()


async def test_a_service_of_an_earlier_portal_net_can_still_be_changed_and_deleted() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock) as world:
            created = await world.client.create(service())
        async with registry_on(store, clock, portal_net="10.20.0.0/16") as world:
            changed = await world.client.update(service(meta={"labels": {"a": "b"}}))
            assert changed.spec.cluster_ip == created.spec.cluster_ip
            await world.client.delete(SERVICE, "web", "default")
            assert await world.keys(ADDRESSES) == set()


async def test_a_missing_reservation_does_not_keep_a_service_alive(world: World) -> None:
    created = await world.client.create(service(type="NodePort"))
    await world.store.commit([Delete(ADDRESSES + created.spec.cluster_ip)])
    await world.client.delete(SERVICE, "web", "default")
    assert await world.keys(PORTS) == set()
