"""Ends: graceful, finalized, propagated, guarded by preconditions, one by one and all at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registry_world import USER, World, memory_world, pod, sqlite_world

from k8slite.api import selectors
from k8slite.api.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound
from k8slite.api.kinds import CONFIG_MAP, NAMESPACE, POD
from k8slite.api.kinds.binding.types import Binding, ObjectReference
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.meta import DeleteOptions, ObjectMeta, Preconditions
from k8slite.kit.clock import parse_rfc3339

replace = msgspec.structs.replace


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory_world() as world:
            yield world
    else:
        async with sqlite_world(tmp_path / "store.db") as world:
            yield world


def config(name: str = "settings", **meta: Any) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default", **meta))


async def running(world: World, name: str = "web", **fields: Any) -> None:
    await world.client.create(pod(name, **fields))
    await world.client.bind("default", name, "node-1")


async def remove(world: World, kind: Any, name: str, namespace: str = "default", **options: Any):
    return await world.registry.delete(kind, namespace, name, DeleteOptions(**options), user=USER)


# -- grace ----------------------------------------------------------------------------------------


async def test_a_plain_object_goes_at_once(world: World) -> None:
    await world.client.create(config())
    assert await remove(world, CONFIG_MAP, "settings") is None
    assert world.cache.table(CONFIG_MAP).get("default/settings") is None
    with pytest.raises(NotFound):
        await remove(world, CONFIG_MAP, "settings")


async def test_a_pod_that_runs_nowhere_goes_at_once(world: World) -> None:
    await world.client.create(pod())
    assert await remove(world, POD, "web") is None


async def test_a_pod_on_a_node_is_given_its_grace(world: World) -> None:
    await running(world, termination_grace_period_seconds=7)
    entry = await remove(world, POD, "web")
    meta = entry.object.metadata
    assert meta.deletion_grace_period_seconds == 7
    due = parse_rfc3339(meta.deletion_timestamp or "")
    assert 0 < due - world.clock.now() <= 7
    before = await world.revision()
    again = await remove(world, POD, "web")
    assert again is entry
    assert await world.revision() == before


async def test_the_request_may_name_the_grace_and_a_second_one_may_only_shorten_it(
    world: World,
) -> None:
    await running(world)
    first = (await remove(world, POD, "web", grace_period_seconds=20)).object.metadata
    longer = (await remove(world, POD, "web", grace_period_seconds=60)).object.metadata
    shorter = (await remove(world, POD, "web", grace_period_seconds=5)).object.metadata
    assert longer == first
    assert shorter.deletion_grace_period_seconds == 5
    assert parse_rfc3339(first.deletion_timestamp or "") - parse_rfc3339(
        shorter.deletion_timestamp or ""
    ) == pytest.approx(15)
    assert await remove(world, POD, "web", grace_period_seconds=0) is None


async def test_a_finished_pod_needs_no_grace(world: World) -> None:
    await running(world)
    current = await world.client.get(POD, "web", "default")
    done = replace(current, status=replace(current.status, phase="Succeeded"))
    await world.client.update(done, subresource="status")
    assert await remove(world, POD, "web") is None


async def test_a_leaving_pod_is_not_bound(world: World) -> None:
    await world.client.create(pod(meta={"finalizers": ("example.com/hold",)}))
    await remove(world, POD, "web")
    with pytest.raises(Conflict, match="being deleted"):
        await world.client.bind("default", "web", "node-1")


# -- finalizers -----------------------------------------------------------------------------------


async def test_finalizers_hold_an_object_until_the_last_is_taken_away(world: World) -> None:
    await world.client.create(config(finalizers=("example.com/a", "example.com/b")))
    entry = await remove(world, CONFIG_MAP, "settings")
    assert entry.object.metadata.deletion_timestamp
    await world.client.patch(
        CONFIG_MAP, "settings", "default", {"metadata": {"finalizers": ["example.com/b"]}}
    )
    assert world.registry.get(CONFIG_MAP, "default", "settings")
    last = await world.registry.modify(
        CONFIG_MAP, "default", "settings",
        lambda old: replace(old, metadata=replace(old.metadata, finalizers=())), user=USER,
    )  # fmt: skip
    assert last.object.metadata.deletion_timestamp
    assert world.cache.table(CONFIG_MAP).get("default/settings") is None


async def test_a_pod_keeps_its_grace_when_its_finalizers_are_gone(world: World) -> None:
    await running(world, meta={"finalizers": ("example.com/hold",)})
    await remove(world, POD, "web")
    await world.client.patch(POD, "web", "default", {"metadata": {"finalizers": None}})
    assert world.registry.get(POD, "default", "web")
    assert await remove(world, POD, "web", grace_period_seconds=0) is None


async def test_a_leaving_object_takes_no_new_finalizers(world: World) -> None:
    await world.client.create(config(finalizers=("example.com/a",)))
    await remove(world, CONFIG_MAP, "settings")
    with pytest.raises(Invalid, match=r"metadata\.finalizers"):
        await world.client.patch(
            CONFIG_MAP, "settings", "default",
            {"metadata": {"finalizers": ["example.com/a", "example.com/b"]}},
        )  # fmt: skip


# -- propagation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "finalizers"),
    [
        ({"propagation_policy": "Foreground"}, ("foregroundDeletion",)),
        ({"propagation_policy": "Orphan"}, ("orphan",)),
        ({"orphan_dependents": True}, ("orphan",)),
    ],
)
async def test_dependents_are_seen_to_before_the_owner_goes(
    world: World, options: dict[str, Any], finalizers: tuple[str, ...]
) -> None:
    await world.client.create(config())
    entry = await remove(world, CONFIG_MAP, "settings", **options)
    assert entry.object.metadata.finalizers == finalizers
    assert entry.object.metadata.deletion_timestamp


@pytest.mark.parametrize("options", [{}, {"propagation_policy": "Background"},
                                     {"orphan_dependents": False}])  # fmt: skip
async def test_in_the_background_the_owner_goes_first(
    world: World, options: dict[str, Any]
) -> None:
    await world.client.create(config())
    assert await remove(world, CONFIG_MAP, "settings", **options) is None


async def test_contradicting_or_unknown_options_are_refused(world: World) -> None:
    await world.client.create(config())
    with pytest.raises(BadRequest, match="cannot both be set"):
        await remove(
            world, CONFIG_MAP, "settings", propagation_policy="Orphan", orphan_dependents=True
        )
    with pytest.raises(Invalid, match="propagationPolicy"):
        await remove(world, CONFIG_MAP, "settings", propagation_policy="Sideways")
    assert world.registry.get(CONFIG_MAP, "default", "settings")


# -- preconditions --------------------------------------------------------------------------------


async def test_preconditions_guard_against_deleting_another_object(world: World) -> None:
    created = await world.client.create(config())
    with pytest.raises(Conflict, match="UID in precondition: other"):
        await remove(world, CONFIG_MAP, "settings", preconditions=Preconditions(uid="other"))
    with pytest.raises(Conflict, match="ResourceVersion in precondition"):
        await remove(
            world, CONFIG_MAP, "settings", preconditions=Preconditions(resource_version="1")
        )
    right = Preconditions(
        uid=created.metadata.uid, resource_version=created.metadata.resource_version
    )
    assert await remove(world, CONFIG_MAP, "settings", preconditions=right) is None


async def test_a_dry_run_deletes_nothing(world: World) -> None:
    await world.client.create(config())
    before = await world.revision()
    assert await remove(world, CONFIG_MAP, "settings", dry_run=("All",)) is None
    assert await world.revision() == before


# -- collections ----------------------------------------------------------------------------------


async def test_a_collection_is_deleted_by_selector(world: World) -> None:
    for number in range(6):
        colour = "red" if number % 2 else "blue"
        await world.client.create(config(f"c{number}", labels={"colour": colour}))
    gone = await world.registry.delete_collection(
        CONFIG_MAP, "default", DeleteOptions(), user=USER,
        labels=selectors.parse_labels("colour=red"),
        fields=selectors.parse_fields("metadata.name!=c5", CONFIG_MAP),
    )  # fmt: skip
    assert [entry.key for entry in gone] == ["default/c1", "default/c3"]
    left = world.cache.table(CONFIG_MAP).entries("default")
    assert [entry.key for entry in left] == [f"default/c{n}" for n in (0, 2, 4, 5)]


async def test_a_large_collection_goes_whole(world: World) -> None:
    for number in range(150):
        await world.client.create(config(f"c{number}"))
    gone = await world.registry.delete_collection(CONFIG_MAP, "default", DeleteOptions(), user=USER)
    assert len(gone) == 150
    assert len(world.cache.table(CONFIG_MAP)) == 0


# -- namespaces -----------------------------------------------------------------------------------


async def test_a_namespace_terminates_takes_nothing_new_and_goes_when_finalized(
    world: World,
) -> None:
    await world.client.create(Namespace(metadata=ObjectMeta(name="shop")))
    entry = await remove(world, NAMESPACE, "shop", namespace="")
    assert entry.object.status.phase == "Terminating"
    assert entry.object.metadata.deletion_timestamp
    with pytest.raises(Forbidden, match="because it is being terminated"):
        await world.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="shop")))
    current = await world.client.get(NAMESPACE, "shop")
    await world.client.finalize(replace(current, spec=replace(current.spec, finalizers=())))
    with pytest.raises(NotFound):
        await world.client.get(NAMESPACE, "shop")


async def test_an_update_does_not_touch_the_finalizers_of_a_namespace(world: World) -> None:
    current = await world.client.create(Namespace(metadata=ObjectMeta(name="shop")))
    sent = replace(current, spec=replace(current.spec, finalizers=()))
    assert (await world.client.update(sent)).spec.finalizers == ("kubernetes",)


async def test_the_default_namespace_stays(world: World) -> None:
    with pytest.raises(Forbidden, match="may not be deleted"):
        await remove(world, NAMESPACE, "default", namespace="")


# -- binding --------------------------------------------------------------------------------------


async def test_binding_puts_a_pod_on_a_node_once(world: World) -> None:
    await world.client.create(pod())
    binding = Binding(
        metadata=ObjectMeta(name="web", namespace="default", annotations={"why": "score 10"}),
        target=ObjectReference(kind="Node", name="node-1"),
    )
    entry = await world.registry.bind("default", binding, user=USER)
    bound = entry.object
    assert bound.spec.node_name == "node-1"
    assert bound.metadata.annotations == {"why": "score 10"}
    assert [(c.type, c.status) for c in bound.status.conditions] == [("PodScheduled", "True")]
    with pytest.raises(Conflict, match="already assigned to node 'node-1'"):
        await world.registry.bind("default", binding, user=USER)
    with pytest.raises(NotFound):
        await world.client.bind("default", "nobody", "node-1")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (ObjectReference(kind="Node"), "target.name"),
        (ObjectReference(kind="Pod", name="x"), "target.kind"),
    ],
)
async def test_a_binding_names_a_node(world: World, target: ObjectReference, path: str) -> None:
    await world.client.create(pod())
    binding = Binding(metadata=ObjectMeta(name="web", namespace="default"), target=target)
    with pytest.raises(Invalid) as refused:
        await world.registry.bind("default", binding, user=USER)
    assert [error.path for error in refused.value.errors] == [path]


async def test_a_binding_for_an_earlier_pod_of_the_name_is_a_conflict(world: World) -> None:
    await world.client.create(pod())
    binding = Binding(
        metadata=ObjectMeta(name="web", namespace="default", uid="earlier"),
        target=ObjectReference(name="node-1"),
    )
    with pytest.raises(Conflict, match="UID in precondition"):
        await world.registry.bind("default", binding, user=USER)
