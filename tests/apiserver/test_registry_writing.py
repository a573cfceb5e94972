"""The one way to write: create, update, modify, and what each promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registry_world import USER, Intercepted, World, memory_world, pod, registry_on, sqlite_world

from k8slite.api.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    UnknownOutcome,
)
from k8slite.api.kinds import (
    BINDING,
    CONFIG_MAP,
    NAMESPACE,
    POD,
    REPLICATION_CONTROLLER,
)
from k8slite.api.kinds.binding.types import Binding
from k8slite.api.kinds.configmap.types import ConfigMap
from k8slite.api.kinds.namespace.types import Namespace
from k8slite.api.kinds.pod.types import Container, PodSpec, PodStatus
from k8slite.api.kinds.podtemplate.types import PodTemplateSpec
from k8slite.api.kinds.replicationcontroller.types import (
    ReplicationController,
    ReplicationControllerSpec,
)
from k8slite.api.meta import ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.store.base import Op, OutcomeUnknown, StoreUnavailable
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


def config(name: str = "settings", **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data or None)


def labelled(obj: Any, **labels: str) -> Any:
    return replace(obj, metadata=replace(obj.metadata, labels=labels))


# -- create ---------------------------------------------------------------------------------------


async def test_a_created_object_gets_what_only_the_server_may_say(world: World) -> None:
    sent = config(color="red")
    sent = replace(sent, metadata=replace(sent.metadata, uid="mine", generation=7))
    entry = await world.registry.create(CONFIG_MAP, sent, user=USER)
    meta = entry.object.metadata
    assert len(meta.uid) == 36
    assert meta.creation_timestamp is not None
    assert meta.resource_version == str(entry.revision)
    assert meta.generation == 0
    assert entry.object.data == {"color": "red"}


async def test_the_answer_is_in_the_cache_already(world: World) -> None:
    entry = await world.registry.create(CONFIG_MAP, config(), user=USER)
    assert world.cache.table(CONFIG_MAP).get("default/settings") is entry
    assert world.registry.get(CONFIG_MAP, "default", "settings") is entry


async def test_a_name_is_used_once(world: World) -> None:
    await world.registry.create(CONFIG_MAP, config(), user=USER)
    with pytest.raises(AlreadyExists, match='configmaps "settings" already exists'):
        await world.registry.create(CONFIG_MAP, config(), user=USER)


async def test_of_many_who_create_the_same_name_one_succeeds(world: World) -> None:
    results = await asyncio.gather(
        *(world.registry.create(CONFIG_MAP, config(by=str(n)), user=USER) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, AlreadyExists) for result in results) == 19


async def test_a_pod_starts_pending_with_defaults(world: World) -> None:
    created = await world.client.create(pod())
    assert created.status.phase == "Pending"
    assert created.spec.restart_policy == "Always"


async def test_a_client_cannot_choose_a_version_at_creation(world: World) -> None:
    sent = replace(config(), metadata=replace(config().metadata, resource_version="5"))
    with pytest.raises(BadRequest, match="resourceVersion should not be set"):
        await world.registry.create(CONFIG_MAP, sent, user=USER)


async def test_an_invalid_object_is_refused_with_the_field_and_nothing_is_written(
    world: World,
) -> None:
    before = await world.revision()
    broken = replace(pod(), metadata=ObjectMeta(name="web", namespace="elsewhere"))
    broken = replace(broken, spec=replace(broken.spec, restart_policy="Sometimes"))
    with pytest.raises(Invalid, match=r"spec\.restartPolicy") as refused:
        await world.client.create(broken)
    assert refused.value.errors[0].path == "spec.restartPolicy"
    # Not even the namespace that would have been provisioned.
    assert await world.revision() == before


async def test_a_name_or_a_base_for_one_is_required(world: World) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        await world.client.create(config(name=""))


async def test_the_path_names_the_namespace(world: World) -> None:
    bare = ConfigMap(metadata=ObjectMeta(name="settings"))
    entry = await world.registry.create(CONFIG_MAP, bare, user=USER, namespace="default")
    assert entry.key == "default/settings"
    with pytest.raises(BadRequest, match="does not match the namespace"):
        await world.registry.create(CONFIG_MAP, config(), user=USER, namespace="other")
    with pytest.raises(Invalid, match=r"metadata\.namespace"):
        await world.registry.create(CONFIG_MAP, bare, user=USER)
    lost = Namespace(metadata=ObjectMeta(name="a", namespace="b"))
    with pytest.raises(BadRequest, match="have no namespace"):
        await world.registry.create(NAMESPACE, lost, user=USER)


async def test_what_is_not_stored_cannot_be_created(world: World) -> None:
    binding = Binding(metadata=ObjectMeta(name="a", namespace="default"))
    with pytest.raises(MethodNotAllowed):
        await world.registry.create(BINDING, binding, user=USER)


# -- generated names ------------------------------------------------------------------------------


async def test_generated_names_have_five_characters_after_a_base_cut_to_58(world: World) -> None:
    sent = ConfigMap(metadata=ObjectMeta(generate_name="a" * 70, namespace="default"))
    created = await world.client.create(sent)
    name = created.metadata.name
    assert name.startswith("a" * 58)
    assert len(name) == 63
    assert created.metadata.generate_name == "a" * 70


class Stubborn(Clock):
    """Draws the same suffix a few times before it draws another."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def suffix(self, length: int = 5) -> str:
        self.drawn += 1
        return "xxxxx" if self.drawn < 4 else super().suffix(length)


