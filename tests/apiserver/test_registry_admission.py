"""Admission: namespaces, limits, quotas, security, in the order that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registry_world import USER, Intercepted, World, memory_world, pod, registry_on, sqlite_world

from k8slite.api.errors import Forbidden, NotFound
from k8slite.api.kinds import CONFIG_MAP, LIMIT_RANGE, NAMESPACE, POD, RESOURCE_QUOTA, SERVICE
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.limitrange.types import LimitRange, LimitRangeItem, LimitRangeSpec
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import PodSecurityContext
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.kinds.service.types import ServicePort
from k8slite.api.meta import DeleteOptions, ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.roles.apiserver.admission import chain
from k8slite.store.base import Create, Op
from k8slite.store.memory import MemoryStore

replace = msgspec.structs.replace


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory_world() as world:
            yield world
    else:
        async with sqlite_world(tmp_path / "store.db") as world:
            yield world


def config(name: str = "settings", namespace: str = "default") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace=namespace))


def quota(name: str = "room", **hard: str) -> ResourceQuota:
    spec = ResourceQuotaSpec(hard={key.replace("_", "."): value for key, value in hard.items()})
    return ResourceQuota(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)


async def used(world: World, name: str = "room") -> dict[str, Any]:
    await world.registry.read_barrier()
    return world.registry.get(RESOURCE_QUOTA, "default", name).object.status.used or {}


# -- the chain ------------------------------------------------------------------------------------


async def test_an_unknown_plugin_is_named_at_start(world: World) -> None:
    with pytest.raises(ValueError, match=r"NamespaceLifecycles is no admission plugin.*there are"):
        chain(("AlwaysAdmit", "NamespaceLifecycles"), world.cache)


async def test_always_deny_denies_every_write() -> None:
    async with memory_world(admission=("AlwaysDeny",)) as world:
        with pytest.raises(Forbidden, match="denying all modifications"):
            await world.client.create(config())
    async with memory_world(admission=("AlwaysAdmit",)) as world:
        await world.client.create(config())


# -- namespaces -----------------------------------------------------------------------------------


async def test_a_missing_namespace_is_provided(world: World) -> None:
    await world.client.create(config(namespace="fresh"))
    assert (await world.client.get(NAMESPACE, "fresh")).status.phase == "Active"


async def test_many_who_need_the_same_missing_namespace_all_get_it(world: World) -> None:
    await asyncio.gather(
        *(world.client.create(config(f"c{n}", namespace="fresh")) for n in range(30))
    )
    assert len(world.cache.table(CONFIG_MAP).entries("fresh")) == 30


async def test_a_dry_run_provides_no_namespace(world: World) -> None:
    await world.registry.create(CONFIG_MAP, config(namespace="fresh"), user=USER, dry_run=True)
    assert world.cache.table(NAMESPACE).get("fresh") is None


@pytest.mark.parametrize("plugin", ["NamespaceLifecycle", "NamespaceExists"])
async def test_without_provision_a_missing_namespace_is_not_found(plugin: str) -> None:
    async with memory_world(admission=(plugin,)) as world:
        with pytest.raises(NotFound, match='namespaces "fresh" not found'):
            await world.client.create(config(namespace="fresh"))


async def test_nothing_is_created_in_a_namespace_that_went_meanwhile() -> None:
    """The check of the namespace is part of the transaction: no object is left behind."""
    clock = Clock()
    async with MemoryStore(clock) as memory:
        store: Any = Intercepted(memory)
        async with registry_on(store, clock, admission=("NamespaceLifecycle",)) as world:
            await world.client.create(Namespace(metadata=ObjectMeta(name="shop")))

            async def close_the_shop(ops: list[Op]) -> None:
                if isinstance(ops[0], Create) and "configmaps" in ops[0].key:
                    store.before = None
                    options = DeleteOptions()
                    await world.registry.delete(NAMESPACE, "", "shop", options, user=USER)

            store.before = close_the_shop
            with pytest.raises(Forbidden, match="being terminated"):
                await world.client.create(config(namespace="shop"))
            assert await world.keys(CONFIG_MAP.prefix) == set()


# -- limits ---------------------------------------------------------------------------------------


def limits(**item: Any) -> LimitRange:
    spec = LimitRangeSpec(limits=(LimitRangeItem(**item),))
    return LimitRange(metadata=ObjectMeta(name="limits", namespace="default"), spec=spec)


async def test_a_pod_that_says_nothing_gets_the_namespaces_default(world: World) -> None:
    await world.client.create(
        limits(type="Container", default={"cpu": "200m"}, default_request={"cpu": "100m"})
    )
    resources = (await world.client.create(pod())).spec.containers[0].resources
    assert resources.limits == {"cpu": "200m"}
    assert resources.requests == {"cpu": "100m"}
    own = await world.client.create(pod("own", limits={"cpu": "1"}))
    assert own.spec.containers[0].resources.limits == {"cpu": "1"}
    await world.client.delete(LIMIT_RANGE, "limits", "default")
    assert (await world.client.create(pod("free"))).spec.containers[0].resources.limits is None


async def test_a_pod_outside_the_limits_is_refused(world: World) -> None:
    await world.client.create(limits(type="Container", min={"cpu": "100m"}, max={"cpu": "1"}))
    with pytest.raises(Forbidden, match="maximum cpu usage per Container is 1, but limit is 2"):
        await world.client.create(pod(limits={"cpu": "2"}))
    with pytest.raises(Forbidden, match="minimum cpu usage per Container is 100m, but request is"):
        await world.client.create(pod(requests={"cpu": "50m"}, limits={"cpu": "1"}))
    await world.client.create(pod(limits={"cpu": "500m"}))


async def test_limits_of_one_namespace_are_nothing_to_another(world: World) -> None:
    await world.client.create(limits(type="Pod", max={"cpu": "1"}))
    await world.client.create(pod(limits={"cpu": "2"}, meta={"namespace": "elsewhere"}))


# -- quotas ---------------------------------------------------------------------------------------


async def test_of_100_who_come_at_once_a_quota_of_10_lets_in_10(world: World) -> None:
    await world.client.create(quota(pods="10"))
    results = await asyncio.gather(
        *(world.client.create(pod(f"p{number}")) for number in range(100)),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Forbidden)]
    assert len(refused) == 90
    assert len(world.cache.table(POD).entries("default")) == 10
    assert await used(world) == {"pods": "10"}
    assert "exceeded quota: room, requested: pods=1, used: pods=10, limited: pods=10" in str(
        refused[0]
    )


async def test_two_masters_together_let_in_no_more_than_the_quota() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock) as first, registry_on(store, clock) as second:
            await first.client.create(quota(pods="7"))
            await second.registry.read_barrier()
            results = await asyncio.gather(
                *(
                    master.client.create(pod(f"{name}{number}"))
                    for number in range(20)
                    for name, master in (("a", first), ("b", second))
                ),
                return_exceptions=True,
            )
            assert sum(isinstance(result, Forbidden) for result in results) == 33
            assert await used(first) == {"pods": "7"}


async def test_what_was_there_before_the_quota_counts(world: World) -> None:
    await world.client.create(pod("before"))
    await world.client.create(quota(pods="2"))
    await world.client.create(pod("second"))
    assert await used(world) == {"pods": "2"}
    with pytest.raises(Forbidden, match="exceeded quota"):
        await world.client.create(pod("third"))


async def test_what_is_deleted_is_room_again_at_once(world: World) -> None:
    await world.client.create(quota(pods="1"))
    for number in range(3):
        await world.client.create(pod(f"p{number}"))
        await world.client.delete(POD, f"p{number}", "default")
    assert await used(world) == {"pods": "1"}


async def test_cpu_and_memory_are_summed(world: World) -> None:
    await world.client.create(quota(cpu="1", limits_memory="1Gi"))
    await world.client.create(pod("a", limits={"cpu": "600m", "memory": "512Mi"}))
    assert await used(world) == {"cpu": "600m", "limits.memory": "512Mi"}
    with pytest.raises(Forbidden, match="requested: cpu=500m, used: cpu=600m, limited: cpu=1"):
        await world.client.create(pod("b", limits={"cpu": "500m", "memory": "1Mi"}))
    with pytest.raises(Forbidden, match=r"failed quota: room: must specify limits\.memory"):
        await world.client.create(pod("c", limits={"cpu": "100m"}))
    assert await used(world) == {"cpu": "600m", "limits.memory": "512Mi"}


async def test_a_default_of_the_limit_range_satisfies_the_quota(world: World) -> None:
    await world.client.create(quota(cpu="1"))
    await world.client.create(limits(type="Container", default={"cpu": "400m"}))
    await world.client.create(pod("a"))
    assert await used(world) == {"cpu": "400m"}


async def test_a_name_that_is_taken_charges_nothing(world: World) -> None:
    await world.client.create(quota(pods="5"))
    await world.client.create(pod())
    await asyncio.gather(*(world.client.create(pod()) for _ in range(10)), return_exceptions=True)
    assert await used(world) == {"pods": "1"}


async def test_a_dry_run_charges_nothing_and_is_refused_as_the_real_one(world: World) -> None:
    await world.client.create(quota(pods="1"))
    await world.registry.create(POD, pod(), user=USER, dry_run=True)
    await world.client.create(pod())
    assert await used(world) == {"pods": "1"}
    with pytest.raises(Forbidden):
        await world.registry.create(POD, pod("more"), user=USER, dry_run=True)


async def test_a_service_that_grows_node_ports_is_charged_for_them(world: World) -> None:
    from registry_world import service

    await world.client.create(quota(services_nodeports="1"))
    ports = (ServicePort(name="a", port=80), ServicePort(name="b", port=81))
    created = await world.client.create(service(type="ClusterIP", ports=ports))
    wider = replace(created, spec=replace(created.spec, type="NodePort"))
    with pytest.raises(Forbidden, match=r"services\.nodeports=2"):
        await world.client.update(wider)
    await world.client.delete(SERVICE, "web", "default")
    await world.client.create(service(type="NodePort"))
    assert await used(world) == {"services.nodeports": "1"}


async def test_every_quota_of_a_namespace_must_have_room(world: World) -> None:
    await world.client.create(quota("pods", pods="5"))
    await world.client.create(quota("objects", **{"count/pods": "1", "secrets": "3"}))
    await world.client.create(pod("a"))
    with pytest.raises(Forbidden, match="exceeded quota: objects"):
        await world.client.create(pod("b"))
    assert await used(world, "pods") == {"pods": "1"}


# -- security -------------------------------------------------------------------------------------


async def test_security_context_deny_refuses_pods_that_choose_a_user() -> None:
    async with memory_world(admission=("SecurityContextDeny",)) as world:
        with pytest.raises(Forbidden, match="RunAsUser"):
            await world.client.create(pod(security_context=PodSecurityContext(run_as_user=0)))
        await world.client.create(pod())
