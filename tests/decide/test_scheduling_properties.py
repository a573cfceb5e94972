"""Whatever happens in whatever order: no port twice, no node over capacity, fair spreading, and a
kept ranking answers as one made from nothing."""

from __future__ import annotations

import random
from collections import Counter

from cluster_objects import WEB, node, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.decide.scheduling import Algorithm, Snapshot, policy
from k8slite.decide.scheduling.demand import demand_of

NODES = [f"n{number}" for number in range(4)]

#: What can happen: pods come (of some sort), go, nodes fail, recover, come and go.
happenings = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"),
            st.sampled_from(((), (80,), (81,), (80, 81))),
            st.integers(0, 8),
            st.integers(0, 8),
        ),
        st.tuples(st.just("go"), st.integers(0, 30)),
        st.tuples(st.just("node"), st.sampled_from(NODES), st.booleans()),
        st.tuples(st.just("lost"), st.sampled_from(NODES)),
    ),
    max_size=60,
)


def play(events: list[tuple[object, ...]], seed: int) -> Snapshot:
    """Let ``events`` happen to a scheduler, checking each of its decisions."""
    snapshot, rng = Snapshot(), random.Random(seed)
    algorithm = Algorithm(policy.default(), snapshot)
    for name in NODES:
        snapshot.set_node(node(name, cpu="1", memory="1Gi", pods="6"))
    names: list[str] = []
    for number, event in enumerate(events):
        if event[0] == "come":
            _, ports, cpu, memory = event
            requests = {"cpu": f"{cpu}00m", "memory": f"{memory}00Mi"}  # type: ignore[str-bytes-safe]
            wanted = pod(f"p{number}", host_ports=ports, requests=requests)  # type: ignore[arg-type]
            decision = algorithm.decide(wanted, rng)
            fresh = Algorithm(policy.default(), snapshot).decide(wanted, rng)
            assert bool(decision.node) == bool(fresh.node)
            assert decision.score == fresh.score
            assert decision.reasons == fresh.reasons
            if decision.node:
                snapshot.place(wanted, decision.node, decision.demand)
                names.append(wanted.key)
        elif event[0] == "go" and names:
            snapshot.remove(names.pop(event[1] % len(names)))  # type: ignore[operator]
        elif event[0] == "node":
            ready = "True" if event[2] else "False"
            snapshot.set_node(node(str(event[1]), cpu="1", memory="1Gi", pods="6", ready=ready))
        elif event[0] == "lost":
            snapshot.remove_node(str(event[1]))
        check(snapshot)
    return snapshot


def check(snapshot: Snapshot) -> None:
    for state in snapshot.nodes.values():
        demands = [placement.demand for placement in state.pods.values()]
        assert state.used_cpu == sum(d.cpu for d in demands) <= state.cpu
        assert state.used_memory == sum(d.memory for d in demands) <= state.memory
        assert len(state.pods) <= 6
        taken = Counter(port for d in demands for port in d.ports)
        assert all(count == 1 for count in taken.values())


@given(happenings, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_port_is_given_twice_and_no_node_is_overfilled(
    events: list[tuple[object, ...]], seed: int
) -> None:
    play(events, seed)


@given(happenings)
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_decisions(events: list[tuple[object, ...]]) -> None:
    one, two = (
        {name: set(state.pods) for name, state in play(events, 7).nodes.items()} for _ in range(2)
    )
    assert one == two


@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_replicas_spread_evenly_over_equal_nodes(nodes: int, pods: int, seed: int) -> None:
    snapshot, rng = Snapshot(), random.Random(seed)
    algorithm = Algorithm(policy.default(), snapshot)
    for number in range(nodes):
        snapshot.set_node(node(f"n{number}", cpu="64", memory="256Gi"))
    snapshot.set_selector("controller", "default", "web", WEB)
    for number in range(pods):
        wanted = pod(f"p{number}", labels=WEB)
        snapshot.place(wanted, algorithm.decide(wanted, rng).node)
    counts = [len(state.pods) for state in snapshot.nodes.values()]
    assert max(counts) - min(counts) <= 1


@given(st.integers(150, 400), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_large_cluster_is_filled_to_the_last_place(nodes: int, seed: int) -> None:
    """Looking at only some nodes at a time loses no place in the end."""
    snapshot, rng = Snapshot(), random.Random(seed)
    algorithm = Algorithm(policy.default(), snapshot)
    for number in range(nodes):
        snapshot.set_node(node(f"n{number}", pods="1"))
    for number in range(nodes):
        wanted = pod(f"p{number}")
        decision = algorithm.decide(wanted, rng)
        assert decision.node, decision.message
        snapshot.place(wanted, decision.node, decision.demand)
    assert algorithm.decide(pod("one-more"), rng).message == (
        f"0/{nodes} nodes fit: {nodes} PodFitsResources (pods)"
    )


def test_a_pod_known_before_its_node_counts_when_the_node_comes() -> None:
    snapshot = Snapshot()
    snapshot.place(pod("early", on="a", requests={"cpu": "3"}))
    snapshot.set_node(node("a"))
    assert snapshot.nodes["a"].used_cpu == 3000


def test_the_same_news_twice_is_no_change() -> None:
    snapshot = Snapshot()
    assert snapshot.set_node(node("a"))
    assert snapshot.place(pod("p", on="a"))
    version = snapshot.version
    assert not snapshot.set_node(node("a"))
    assert not snapshot.place(pod("p", on="a"))
    assert snapshot.version == version


def test_the_greediest_init_container_counts_when_it_asks_for_more() -> None:
    small = pod("p", requests={"cpu": "100m"})
    big = pod("q", requests={"cpu": "1"}).spec.containers
    both = pod("r", requests={"cpu": "100m"}, init_containers=big)
    assert (demand_of(small).cpu, demand_of(both).cpu) == (100, 1000)