async def test_a_generated_name_that_is_taken_is_drawn_again() -> None:
    clock = Stubborn()
    async with memory_world(clock=clock) as world:
        sent = ConfigMap(metadata=ObjectMeta(generate_name="a-", namespace="default"))
        first = await world.client.create(sent)
        second = await world.client.create(sent)
        assert first.metadata.name == "a-xxxxx"
        assert second.metadata.name != first.metadata.name
        assert second.metadata.name.startswith("a-")


# -- update ---------------------------------------------------------------------------------------


async def test_an_update_on_the_read_version_succeeds_once(world: World) -> None:
    read = await world.client.create(config(color="red"))
    await world.client.update(replace(read, data={"color": "green"}))
    with pytest.raises(Conflict, match="the object has been modified"):
        await world.client.update(replace(read, data={"color": "blue"}))
    assert (await world.client.get(CONFIG_MAP, "settings", "default")).data == {"color": "green"}


async def test_an_update_without_version_overwrites(world: World) -> None:
    await world.client.create(config(color="red"))
    await world.client.update(config(color="blue"))
    assert (await world.client.get(CONFIG_MAP, "settings", "default")).data == {"color": "blue"}


async def test_an_update_of_nothing_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match='configmaps "settings" not found'):
        await world.client.update(config())


async def test_an_update_that_changes_nothing_writes_nothing(world: World) -> None:
    created = await world.client.create(pod(meta={"labels": {"app": "web"}}))
    entry = world.registry.get(POD, "default", "web")
    before = await world.revision()
    assert await world.registry.update(POD, created, user=USER) is entry
    sent_again = pod(meta={"labels": {"app": "web"}})
    assert await world.registry.update(POD, sent_again, user=USER) is entry
    assert await world.registry.update(POD, created, user=USER, subresource="status") is entry
    assert await world.registry.modify(POD, "default", "web", lambda old: old, user=USER) is entry
    assert await world.revision() == before


async def test_an_update_keeps_what_the_server_says(world: World) -> None:
    created = await world.client.create(config())
    sent = ConfigMap(
        metadata=ObjectMeta(name="settings", namespace="default", creation_timestamp=None),
        data={"color": "red"},
    )
    updated = await world.client.update(sent)
    assert updated.metadata.uid == created.metadata.uid
    assert updated.metadata.creation_timestamp == created.metadata.creation_timestamp


async def test_an_update_for_an_earlier_object_of_the_name_is_a_conflict(world: World) -> None:
    first = await world.client.create(config())
    await world.client.delete(CONFIG_MAP, "settings", "default")
    await world.client.create(config())
    stale = replace(first, metadata=replace(first.metadata, resource_version=""))
    with pytest.raises(Conflict, match="UID in precondition"):
        await world.client.update(replace(stale, data={"a": "b"}))


async def test_a_version_that_is_none_is_a_bad_request(world: World) -> None:
    created = await world.client.create(config())
    odd = replace(created, metadata=replace(created.metadata, resource_version="x1"))
    with pytest.raises(BadRequest, match="resourceVersion"):
        await world.client.update(odd)


async def test_a_version_of_the_future_is_a_conflict_not_a_wait(world: World) -> None:
    created = await world.client.create(config())
    ahead = replace(created, metadata=replace(created.metadata, resource_version="99999"))
    with pytest.raises(Conflict):
        await world.client.update(ahead)


async def test_racing_updates_on_one_version_have_one_winner(world: World) -> None:
    read = await world.client.create(config())
    results = await asyncio.gather(
        *(world.client.update(replace(read, data={"by": str(n)})) for n in range(30)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Conflict) for result in results) == 29


async def test_racing_modifications_are_all_made(world: World) -> None:
    await world.client.create(config(count="0"))

    def one_more(old: ConfigMap) -> ConfigMap:
        return replace(old, data={"count": str(int((old.data or {})["count"]) + 1)})

    await asyncio.gather(
        *(
            world.registry.modify(CONFIG_MAP, "default", "settings", one_more, user=USER)
            for _ in range(40)
        )
    )
    assert (await world.client.get(CONFIG_MAP, "settings", "default")).data == {"count": "40"}


async def test_a_modification_may_pin_the_version(world: World) -> None:
    created = await world.client.create(config())
    await world.client.update(config(a="b"))
    stale = {"metadata": {"resourceVersion": created.metadata.resource_version}, "data": {"x": "y"}}
    with pytest.raises(Conflict):
        await world.client.patch(CONFIG_MAP, "settings", "default", stale)


# -- parts of the object --------------------------------------------------------------------------


