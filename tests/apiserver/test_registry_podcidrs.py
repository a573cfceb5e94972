"""Pod networks of nodes: no two nodes ever hold overlapping ones, whoever asks at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from registry_world import World, memory_world, registry_on, sqlite_world

from k8slite.api.errors import Invalid
from k8slite.api.kinds import NODE
from k8slite.api.kinds.node.types import Node, NodeSpec
from k8slite.api.meta import ObjectMeta
from k8slite.kit.clock import Clock
from k8slite.store.base import Delete
from k8slite.store.memory import MemoryStore

CLAIMS = "/registry/podcidrs/"


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory_world() as world:
            yield world
    else:
        async with sqlite_world(tmp_path / "store.db") as world:
            yield world


def node(name: str, cidr: str = "") -> Node:
    spec = NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,) if cidr else ())
    return Node(metadata=ObjectMeta(name=name), spec=spec)


def with_cidr(node: Node, cidr: str) -> Node:
    spec = replace(node.spec, pod_cidr=cidr, pod_cidrs=(cidr,) if cidr else ())
    return replace(node, spec=spec)


async def test_a_claim_lives_and_dies_with_its_node(world: World) -> None:
    await world.client.create(node("n1", "172.16.0.0/24"))
    assert await world.keys(CLAIMS) == {"172.16.0.0_24"}
    await world.client.delete(NODE, "n1")
    assert await world.keys(CLAIMS) == set()
    await world.client.create(node("n2", "172.16.0.0/24"))


async def test_a_refusal_names_the_field_what_is_taken_and_by_whom(world: World) -> None:
    await world.client.create(node("n1", "172.16.0.0/23"))
    with pytest.raises(Invalid) as refused:
        await world.client.create(node("n2", "172.16.1.0/24"))
    assert refused.value.code == 422
    assert [error.path for error in refused.value.errors] == ["spec.podCIDR"]
    assert '"172.16.1.0/24" overlaps 172.16.0.0/23, which node n1 has' in refused.value.message
    with pytest.raises(Invalid, match=r"overlaps 172\.16\.0\.0/23"):
        await world.client.create(node("n2", "172.16.0.0/16"))
    assert await world.keys(CLAIMS) == {"172.16.0.0_23"}


async def test_a_change_claims_the_new_and_gives_back_the_old(world: World) -> None:
    made = await world.client.create(node("n1"))
    assert await world.keys(CLAIMS) == set()
    made = await world.client.update(with_cidr(made, "172.16.0.0/24"))
    made = await world.client.update(with_cidr(made, "172.16.7.0/24"))
    assert await world.keys(CLAIMS) == {"172.16.7.0_24"}
    # Wider than, and over, what the node itself has.
    await world.client.update(with_cidr(made, "172.16.0.0/16"))
    assert await world.keys(CLAIMS) == {"172.16.0.0_16"}


async def test_a_network_that_is_left_out_of_an_update_stays(world: World) -> None:
    made = await world.client.create(node("n1", "172.16.0.0/24"))
    kept = await world.client.update(with_cidr(made, ""))
    assert kept.spec.pod_cidrs == ("172.16.0.0/24",)
    assert await world.keys(CLAIMS) == {"172.16.0.0_24"}


async def test_a_status_update_costs_no_claim(world: World) -> None:
    made = await world.client.create(node("n1", "172.16.0.0/24"))
    status = replace(made.status, phase="Running")
    await world.client.update(replace(made, status=status), subresource="status")
    assert await world.keys(CLAIMS) == {"172.16.0.0_24"}


async def test_a_node_of_before_the_claims_may_still_go(world: World) -> None:
    await world.client.create(node("n1", "172.16.0.0/24"))
    await world.store.commit([Delete(f"{CLAIMS}172.16.0.0_24")])
    await world.client.delete(NODE, "n1")
    assert await world.client.list(NODE) is not None
    await world.client.create(node("n1", "172.16.0.0/24"))
    assert await world.keys(CLAIMS) == {"172.16.0.0_24"}


#: What nodes ask for: pieces of a small net, of several sizes, so that most of them overlap.
ASKED = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from([22, 23, 24, 24, 24, 25])), min_size=2, max_size=9
)


@settings(max_examples=40, deadline=None)
@given(asked=ASKED, rounds=st.integers(1, 2))
def test_of_proposals_made_at_once_no_two_that_overlap_are_accepted(
    asked: list[tuple[int, int]], rounds: int
) -> None:
    async def race() -> None:
        async with memory_world() as world:
            for turn in range(rounds):
                cidrs = [
                    str(IPv4Network(f"172.16.{(third + turn) % 8}.0/{length}", strict=False))
                    for third, length in asked
                ]
                await asyncio.gather(
                    *(_propose(world, f"n{n}", cidr) for n, cidr in enumerate(cidrs))
                )
                await _check(world)

    asyncio.run(race())


async def test_two_masters_never_give_one_network_to_two_nodes() -> None:
    clock = Clock()
    async with MemoryStore(clock) as store:
        async with registry_on(store, clock) as one, registry_on(store, clock) as other:
            await asyncio.gather(
                *(_propose(one, f"a{n}", f"172.16.{n % 5}.0/24") for n in range(15)),
                *(_propose(other, f"b{n}", f"172.16.{n % 5}.0/24") for n in range(15)),
            )
            await _check(one)
            assert len(await one.keys(CLAIMS)) == 5


async def _propose(world: World, name: str, cidr: str) -> None:
    """Create the node or change it; a refusal must be about the CIDR."""
    try:
        found = [n for n in (await world.client.list(NODE)).items if n.metadata.name == name]
        if found:
            await world.client.update(with_cidr(found[0], cidr))
        else:
            await world.client.create(node(name, cidr))
    except Invalid as error:
        assert [wrong.path for wrong in error.errors] == ["spec.podCIDR"]  # noqa: PT017


async def _check(world: World) -> None:
    await world.registry.read_barrier()
    held = [n.spec.pod_cidr for n in (await world.client.list(NODE)).items if n.spec.pod_cidr]
    for one, other in combinations(map(IPv4Network, held), 2):
        assert not one.overlaps(other)
    assert await world.keys(CLAIMS) == {cidr.replace("/", "_") for cidr in held}
