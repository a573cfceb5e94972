"""Namespaces go with all they hold, quotas count, garbage goes, accounts stay."""

from __future__ import annotations

import msgspec
import pytest
from control_plane import Killed, Plane, controller, pod, simulate

from k8slite.api.kinds import (
    CONFIG_MAP,
    NAMESPACE,
    POD,
    REPLICATION_CONTROLLER,
    RESOURCE_QUOTA,
    SERVICE_ACCOUNT,
)
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.resourcequota.types import ResourceQuota, ResourceQuotaSpec
from k8slite.api.meta import ObjectMeta, OwnerReference
from k8slite.kit.tasks import stop
from k8slite.roles.controllers.namespaces import CONTENT


def moved(obj: object, namespace: str = "x") -> object:
    meta = msgspec.structs.replace(obj.metadata, namespace=namespace)  # type: ignore[attr-defined]
    return msgspec.structs.replace(obj, metadata=meta)


async def fill(plane: Plane) -> None:
    await plane.client.create(Namespace(metadata=ObjectMeta(name="x")))
    await plane.client.create(moved(controller(3)))
    await plane.client.create(moved(pod("alone")))
    await plane.client.create(ConfigMap(metadata=ObjectMeta(name="c", namespace="x")))


def left(plane: Plane) -> int:
    return sum(len(plane.all(kind, "x")) for kind in CONTENT)


def gone(plane: Plane) -> bool:
    return not any(n.metadata.name == "x" for n in plane.all(NAMESPACE))


def test_a_namespace_goes_with_all_that_it_holds() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await fill(plane)
        await plane.until(lambda: len(plane.all(POD, "x")) == 4)
        await plane.client.delete(NAMESPACE, "x")
        await plane.until(lambda: gone(plane), 5)
        await plane.quiet()
        assert left(plane) == 0
        assert await plane.quiet(600) == 0

    simulate(play)


def test_a_namespace_waits_for_what_needs_time() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.add_node("n1")
        plane.start(plane.beat("n1"))
        await fill(plane)
        await plane.run_pod(await plane.client.get(POD, "alone", "x"), "10.0.0.1", "n1")
        await plane.client.delete(NAMESPACE, "x")
        await plane.quiet(60)
        assert not gone(plane)
        assert [p.metadata.name for p in plane.all(POD, "x")] == ["alone"]
        await plane.client.delete(POD, "alone", "x", grace_seconds=0)  # its kubelet is done
        await plane.until(lambda: gone(plane), 5)

    simulate(play)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_of_a_teardown_the_next_one_finishes(after: bool) -> None:
    async def play(plane: Plane) -> None:
        at, finished = 0, False
        while not finished:
            await fill(plane)
            await plane.client.delete(NAMESPACE, "x")
            mortal = Killed(plane.client, at, after=after)
            task = plane.start(plane.controllers(client=mortal).run())
            await plane.quiet(5)
            finished = not mortal.dead
            await stop(task)
            task = plane.start(plane.controllers().run())
            await plane.until(lambda: gone(plane))
            await plane.quiet(5)
            assert left(plane) == 0
            await stop(task)
            at += 1
        assert at > 3

    simulate(play)


def test_every_namespace_has_its_default_account() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(Namespace(metadata=ObjectMeta(name="x")))
        await plane.until(lambda: len(plane.all(SERVICE_ACCOUNT)) == 2)
        await plane.client.delete(SERVICE_ACCOUNT, "default", "x")
        await plane.until(lambda: len(plane.all(SERVICE_ACCOUNT)) == 2)

    simulate(play)


def used(plane: Plane) -> dict[str, str] | None:
    found: ResourceQuota = plane.all(RESOURCE_QUOTA)[0]
    return found.status.used  # type: ignore[return-value]