async def test_status_and_body_are_written_apart(world: World) -> None:
    await world.client.create(pod())
    running = replace(
        pod(meta={"labels": {"x": "y"}}, scheduler_name="mine"), status=PodStatus(phase="Running")
    )
    after = await world.client.update(running, subresource="status")
    assert after.status.phase == "Running"
    assert after.spec.scheduler_name == "default-scheduler"
    body = labelled(replace(after, status=PodStatus(phase="Failed")), app="web")
    after = await world.client.update(body)
    assert after.status.phase == "Running"
    assert after.metadata.labels == {"app": "web"}


def controller(replicas: int = 1) -> ReplicationController:
    template = PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "web"}),
        spec=PodSpec(containers=(Container(name="main", image="nginx"),)),
    )
    return ReplicationController(
        metadata=ObjectMeta(name="web", namespace="default"),
        spec=ReplicationControllerSpec(replicas=replicas, template=template),
    )


async def test_generation_counts_changes_of_what_is_wanted(world: World) -> None:
    created = await world.client.create(controller())
    assert created.metadata.generation == 1
    relabelled = await world.client.update(labelled(created, tier="front"))
    assert relabelled.metadata.generation == 1
    grown = await world.client.update(
        replace(relabelled, spec=replace(relabelled.spec, replicas=3))
    )
    assert grown.metadata.generation == 2


async def test_scale_is_a_view_of_the_controller(world: World) -> None:
    await world.client.create(controller())
    scale = world.registry.scale("default", "web")
    assert scale.spec.replicas == 1
    assert scale.status.selector == "app=web"
    bigger = replace(scale, spec=replace(scale.spec, replicas=6))
    written = await world.registry.rescale("default", "web", lambda _: bigger, user=USER)
    assert written.spec.replicas == 6
    assert world.registry.get(REPLICATION_CONTROLLER, "default", "web").object.spec.replicas == 6
    with pytest.raises(Conflict):
        await world.registry.rescale("default", "web", lambda _: bigger, user=USER)
    negative = replace(written, spec=replace(written.spec, replicas=-1))
    with pytest.raises(Invalid, match=r"spec\.replicas"):
        await world.registry.rescale("default", "web", lambda _: negative, user=USER)


# -- dry run --------------------------------------------------------------------------------------


async def test_a_dry_run_says_what_would_be_and_writes_nothing(world: World) -> None:
    before = await world.revision()
    entry = await world.registry.create(POD, pod(), user=USER, dry_run=True)
    assert entry.object.status.phase == "Pending"
    assert "resourceVersion" not in json.loads(entry.data)["metadata"]
    fresh = await world.registry.create(CONFIG_MAP, config(), user=USER, dry_run=True)
    assert fresh.object.metadata.uid
    assert await world.revision() == before
    await world.client.create(config(color="red"))
    before = await world.revision()
    with pytest.raises(AlreadyExists):
        await world.registry.create(CONFIG_MAP, config(), user=USER, dry_run=True)
    entry = await world.registry.update(CONFIG_MAP, config(color="blue"), user=USER, dry_run=True)
    assert entry.object.data == {"color": "blue"}
    assert await world.revision() == before


# -- trouble with the store -----------------------------------------------------------------------


async def test_unavailable_and_unknown_outcome_are_never_mixed_up() -> None:
    clock = Clock()
    async with MemoryStore(clock) as memory:
        store: Any = Intercepted(memory)
        async with registry_on(store, clock) as world:

            async def down(ops: list[Op]) -> None:
                raise StoreUnavailable("connection refused")

            async def silent(ops: list[Op]) -> None:
                raise OutcomeUnknown("connection lost")

            store.before = down
            with pytest.raises(Unavailable, match="connection refused"):
                await world.client.create(config())
            store.before, store.after = None, silent
            with pytest.raises(UnknownOutcome, match="may have happened"):
                await world.client.create(config())
            store.after = None
            await world.registry.read_barrier()
            assert world.registry.get(CONFIG_MAP, "default", "settings")


async def test_a_write_that_meets_a_newer_object_is_decided_anew() -> None:
    clock = Clock()
    async with MemoryStore(clock) as memory:
        store: Any = Intercepted(memory)
        async with registry_on(store, clock) as world:
            await world.client.create(config(a="1"))
            met = 0

            async def overtake(ops: list[Op]) -> None:
                nonlocal met
                met += 1
                if met == 1:
                    await world.client.update(config(b="2"))

            store.before = overtake
            seen: list[dict[str, str] | None] = []

            def change(old: ConfigMap) -> ConfigMap:
                seen.append(old.data)
                return replace(old, data={**(old.data or {}), "c": "3"})

            entry = await world.registry.modify(
                CONFIG_MAP, "default", "settings", change, user=USER
            )
            assert entry.object.data == {"b": "2", "c": "3"}
            assert seen == [{"a": "1"}, {"b": "2"}]


async def test_the_answer_of_a_write_is_that_write_even_if_another_follows_at_once(
    world: World,
) -> None:
    await world.client.create(config())

    async def write(n: int) -> tuple[int, str]:
        entry = await world.registry.update(CONFIG_MAP, config(by=str(n)), user=USER)
        return n, (entry.object.data or {})["by"]

    for number, answered in await asyncio.gather(*(write(n) for n in range(20))):
        assert answered == str(number)
