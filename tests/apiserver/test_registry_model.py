"""Whatever is written in whatever order: reservations and quotas say exactly what there is."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_world import USER, World, memory_world, pod, service

from k8slite.api.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
)
from k8slite.api.kinds import CONFIG_MAP, NAMESPACE, POD, RESOURCE_QUOTA, SERVICE
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.kinds.service.types import Service, ServicePort
from k8slite.api.meta import DeleteOptions, ObjectMeta
from k8slite.decide import allocation
from k8slite.decide import quota as arithmetic
from k8slite.kit.clock import LoopClock
from k8slite.kit.virtual import run_virtual

replace = msgspec.structs.replace

NAMES = ("a", "b", "c", "d")
HOLD = "example.com/hold"

_ports = st.lists(
    st.sampled_from(
        [
            ServicePort(name="one", port=80),
            ServicePort(name="two", port=81, node_port=30001),
            ServicePort(name="three", port=82, node_port=30002),
        ]
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda port: port.name,
)
_bodies = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
        "ports": _ports.map(tuple),
        "cluster_ip": st.sampled_from(["", "", "10.7.0.4", "None"]),
    }
)
_steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "hold", "update", "delete", "release"]),
        st.sampled_from(NAMES),
        _bodies,
    ),
    max_size=12,
)


async def step(world: World, action: str, name: str, body: dict[str, Any]) -> None:
    """One write; to be refused is a result like any other."""
    try:
        match action:
            case "create":
                await world.client.create(service(name, **body))
            case "hold":
                await world.client.create(service(name, meta={"finalizers": (HOLD,)}, **body))
            case "update":
                # Node ports that do not fit the type are a mistake that would hide the rest.
                if body["type"] == "ClusterIP":
                    body["ports"] = tuple(replace(port, node_port=0) for port in body["ports"])
                await world.client.update(service(name, **body))
            case "delete":
                await world.client.delete(SERVICE, name, "default")
            case "release":
                nothing = {"metadata": {"finalizers": None}}
                await world.client.patch(SERVICE, name, "default", nothing)
    except (AlreadyExists, Conflict, Forbidden, Invalid, NotFound):
        return


async def check(world: World) -> None:
    """The store's reservations, and the quota's status, against the services themselves."""
    services: list[Service] = [e.object for e in world.cache.table(SERVICE).entries("default")]
    addresses = [allocation.held_address(s) for s in services if allocation.held_address(s)]
    ports = [port for s in services for port in allocation.held_ports(s)]
    assert len(set(addresses)) == len(addresses)
    assert len(set(ports)) == len(ports)
    assert await world.keys("/registry/portalips/") == set(addresses)
    assert await world.keys("/registry/nodeports/") == {str(port) for port in ports}
    quota = world.registry.get(RESOURCE_QUOTA, "default", "room").object
    taken, there = arithmetic.used(quota), arithmetic.total(quota, services)
    limits = arithmetic.hard(quota)
    assert all(there[name] <= limits[name] for name in limits)
    # Deletions are given back by the controller, or when somebody needs the room.
    assert taken is None or all(taken[name] >= there[name] for name in limits)


def room(**hard: str) -> ResourceQuota:
    spec = ResourceQuotaSpec(hard={name.replace("_", "."): n for name, n in hard.items()})
    return ResourceQuota(metadata=ObjectMeta(name="room", namespace="default"), spec=spec)


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_reservations_and_quota_follow_every_write(steps: list[tuple[str, str, Any]]) -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock(), portal_net="10.7.0.0/29") as world:
            await world.client.create(room(services="3", services_nodeports="4"))
            for action, name, body in steps:
                await step(world, action, name, body)
                await check(world)

    run_virtual(main())


@settings(max_examples=40, deadline=None)
@given(st.lists(_steps, min_size=2, max_size=4))
def test_they_follow_writers_that_race(writers: list[list[tuple[str, str, Any]]]) -> None:
    async def main() -> None:
        async with memory_world(clock=LoopClock(), portal_net="10.7.0.0/29") as world:
            await world.client.create(room(services="3", services_nodeports="4"))

            async def write(steps: list[tuple[str, str, Any]]) -> None:
                for action, name, body in steps:
                    await step(world, action, name, dict(body))

            async with asyncio.TaskGroup() as group:
                for steps in writers:
                    group.create_task(write(steps), name="writer")
            await check(world)

    run_virtual(main())


async def test_a_namespace_that_changes_meanwhile_is_no_obstacle() -> None:
    async with memory_world() as world:

        async def relabel() -> None:
            for number in range(20):
                change = {"metadata": {"labels": {"turn": str(number)}}}
                await world.client.patch(NAMESPACE, "default", "", change)

        async def create(name: str) -> None:
            await world.client.create(
                ConfigMap(metadata=ObjectMeta(name=name, namespace="default"))
            )

        await asyncio.gather(relabel(), *(create(f"c{number}") for number in range(50)))
        assert len(world.cache.table(CONFIG_MAP)) == 50


async def test_a_namespace_is_emptied_and_refilled_by_racing_writers_in_good_order() -> None:
    """Creations, updates, bindings and sweeps at once: every error is one a client may expect."""
    async with memory_world() as world:
        errors: list[ApiError] = []

        async def turn(number: int) -> None:
            name = f"p{number % 7}"
            for action in (
                lambda: world.client.create(pod(name)),
                lambda: world.client.bind("default", name, f"node-{number}"),
                lambda: world.client.delete(POD, name, "default", grace_seconds=0),
            ):
                try:
                    await action()
                except ApiError as error:
                    errors.append(error)

        await asyncio.gather(*(turn(number) for number in range(60)))
        await world.registry.delete_collection(
            POD, "default", DeleteOptions(grace_period_seconds=0), user=USER
        )
        assert {error.code for error in errors} <= {404, 409}
        assert len(world.cache.table(POD)) == 0