def test_a_quota_counts_what_is_there_and_what_has_gone() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        for number in range(3):
            await plane.client.create(pod(f"p{number}", cpu="250m"))
        quota = ResourceQuota(
            metadata=ObjectMeta(name="q", namespace="default"),
            spec=ResourceQuotaSpec(hard={"pods": "10", "cpu": "4", "configmaps": "5"}),
        )
        await plane.client.create(quota)
        await plane.until(lambda: used(plane) == {"pods": "3", "cpu": "750m", "configmaps": "0"})
        await plane.client.delete(POD, "p0", "default")
        await plane.until(lambda: used(plane) == {"pods": "2", "cpu": "500m", "configmaps": "0"})
        last = await plane.client.get(POD, "p1", "default")
        status = msgspec.structs.replace(last.status, phase="Succeeded")
        await plane.client.update(
            msgspec.structs.replace(last, status=status), subresource="status"
        )
        await plane.until(lambda: used(plane) == {"pods": "1", "cpu": "250m", "configmaps": "0"})
        await plane.quiet()
        assert await plane.quiet(600) == 0

    simulate(play)


# -- garbage


def config(name: str, *owners: OwnerReference, finalizers: tuple[str, ...] = ()) -> ConfigMap:
    meta = ObjectMeta(
        name=name, namespace="default", owner_references=owners, finalizers=finalizers
    )
    return ConfigMap(metadata=meta)


def reference(owner: ConfigMap, *, block: bool = False) -> OwnerReference:
    return OwnerReference(
        kind="ConfigMap",
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        block_owner_deletion=block or None,
    )


def names(plane: Plane) -> list[str]:
    return [c.metadata.name for c in plane.all(CONFIG_MAP)]


def test_dependents_go_after_their_last_owner_down_the_whole_tree() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        one, two = [await plane.client.create(config(name)) for name in ("one", "two")]
        both = await plane.client.create(config("both", reference(one), reference(two)))
        await plane.client.create(config("grandchild", reference(both)))
        await plane.client.delete(CONFIG_MAP, "one", "default")
        await plane.quiet()
        assert names(plane) == ["both", "grandchild", "two"]
        assert (
            len((await plane.client.get(CONFIG_MAP, "both", "default")).metadata.owner_references)
            == 1
        )
        await plane.client.delete(CONFIG_MAP, "two", "default")
        await plane.until(lambda: names(plane) == [])

    simulate(play)


def test_an_object_born_after_its_owner_died_goes_too() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        one = await plane.client.create(config("one"))
        await plane.client.delete(CONFIG_MAP, "one", "default")
        await plane.client.create(config("late", reference(one)))
        await plane.until(lambda: names(plane) == [])
        again = await plane.client.create(config("one"))  # the same name is not the same owner
        await plane.client.create(config("stranger", reference(one)))
        await plane.client.create(config("child", reference(again)))
        await plane.until(lambda: names(plane) == ["child", "one"])

    simulate(play)


def test_in_the_foreground_the_owner_goes_last() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        owner = await plane.client.create(config("owner"))
        child = config("child", reference(owner, block=True), finalizers=("test/hold",))
        await plane.client.create(child)
        await plane.client.delete(CONFIG_MAP, "owner", "default", propagation="Foreground")
        await plane.quiet()
        assert names(plane) == ["child", "owner"]
        held = await plane.client.get(CONFIG_MAP, "child", "default")
        assert held.metadata.deletion_timestamp is not None
        freed = msgspec.structs.replace(held.metadata, finalizers=())
        await plane.client.update(msgspec.structs.replace(held, metadata=freed))
        await plane.until(lambda: names(plane) == [])

    simulate(play)


def test_orphans_are_left_without_the_reference() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        await plane.client.create(controller(2))
        await plane.until(lambda: len(plane.pods()) == 2)
        await plane.client.delete(REPLICATION_CONTROLLER, "web", "default", propagation="Orphan")
        await plane.until(lambda: not plane.all(REPLICATION_CONTROLLER))
        await plane.quiet()
        assert [p.metadata.owner_references for p in plane.pods()] == [(), ()]
        await plane.client.create(controller(2))  # and a new controller takes them over
        await plane.until(lambda: all(p.metadata.owner_references for p in plane.pods()))
        assert len(plane.pods()) == 2

    simulate(play)


def test_owners_of_kinds_that_are_not_served_are_taken_to_live() -> None:
    async def play(plane: Plane) -> None:
        plane.start(plane.controllers().run())
        foreign = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="r", uid="u")
        await plane.client.create(config("c", foreign))
        await plane.quiet(600)
        assert names(plane) == ["c"]

    simulate(play)
