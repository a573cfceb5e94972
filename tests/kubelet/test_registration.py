"""A node gets a pod network of its own, also when many nodes ask at once and know little."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.apiserver.registry_world import World, memory_world, registry_on
from tests.kubelet.cluster import cluster

from k8slite.api.errors import Unavailable
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import Node, NodeSpec
from k8slite.api.meta import ObjectMeta
from k8slite.client.informer import CacheInformers
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.roles.kubelet.hollow import HollowRuntime
from k8slite.roles.kubelet.registration import Registration
from k8slite.roles.kubelet.runtime import RuntimeFailure
from k8slite.store.memory import MemoryStore


class Blind:
    """An informer that lags: it has seen nothing yet."""

    def __init__(self, nodes: tuple[Node, ...] = ()) -> None:
        self._nodes = nodes

    def items(self) -> Iterator[Node]:
        return iter(self._nodes)

    def get(self, key: str) -> Node | None:
        return next((node for node in self._nodes if node.metadata.name == key), None)


def registration(world: World, name: str, nodes: object = None) -> Registration:
    settings = Settings(node_name=name, node_ip="10.0.0.1")
    seen = nodes or CacheInformers(world.cache).of(NODE)
    return Registration(settings, world.client, seen)  # type: ignore[arg-type]


async def test_nodes_that_start_at_once_each_get_a_network_of_their_own() -> None:
    clock = Clock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(MemoryStore(clock))
        masters = [await stack.enter_async_context(registry_on(store, clock)) for _ in range(3)]
        claimed = await asyncio.gather(
            *(registration(masters[n % 3], f"n{n}", Blind()).claim("", []) for n in range(12))
        )
        assert sorted(claimed, key=lambda cidr: int(cidr.split(".")[2])) == [
            f"172.16.{n}.0/24" for n in range(12)
        ]
        for master in masters:
            await master.registry.read_barrier()
            nodes = (await master.client.list(NODE)).items
            assert {n.metadata.name: n.spec.pod_cidr for n in nodes} == {
                f"n{n}": cidr for n, cidr in enumerate(claimed)
            }


async def test_what_the_host_routes_already_is_passed_over() -> None:
    async with memory_world() as world:
        assert await registration(world, "n1").claim("", ["172.16.0.0/23"]) == "172.16.2.0/24"


async def test_a_node_keeps_its_network_without_a_word_to_the_api() -> None:
    async with memory_world() as world:
        await registration(world, "n1").claim("172.16.9.0/24", [])
        before = await world.revision()
        assert await registration(world, "n1").claim("172.16.9.0/24", []) == "172.16.9.0/24"
        assert await world.revision() == before


async def test_a_node_that_was_joined_without_a_network_gets_one() -> None:
    async with memory_world() as world:
        await world.client.create(Node(metadata=ObjectMeta(name="n1")))
        assert await registration(world, "n1", Blind()).claim("", []) == "172.16.0.0/24"
        node = await world.client.get(NODE, "n1")
        assert node.spec.pod_cidr == "172.16.0.0/24"


async def test_after_a_reinstall_the_cluster_remembers() -> None:
    async with memory_world() as world:
        await registration(world, "n1").claim("172.16.9.0/24", [])
        assert await registration(world, "n1").claim("", []) == "172.16.9.0/24"
        assert await registration(world, "n1").claim("172.16.3.0/24", []) == "172.16.9.0/24"


async def test_a_network_that_no_longer_fits_is_exchanged() -> None:
    async with memory_world() as world:
        spec = NodeSpec(pod_cidr="10.5.0.0/24", pod_cidrs=("10.5.0.0/24",))
        await world.client.create(Node(metadata=ObjectMeta(name="n1"), spec=spec))
        assert await registration(world, "n1").claim("10.5.0.0/24", []) == "172.16.0.0/24"


async def test_a_silent_api_is_said_as_the_reason_why_there_is_no_network() -> None:
    async with memory_world() as world:
        asked = registration(world, "n1")

        async def silent(obj: Node) -> Node:
            raise Unavailable("nobody answers")

        world.client.create = silent  # type: ignore[method-assign,assignment]
        with pytest.raises(RuntimeFailure, match="no pod network yet, the API said: nobody"):
            await asked.claim("", [])


async def test_a_stale_view_of_oneself_does_not_mislead() -> None:
    async with memory_world() as world:
        registered = await world.client.create(Node(metadata=ObjectMeta(name="n1")))
        stale = Blind((registered,))
        await world.client.update(
            replace(registered, spec=replace(registered.spec, unschedulable=True))
        )
        assert await registration(world, "n1", stale).claim("", []) == "172.16.0.0/24"
        assert (await world.client.get(NODE, "n1")).spec.unschedulable


async def test_a_node_whose_network_went_to_another_says_so_and_is_not_ready(
    tmp_path: Path,
) -> None:
    clock = Clock()
    settings = Settings(node_name="n1", node_ip="10.9.9.9", data_dir=tmp_path)
    async with cluster(settings, lambda: HollowRuntime(clock), clock=clock) as lab:
        assert lab.node().spec.pod_cidr == "172.16.0.0/24"  # type: ignore[union-attr]
        await lab.client.delete(NODE, "n1")
        spec = NodeSpec(pod_cidr="172.16.0.0/24", pod_cidrs=("172.16.0.0/24",))
        await lab.client.create(Node(metadata=ObjectMeta(name="thief"), spec=spec))
        await lab.kubelet._node._report()
        await lab.until(lambda: lab.node_condition("Ready") == "False")
        ready = next(c for c in lab.node().status.conditions if c.type == "Ready")  # type: ignore[union-attr]
        assert "172.16.0.0/24 is not this node's any more" in ready.message
        assert "which node thief has" in ready.message
        await lab.client.delete(NODE, "thief")
        await lab.kubelet._node._report()
        await lab.until(lambda: lab.node_condition("Ready") == "True")
        assert lab.node().spec.pod_cidr == "172.16.0.0/24"  # type: ignore[union-attr]


async def test_trouble_of_the_pod_network_is_a_condition_until_it_is_over(tmp_path: Path) -> None:
    clock = Clock()
    settings = Settings(node_name="n1", node_ip="10.9.9.9", data_dir=tmp_path)
    async with cluster(settings, lambda: HollowRuntime(clock), clock=clock) as lab:
        reporter = lab.kubelet._node
        assert lab.node_condition("NetworkUnavailable") == ""
        reporter._network_trouble = lambda: "somebody else's route stands in the way"
        await reporter._report()
        await lab.until(lambda: lab.node_condition("NetworkUnavailable") == "True")
        reporter._network_trouble = lambda: ""
        await reporter._report()
        await lab.until(lambda: lab.node_condition("NetworkUnavailable") == "False")
        assert lab.node_condition("Ready") == "True"
