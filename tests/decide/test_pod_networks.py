"""Which piece of the pod network a node asks for, and who holds what."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.kinds.node.types import Node, NodeSpec
from k8slite.api.meta import ObjectMeta
from k8slite.decide.podcidrs import Holdings
from k8slite.decide.pods.network import proposal

NET = "172.16.0.0/16"
PIECES = st.integers(0, 5).map(lambda n: f"172.16.{n}.0/24")
SOME = st.lists(PIECES, max_size=4)
MAYBE = st.one_of(st.just(""), PIECES, st.just("10.9.0.0/24"))


@given(have=MAYBE, known=MAYBE, others=SOME, host=SOME)
def test_a_proposal_lies_in_the_net_and_clashes_with_nothing(
    have: str, known: str, others: list[str], host: list[str]
) -> None:
    asked = IPv4Network(proposal(NET, have, known, others, host))
    assert asked.subnet_of(IPv4Network(NET))
    assert not any(asked.overlaps(IPv4Network(other)) for other in others)
    # The host's own network is among what the host routes.
    assert str(asked) == have or not any(asked.overlaps(IPv4Network(other)) for other in host)


@given(have=MAYBE, known=PIECES)
def test_what_the_cluster_knows_comes_first(have: str, known: str) -> None:
    assert proposal(NET, have, known, [], []) == known


def test_what_stands_is_kept_before_something_new_is_made() -> None:
    assert proposal(NET, "172.16.4.0/24", "", ["172.16.0.0/24"], []) == "172.16.4.0/24"
    assert proposal(NET, "172.16.4.0/24", "", ["172.16.4.0/24"], []) == "172.16.0.0/24"


def test_a_full_net_is_said() -> None:
    with pytest.raises(ValueError, match="no free /24 is left in 172"):
        proposal("172.16.0.0/23", "", "", ["172.16.0.0/24"], ["172.16.1.0/24"])


CIDRS = st.tuples(st.integers(0, 15), st.integers(20, 28)).map(
    lambda pair: str(IPv4Network(f"172.16.{pair[0]}.0/{pair[1]}", strict=False))
)


@given(
    nodes=st.lists(st.tuples(st.integers(0, 3), CIDRS), max_size=12),
    gone=st.integers(0, 12),
    asked=CIDRS,
    by=st.integers(0, 3),
)
def test_an_overlap_is_found_exactly_when_there_is_one(
    nodes: list[tuple[int, str]], gone: int, asked: str, by: int
) -> None:
    made = [
        Node(metadata=ObjectMeta(name=f"n{n}"), spec=NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,)))
        for n, cidr in nodes
    ]
    holdings = Holdings()
    for node in made:
        holdings.put(node)
    for node in made[:gone]:
        holdings.remove(node)
    there = any(
        node.metadata.name != f"n{by}"
        and IPv4Network(node.spec.pod_cidr).overlaps(IPv4Network(asked))
        for node in made[gone:]
    )
    found = holdings.overlapping(asked, f"n{by}")
    assert (found is not None) == there
    if found is not None:
        assert IPv4Network(found.cidr).overlaps(IPv4Network(asked))
        assert found.node != f"n{by}"
